"""What a run tells W&B of itself when it begins, and under which names and id it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from est_cli.common.errors import CheckpointError, StoppedBySignal
from est_cli.common.rank import Rank
from est_cli.config import RunConfig
from est_cli.config.resolve import resolve
from est_cli.est import Flops, FlopsLedger
from est_cli.storage.run_dir import RunDir
from est_cli.tracking import Ending, Job
from est_cli.tracking.names import NAMES, NAMES_OF_BEFORE
from est_cli.training import build
from est_cli.training import tracker as run_tracker
from est_cli.training.facts import facts_of
from est_cli.training.run import RunState
from tests.lab.commands import typed_in


class Sink:
    """Notes what a WandbSink is given."""

    def __init__(
        self, tracking: Any, job: Job, config: Mapping[str, Any], run_dir: Any, warn: Any, names: int, first_step: int
    ) -> None:
        self.job, self.config, self.run_dir, self.names, self.first_step = job, config, run_dir, names, first_step
        self.ending: Ending | None = None

    def line(self, text: str) -> None:
        pass

    def finish(self, ending: Ending) -> None:
        self.ending = ending


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A function that begins the tracking of a run in a state; returns its sink."""
    monkeypatch.setattr(run_tracker, "WandbSink", Sink)
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)

    def begin(state: RunState, *words: str) -> Any:
        config: RunConfig = typed_in("train", "run_name=x", *words)[0]
        progress: Any = SimpleNamespace(line=print, echo=None)
        sink: Any = run_tracker.open_tracker(config, RunDir(tmp_path), state, progress, {"steps": 3}).wandb
        assert progress.echo == sink.line
        return sink

    return begin


def saved(**values: Any) -> RunState:
    """As it comes out of a checkpoint of before, which says nothing of names."""
    state = json.loads(json.dumps(RunState(**values).as_json()))
    del state["tracker_names"]
    return RunState.from_json(state, "")


def test_a_run_that_began_before_goes_on_under_its_id_and_names(told: Any, tmp_path: Path) -> None:
    sink = told(saved(step=5, wandb_run_id="abcd1234"))
    assert (sink.job.run_id, sink.names, sink.first_step) == ("abcd1234", NAMES_OF_BEFORE, 5)
    assert (sink.job.run_name, sink.job.run_dir, sink.job.sweep) == ("x", tmp_path, None)
    assert sink.run_dir == RunDir(tmp_path) and sink.config["est"] == {"steps": 3}
    assert sink.config["optim.lr"] == RunConfig().optim.lr and "dataset.files" not in sink.config


def test_a_fresh_run_has_the_names_of_today() -> None:
    corpus: Any = SimpleNamespace(data_hash="d", tokenizer_hash="t")
    assert build._fresh_state(corpus).tracker_names == NAMES


def test_names_of_tomorrow_are_refused() -> None:
    with pytest.raises(CheckpointError, match="no proper value for tracker_names"):
        RunState.from_json(RunState().as_json() | {"tracker_names": NAMES + 1}, "x")


def test_the_checkpoint_holds_the_id_that_the_run_has(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "agents-1")
    state = RunState(wandb_run_id="abcd1234")
    assert told(state).job.run_id == state.wandb_run_id == "agents-1"
    assert RunState.from_json(state.as_json(), "").wandb_run_id == "agents-1"
    assert told(state := RunState(), "tracking.run_id=mine").job.run_id == state.wandb_run_id == "mine"
    assert told(state := RunState(wandb_run_id="abcd1234"), "sweep=s").job.run_id == "abcd1234"


@pytest.mark.parametrize(
    ("error", "preempted"), [(StoppedBySignal(10, ""), True), (StoppedBySignal(2, ""), False), (OSError(), False)]
)
def test_a_run_that_does_not_come_to_its_end(told: Any, error: BaseException, preempted: bool) -> None:
    sink = told(RunState())
    tracker = run_tracker.Tracker(None, sink)
    run_tracker.stopped(lambda: tracker)(type(error), error, None)
    assert sink.ending == Ending(preempted=preempted)


def test_facts_name_what_is_on_the_hub_and_no_place_here() -> None:
    words = ("dataset=hub", "dataset.hub_ids=[owner/corpus,/home/ann/rows]", "tokenizer=/home/ann/tokenizer")
    config: RunConfig = typed_in("train", "run_name=x", *words)[0]
    config.dataset.revision = ["a" * 40, "-"]
    parts: Any = SimpleNamespace(
        run=resolve(config),
        model=SimpleNamespace(parameters=list),
        spec=SimpleNamespace(vocab_size=7),
        corpus=SimpleNamespace(train=[0] * 5, validation=[0]),
        accelerator=SimpleNamespace(device=SimpleNamespace(type="cpu")),
    )
    planned = FlopsLedger(Flops(1, 2), Flops(2, 4))
    facts = facts_of(config, parts, RunState(data_hash="d", tokenizer_hash="t"), planned, Rank())
    assert facts["hub"] == {"dataset": ["owner/corpus"], "model": None, "tokenizer": None}
    assert facts["revisions"]["dataset"] == ["a" * 40, "-"] and facts["planned"]["flops_saved_pct_total"] == 50
    assert {"est-cli", "python", "torch", "datasets", "wandb"} <= facts["versions"].keys()
    assert (facts["data_hash"], facts["training_tokens"], facts["steps"]) == ("d", 5, 300)
    assert "/home" not in json.dumps(facts) and {"git_commit", "git_dirty"} <= facts.keys()
    config.tracking.commit = False
    assert not {"git_commit", "git_dirty"} & facts_of(config, parts, RunState(), planned, Rank()).keys()
