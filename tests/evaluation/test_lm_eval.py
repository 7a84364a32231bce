"""The checkpoint in lm-evaluation-harness, where that is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from est_cli.cli.entry import enter
from est_cli.common.errors import ConfigError
from est_cli.eval import main
from est_cli.evaluation import zero_shot
from tests.lab.small_models import save

TASK = """
task: two_words
dataset_path: json
dataset_kwargs: {data_files: {validation: FILE}}
validation_split: validation
output_type: multiple_choice
doc_to_text: text
doc_to_target: label
doc_to_choice: [good, bad]
metric_list: [{metric: acc}]
"""


def test_without_it_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"^task: lm_eval:\.\.\. needs .* 'est-cli\[lm-eval\]', or .* '\.\[lm-eval\]'$"
    ):
        zero_shot.require_harness()


def test_a_task_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.chdir(tmp_path)
    AcceleratorState._reset_state()
    (tmp_path / "tasks").mkdir()
    (tmp_path / "rows.json").write_text("".join(f'{{"text": "it is {n}", "label": {n % 2}}}\n' for n in range(8)))
    (tmp_path / "tasks" / "two_words.yaml").write_text(TASK.replace("FILE", str(tmp_path / "rows.json")))
    args = ["est-eval", f"checkpoint={save(tmp_path / 'model')}", "eval.data_dir=tasks", "run_name=x"]
    assert enter("est-eval", main, [*args, "task=lm_eval:two_words"]) == 0
    (record,) = json.loads(Path("outputs/x/zero_shot.json").read_text())["records"]
    assert record["task"] == "lm_eval:two_words" and 0.0 <= record["results"]["acc"] <= 1.0
    assert enter("est-eval", main, [*args, "task=lm_eval:two_wordz"]) == 2
    assert "task: lm-evaluation-harness knows no task 'two_wordz'" in capsys.readouterr().err
