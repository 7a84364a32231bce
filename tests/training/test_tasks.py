"""train.eval_tasks: what a model in training does of lm-evaluation-harness' tasks, where that is installed."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from est_cli.common.errors import ConfigError
from est_cli.common.rank import Rank
from est_cli.tracking.metrics import MetricsFile, read_metrics
from est_cli.tracking.names import named
from est_cli.tracking.records import In, record_of
from est_cli.training.build import build
from est_cli.training.start import Start
from est_cli.training.tasks import numbers_of
from tests.lab.commands import accepted
from tests.lab.lab import TINY, WORDS, Lab, outcome, write_corpus

HAS_HARNESS = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(not HAS_HARNESS, reason="the extra lm-eval is not installed")

CHOICE = """
task: two_words
dataset_path: json
dataset_kwargs: {data_files: {validation: FILE}}
validation_split: validation
output_type: multiple_choice
doc_to_text: text
doc_to_target: label
doc_to_choice: [fox jumps, lazy dog]
num_fewshot: 2
fewshot_split: validation
metric_list: [{metric: acc}]
"""
ROLLING = """
task: whole_texts
dataset_path: json
dataset_kwargs: {data_files: {validation: FILE}}
validation_split: validation
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list: [{metric: bits_per_byte}]
"""


def test_names_of_its_numbers() -> None:
    assert named({"step": 3, "tokens": 4, "event": "tasks", "tasks": {"a/acc": 0.5, "b/f1": 1.0}}) == {
        "step": 3, "tokens": 4, "est/event": "tasks", "eval/a/acc": 0.5, "eval/b/f1": 1.0
    }  # fmt: skip


def test_what_is_not_finite_is_no_number(tmp_path: Path) -> None:
    """A model whose loss is large has an infinite perplexity, which metrics.jsonl and summary.json refuse."""
    found = numbers_of(
        ["a", "b"], {"a": {"acc,none": 0.5, "f1,strict": math.nan, "alias": "a"}, "b": {"ppl": math.inf}}
    )
    assert found == {"a/acc": 0.5}
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append(record_of(In.tasks, {"event": "tasks", "step": 1, "tokens": 2, "tasks": found}))
    assert read_metrics(file.path)[0]["tasks"] == found


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("train.eval_tasks=[arc]",), r"train\.eval_tasks: needs lm-evaluation-harness; pip install 'est-cli\[lm-eval"),
        (("train.eval_tasks=[a,a]",), r"train\.eval_tasks: \['a', 'a'\] must be different names"),
        (("train.eval_tasks_every=5",), r"train\.eval_tasks_every: has a meaning only with train\.eval_tasks"),
        (("train.eval_tasks_dir=none",), r"train\.eval_tasks_dir: there is no folder none"),
    ],
)
def test_what_is_refused(monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], told: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=told):
        accepted(*args)


def own_tasks(folder: Path) -> Path:
    """A folder of two tasks, on texts like those of the tiny corpus."""
    rng = random.Random(1)
    rows = [{"text": " ".join(rng.choices(WORDS, k=4 + n)), "label": n % 2} for n in range(7)]
    (folder / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tasks").mkdir()
    for name, text in (("two_words", CHOICE), ("whole_texts", ROLLING)):
        (folder / "tasks" / f"{name}.yaml").write_text(text.replace("FILE", str(folder / "rows.json")))
    return folder / "tasks"


def with_tasks(lab: Lab) -> tuple[str, ...]:
    own_tasks(lab.folder)
    return ("train.eval_tasks=[two_words,whole_texts]", "train.eval_tasks_every=6", "train.eval_tasks_dir=tasks")


def tasks_in(run: Path) -> dict[int, dict[str, float]]:
    return {record["step"]: record["tasks"] for record in read_metrics(run / "metrics.jsonl") if "tasks" in record}


@needs_harness
def test_a_run_with_tasks_is_the_same_run_and_continues(lab: Lab, golden: Callable[..., dict[str, Any]]) -> None:
    tasks = with_tasks(lab)
    ended = lab.tiny("whole", *tasks)
    assert ended.code == 0, ended.err
    found = tasks_in(lab.at("whole"))
    assert sorted(found) == [6, 12, 18, 24, 30]
    assert all(set(numbers) == {"two_words/acc", "whole_texts/bits_per_byte"} for numbers in found.values())
    assert len({numbers["whole_texts/bits_per_byte"] for numbers in found.values()}) == 5, "the model learns"
    assert json.loads((lab.at("whole") / "summary.json").read_text())["tasks"] == found[30]
    assert _without_tasks(outcome(lab.at("whole"))) == _without_tasks(golden()), "the bits of training are as without"

    killed = ("at_step", "est_cli.training.train.train_step", 19, "before", "SIGKILL")
    assert lab.tiny("x", *tasks, plants=[killed]).code == -9
    assert lab.tiny("x", *tasks).code == 0
    assert tasks_in(lab.at("x")) == found

    ended = lab.tool(
        "eval", f"checkpoint={lab.at('whole')}", "task=lm_eval:two_words,whole_texts", "eval.data_dir=tasks"
    )
    assert ended.code == 0, ended.err
    records = json.loads((lab.at("whole") / "zero_shot.json").read_text())["records"]
    by_task = {record["task"]: record["results"] for record in records}
    assert by_task["lm_eval:two_words"]["acc"] == found[30]["two_words/acc"]
    wanted = by_task["lm_eval:whole_texts"]["bits_per_byte"]
    assert found[30]["whole_texts/bits_per_byte"] == pytest.approx(wanted, rel=1e-5)


def _without_tasks(found: dict[str, Any]) -> dict[str, Any]:
    """An outcome as it is of a run without tasks."""
    return dict(_pruned(json.loads(json.dumps(found, default=str))))


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _pruned(one) for key, one in value.items() if "tasks" not in str(key)}
    if isinstance(value, list):
        return [_pruned(one) for one in value if not (isinstance(one, dict) and one.get("event") == "tasks")]
    return value


@needs_harness
def test_several_processes_share_the_work(lab: Lab) -> None:
    tasks = with_tasks(lab)
    first, second = lab.tiny_ranks(2, "x", *tasks)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert sorted(tasks_in(lab.at("x"))) == [6, 12, 18, 24, 30]


@needs_harness
def test_a_task_that_nobody_knows_is_told_before_the_first_step(lab: Lab) -> None:
    ended = lab.tiny("x", "train.eval_tasks=[no_such_task]")
    assert ended.code == 2
    assert "train.eval_tasks: lm-evaluation-harness knows no task 'no_such_task'" in ended.last_words[0]
    tasks = with_tasks(lab)
    (lab.folder / "rows.json").unlink()
    ended = lab.tiny("y", *tasks)
    assert ended.code == 3 and "train.eval_tasks: cannot be opened (" in ended.last_words[0]


def test_tasks_are_opened_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And before trackers are, which nobody would close."""

    def refuse(train: object) -> None:
        raise ConfigError("train.eval_tasks: no such task")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("est_cli.training.parts.open_tasks", refuse)
    text = write_corpus(tmp_path / "corpus.jsonl")
    config = accepted(*TINY, f"dataset.files={text}", "run_name=x", "tracking.also=[tensorboard]")
    with pytest.raises(ConfigError, match="no such task"), build(Start.of(config, None)):
        raise AssertionError("it is built")
    assert not (tmp_path / "outputs").exists()
    assert "tensorboard" not in [thread.name for thread in threading.enumerate()]


