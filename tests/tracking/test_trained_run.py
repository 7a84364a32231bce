"""An evaluation in W&B is found beside the run whose model it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from est_cli.evaluation import run_evaluation
from est_cli.tracking import Ending, Job
from est_cli.tracking.trained_run import training_run
from tests.lab.commands import typed_in
from tests.lab.made_runs import make_run


def with_checkpoint(folder: Path, state: dict[str, Any], **settings: Any) -> Path:
    make_run(folder, **settings)
    checkpoint = folder / "checkpoints" / "step-000100"
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "state.json").write_text(json.dumps(state))
    (folder / "model").mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("part", ["", "model", "checkpoints/step-000100"])
def test_the_run_of_a_model(tmp_path: Path, part: str) -> None:
    run = with_checkpoint(tmp_path / "x", {"wandb_run_id": "abcd1234"}, sweep="s")
    assert training_run(str(run / part)) == {"run_name": "x", "sweep": "s", "wandb_run_id": "abcd1234"}


@pytest.mark.parametrize("state", [{}, {"wandb_run_id": "../../x"}, {"wandb_run_id": 3}])
def test_what_does_not_say_is_none(tmp_path: Path, state: dict[str, Any]) -> None:
    assert training_run(str(with_checkpoint(tmp_path / "x", state))) is None
    assert training_run(str(tmp_path)) is None and training_run("owner/name") is None


def test_est_eval_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Job, Mapping[str, Any]]] = []
    endings: list[Ending] = []

    class Sink:
        def __init__(self, tracking: Any, job: Job, config: Mapping[str, Any], warn: Any) -> None:
            told.append((job, config))

        def finish(self, ending: Ending) -> None:
            endings.append(ending)

    monkeypatch.setattr(run_evaluation, "WandbSink", Sink)
    run = with_checkpoint(tmp_path / "x", {"wandb_run_id": "abcd1234"}, sweep="s")
    config, _ = typed_in("eval", f"checkpoint={run}")
    with run_evaluation._tracked(config, run, print):
        pass
    ((job, sent),) = told
    assert (job.run_name, job.job_type, job.group) == ("eval-x", "eval", "s") and job.run_id != "abcd1234"
    assert sent["est"]["trained_as"]["wandb_run_id"] == "abcd1234" and sent["eval.epochs"] == config.eval.epochs
    assert endings == [Ending({})]
