"""dataset.tokenize=ahead: the same run to the last bit, however the text came; what ends it, and how."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from est_cli.data.text.shares import drawn
from tests.lab.lab import Lab, Plant, Server, outcome, train_records, write_corpus

FILES = 3
PARTS: Plant = ("small_parts", 8000, 1)
"""A part for each file, and one part ahead of the run: X"""
SLOW: Plant = ("tokenise_so", "time.sleep(0.5)")
STEP = "est_cli.training.train.train_step"


@pytest.fixture(scope="module")
def text(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A folder with three files of text, and a run on them that nothing has interrupted: outputs/whole."""
    folder = tmp_path_factory.mktemp("ahead")
    for number in range(FILES):
        write_corpus(folder / f"{number}.jsonl", seed=number)
    made = Lab(server, folder, folder / "*.jsonl")
    ended = run(made, "whole")
    assert ended.code == 0, ended.err
    return made


@pytest.fixture
def lab(text: Lab, tmp_path: Path) -> Lab:
    """The same text in a folder without tokens."""
    return Lab(text.server, tmp_path, text.corpus)


@pytest.fixture
def whole(text: Lab) -> dict[str, Any]:
    return outcome(text.at("whole"))


def run(lab: Lab, name: str, *overrides: str, plants: tuple[Plant, ...] = ()) -> Any:
    return lab.tiny(name, "dataset.tokenize=ahead", *overrides, plants=[PARTS, *plants])


def test_the_same_run_when_all_parts_are_there(text: Lab, whole: dict[str, Any]) -> None:
    ended = run(text, "again")
    assert ended.code == 0 and "waits" not in ended.err, ended.err
    assert "3 of 3 parts are tokenised" in ended.err + ended.out
    assert outcome(text.at("again")) == whole


@pytest.mark.parametrize(
    "loop", [(), pytest.param((("device_works_on_its_own",),), marks=pytest.mark.long)], ids=["plain", "as on a GPU"]
)
def test_a_run_that_outruns_the_processes_waits(lab: Lab, whole: dict[str, Any], loop: tuple[Plant, ...]) -> None:
    ended = run(lab, "x", plants=(SLOW, *loop))
    told = ended.err + ended.out
    assert ended.code == 0 and "waits for its text to be tokenised" in told, ended.err
    assert sum(record["text_wait_s"] for record in train_records(lab.at("x"))) > 0.3
    assert outcome(lab.at("x")) == whole


def test_a_signal_while_the_run_waits(lab: Lab, whole: dict[str, Any]) -> None:
    stop: Plant = ("tokenise_so", "time.sleep(1); os.kill(os.getppid(), signal.SIGTERM); time.sleep(3)")
    ended = run(lab, "x", plants=(stop,))
    assert ended.code == 143 and "saved at step" in ended.last_words[0], ended.err
    assert run(lab, "x").code == 0
    assert continued(outcome(lab.at("x"))) == continued(whole)


def test_a_bad_row_ends_the_run_as_it_does_before_the_start(text: Lab, tmp_path: Path) -> None:
    """In the last part: the tokenizer, which is trained on the beginning, is given here."""
    for number in range(FILES):
        shutil.copyfile(text.corpus.parent / f"{number}.jsonl", tmp_path / f"{number}.jsonl")
    bad = f"{drawn(range(FILES), 0)[-1]}.jsonl"
    with (tmp_path / bad).open("a") as file:
        file.write('{"text": 3}\n')
    lab, tokenizer = Lab(text.server, tmp_path, tmp_path / "*.jsonl"), next((text.folder / "data").glob("tokenizer-*"))
    ended = run(lab, "x", f"tokenizer={tokenizer}")
    assert ended.code == 3 and ended.last_words == lab.tiny("first", f"tokenizer={tokenizer}").last_words, ended.err
    assert f"{bad}:19: the text must be a string" in ended.last_words[0]
    assert "no more text is tokenised, and the run ends where it needs more" in ended.err, "told when it is found"
    assert saved_step(lab) == train_records(lab.at("x"))[-1]["step"], "nothing that was trained is lost"


@pytest.mark.parametrize(
    ("plant", "code", "told"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            3,
            "dataset.num_workers: a process that tokenises was killed by signal 9",
        ),
        ("raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))", 6, "No space left on device"),
    ],
)
def test_what_ends_the_processes_ends_the_run(
    lab: Lab, whole: dict[str, Any], plant: str, code: int, told: str
) -> None:
    """With a checkpoint, from which it goes on when the cause is gone."""
    ended = run(lab, "x", plants=(("tokenise_so", plant),))
    assert ended.code == code and told in ended.last_words[0] and len(ended.last_words) == 1, ended.err
    assert saved_step(lab) == train_records(lab.at("x"))[-1]["step"]
    assert run(lab, "x").code == 0
    assert continued(outcome(lab.at("x"))) == continued(whole)


@pytest.mark.long
def test_two_processes(text: Lab, lab: Lab) -> None:
    """Those of rank 0 tokenise; the other follows, and both wait for what one lacks."""
    small = ("train.max_steps=20", "train.eval_every=0", "dataset.tokenize=ahead")
    planted = [PARTS, SLOW]
    ready = text.tiny_ranks(2, "two", *small, plants={0: [PARTS], 1: [PARTS]})
    assert [ended.code for ended in ready] == [0, 0], ready[0].err
    slow = lab.tiny_ranks(2, "x", *small, plants={0: planted, 1: planted})
    assert [ended.code for ended in slow] == [0, 0], slow[0].err
    assert "waits for its text" in slow[0].err
    assert outcome(lab.at("x")) == outcome(text.at("two"))


@pytest.mark.long
def test_two_processes_that_get_no_more_text(lab: Lab) -> None:
    small = ("train.max_steps=20", "train.eval_every=0", "dataset.tokenize=ahead")
    planted = [PARTS, ("tokenise_so", "os.kill(os.getpid(), signal.SIGKILL)")]
    ended = lab.tiny_ranks(2, "x", *small, plants={0: planted, 1: planted})
    assert [one.code for one in ended] == [3, 3], (ended[0].err, ended[1].err)
    assert "was killed by signal 9" in ended[0].last_words[0]
    assert saved_step(lab) == train_records(lab.at("x"))[-1]["step"]


@pytest.mark.parametrize("settings", [("dataset.tokenize=first",), ()], ids=["named", "left out"])
def test_it_cannot_change(text: Lab, settings: tuple[str, ...]) -> None:
    ended = text.train("resume=whole", *settings)
    if settings:
        assert ended.code == 2 and "dataset.tokenize: the run in" in ended.last_words[0]
    else:
        assert ended.code == 0, "it is finished"


def saved_step(lab: Lab) -> int:
    """Of the newest checkpoint."""
    return max(int(path.name.removeprefix("step-")) for path in (lab.at("x") / "checkpoints").glob("step-*"))


def continued(found: dict[str, Any]) -> dict[str, Any]:
    """An outcome without the checkpoints, of which a stop adds one."""
    return found | {"checkpoints": ...}