class OneOf:
    """A process among several: what it would send is kept, and the answer is made of what the others sent."""

    def __init__(self, rank: int, size: int, sent: dict[int, list[float]]) -> None:
        self.rank, self._sent = Rank(rank, size), sent

    def sum(self, numbers: list[float]) -> list[float]:
        self._sent[self.rank.rank] = list(numbers)
        return np.sum([*self._sent.values()], axis=0).tolist()


@needs_harness
@pytest.mark.parametrize("size", [2, 3, 5])
def test_shares_are_those_of_one_process_to_the_last_bit(tmp_path: Path, size: int) -> None:
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from est_cli.training.harness_model import harness_model
    from tests.lab.small_models import save

    tokenizer = AutoTokenizer.from_pretrained(save(tmp_path / "model"))
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=50, n_positions=16, **ids)).eval()
    rng = random.Random(0)
    requests: list[Any] = [
        (None, rng.choices(range(1, 50), k=rng.randint(1, 9)), rng.choices(range(1, 50), k=rng.randint(1, 3)))
        for _ in range(23)
    ]
    requests[5] = requests[11]
    run: Any = SimpleNamespace(corpus=SimpleNamespace(tokenizer=tokenizer), model=model, micro_batches={1: 4})
    with torch.no_grad():
        alone = harness_model(run, None)._loglikelihood_tokens(requests)
        sent: dict[int, list[float]] = {}
        for rank in range(size):
            group: Any = OneOf(rank, size, sent)
            together = harness_model(run, group)._loglikelihood_tokens(requests)
    assert together == alone
    assert all(np.count_nonzero(numbers) for numbers in list(sent.values())[: -(-23 // 4)])
