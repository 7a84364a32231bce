"""Which run a command line means, and everything that is refused rather than overwritten."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.lab.lab import Lab, Server, outcome, tree_hash, write_corpus

SHORT = ("train.max_steps=6", "stage.t1=2", "stage.t2=4", "train.checkpoint_every=2", "train.eval_every=0")
STOP_AT_5 = ("at_step", "est_cli.training.train.train_step", 4, "after", "SIGTERM")


@pytest.fixture
def finished(lab: Lab) -> Lab:
    assert lab.tiny("x", *SHORT).code == 0
    return lab


@pytest.fixture
def stopped(lab: Lab) -> Lab:
    """outputs/x stopped by SIGTERM after step 5 of 6."""
    assert lab.tiny("x", *SHORT, plants=[STOP_AT_5]).code == 143
    return lab


@pytest.mark.parametrize("how", ["a path", "auto by name", "auto by its settings"])
def test_a_finished_run_says_so_and_changes_nothing(finished: Lab, how: str) -> None:
    before = tree_hash(finished.at("x"))
    ended = {
        "a path": lambda: finished.train("resume=outputs/x"),
        "auto by name": lambda: finished.tiny("x", *SHORT),
        "auto by its settings": lambda: finished.train(*finished.arguments(*SHORT, "resume=auto")),
    }[how]()
    more = "resume=outputs/x train.max_steps=12 makes it longer\n"
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"outputs/x: this run is finished, nothing is left to do; {more}"
    assert tree_hash(finished.at("x")) == before
    assert [path.name for path in (finished.folder / "outputs").iterdir()] == ["x"]


def test_auto_takes_the_unfinished_run_with_the_same_settings(stopped: Lab) -> None:
    other = stopped.train(*stopped.arguments(*SHORT, "resume=auto", "optim.lr=0.002", "run_name=other"))
    assert other.code == 0, other.err
    same = stopped.train(*stopped.arguments(*SHORT, "resume=auto", "train.log_every=3"))
    assert same.code == 0 and "resumed   after step 5" in same.err
    assert {path.name for path in (stopped.folder / "outputs").iterdir()} == {"x", "other"}


def test_auto_without_anything_to_continue_starts_a_run_named_by_itself(stopped: Lab) -> None:
    ended = stopped.train(*stopped.arguments(*SHORT, "resume=auto", "seed=1"))
    assert ended.code == 0 and "resumed" not in ended.err
    names = {path.name for path in (stopped.folder / "outputs").iterdir()} - {"x"}
    assert len(names) == 1 and names.pop().startswith("gpt2_tiny-three_stage-")


@pytest.mark.slow
@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_a_name_that_is_taken_is_refused(request: pytest.FixtureRequest, state: str) -> None:
    lab: Lab = request.getfixturevalue(state)
    before = tree_hash(lab.folder / "outputs")
    ended = lab.train(*lab.arguments(*SHORT, "run_name=x"))
    assert ended.code == 2 and len(ended.last_words) == 1
    assert ended.last_words[0].startswith("est-train: error: run_name: outputs/x is ")
    assert tree_hash(lab.folder / "outputs") == before


def test_resume_of_something_that_is_no_run(lab: Lab) -> None:
    ended = lab.train("resume=outputs/nothing")
    assert ended.code == 2 and ended.last_words[0].startswith("est-train: error: resume: outputs/nothing is not ")
    assert not (lab.folder / "outputs").exists()


def test_two_trainers_in_one_run(stopped: Lab) -> None:
    """The second is refused, while the first is in the middle of a step and when it waits for its turn at the start."""
    owner = stopped.start(
        "resume=outputs/x", plants=[("at", "est_cli.training.train.train_step", 1, "before", "SIGSTOP")]
    )
    _wait_until_stopped(owner)
    before = tree_hash(stopped.at("x"))
    refused = stopped.train("resume=outputs/x")
    assert refused.code == 8
    expected = f"est-train: error: outputs/x: in use by process {owner}; wait until it ends, or choose another run_name"
    assert refused.last_words == [expected]
    assert tree_hash(stopped.at("x")) == before
    os.kill(owner, signal.SIGCONT)
    assert stopped.ended(owner).code == 0


def test_two_new_runs_of_one_name_at_the_same_moment(lab: Lab) -> None:
    arguments = lab.arguments(*SHORT, "run_name=x")
    first = lab.start(*arguments, plants=[("at", "est_cli.training.folder.lock", 1, "before", "SIGSTOP")])
    _wait_until_stopped(first)
    assert lab.train(*arguments).code == 0
    before = tree_hash(lab.at("x") / "checkpoints")
    os.kill(first, signal.SIGCONT)
    assert lab.ended(first).code == 2, "it found an empty folder, but it is too late"
    assert tree_hash(lab.at("x") / "checkpoints") == before and (lab.at("x") / "summary.json").exists()


def _wait_until_stopped(pid: int) -> None:
    for _ in range(2000):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return
        time.sleep(0.01)
    raise AssertionError("it never stopped")


FROZEN = {
    "optim.lr=0.002": "optim.lr: the run in outputs/x was started with 0.001, not 0.002",
    "stage.t1=1.0": "stage.t1: the run in outputs/x was started with 1, not 1.0",
    "seed=1": "seed: the run in outputs/x was started with 0, not 1",
    "model=llama_tiny": "model.",
    "run_name=y": "run_name: the run in outputs/x was started with 'x', not 'y'",
}


def test_keys_that_define_the_run_cannot_change(lab: Lab) -> None:
    short = [item for item in SHORT if not item.startswith("stage.t1")]
    assert lab.tiny("x", *short, "stage.t1=1", plants=[STOP_AT_5]).code == 143
    before = tree_hash(lab.at("x"))
    for override, message in FROZEN.items():
        ended = lab.train("resume=outputs/x", override)
        assert ended.code == 2, override
        assert len(ended.last_words) == 1 and ended.last_words[0].startswith(f"est-train: error: {message}")
    assert tree_hash(lab.at("x")) == before


def test_keys_that_do_not_define_the_run_may_change(stopped: Lab) -> None:
    free = ("train.micro_batch=4", "train.log_every=0", "train.eval_every=1", "train.keep_last=5", "tracking.tags=[a]")
    assert stopped.train("resume=outputs/x", *free, "optim.lr=0.001").code == 0
    assert "log_every: 1" in (stopped.at("x") / "config.yaml").read_text(), "the record of how it began stays"


def test_another_text_is_refused(server: Server, tmp_path: Path) -> None:
    """The same path, but what it holds has changed since."""
    corpus = write_corpus(tmp_path / "mine.jsonl")
    lab = Lab(server, tmp_path, corpus)
    assert lab.tiny("y", *SHORT, plants=[STOP_AT_5]).code == 143
    write_corpus(corpus, seed=1)
    before = tree_hash(lab.at("y"))
    ended = lab.train("resume=outputs/y")
    assert ended.code == 4 and len(ended.last_words) == 1
    assert "was made with another dataset" in ended.last_words[0]
    assert tree_hash(lab.at("y")) == before
    write_corpus(corpus)
    assert lab.train("resume=outputs/y").code == 0


def test_a_damaged_newest_checkpoint_is_skipped(stopped: Lab) -> None:
    assert stopped.tiny("whole", *SHORT).code == 0
    _flip_a_bit(stopped.at("x") / "checkpoints/step-000005/model.safetensors")
    ended = stopped.train("resume=outputs/x")
    assert ended.code == 0 and "resumed   after step 4" in ended.err
    warnings = [line for line in ended.err.splitlines() if "this checkpoint is skipped" in line]
    assert len(warnings) == 1 and "step-000005/model.safetensors" in warnings[0]
    assert outcome(stopped.at("x")) == outcome(stopped.at("whole"))
    assert (stopped.at("x") / "checkpoints/aside-step-000005-0").is_dir(), "damaged ones are kept, out of the way"


def test_where_no_checkpoint_is_intact_the_run_does_not_start_afresh(stopped: Lab) -> None:
    for path in (stopped.at("x") / "checkpoints").glob("*/optim.safetensors"):
        _flip_a_bit(path)
    before = tree_hash(stopped.at("x"))
    for resume in ("resume=outputs/x", "resume=auto"):
        ended = stopped.train(*stopped.arguments(*SHORT, resume, "run_name=x"))
        assert ended.code == 4 and len(ended.last_words) == 1 and "is intact" in ended.last_words[0]
    assert tree_hash(stopped.at("x")) == before


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def test_too_little_text_leaves_no_folder(server: Server, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "short.jsonl", documents=1)
    lab = Lab(server, tmp_path, corpus)
    ended = lab.tiny("x", "model.max_positions=4096", "train.seq_len=4096",
                     "train.tokens_per_step=4096")  # fmt: skip
    assert ended.code == 3 and len(ended.last_words) == 1, ended.err
    assert not (lab.folder / "outputs").exists()
