"""Tiny runs that are killed and continued: what must hold of each of them, whatever killed it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from est_cli.storage.store import newest_valid
from tests.lab.lab import Lab, Plant, outcome, train_records

Golden = Callable[..., dict[str, Any]]

INTERVAL = 5
"""Steps from one checkpoint of a tiny run to the next, at most (tests/lab/lab.py)."""
STEP = "est_cli.training.train.train_step"
UPDATE = "est_cli.training.step._update"
PASS = "est_cli.training.step.forward_backward"


def copied(stopped: Lab, folder: Path) -> Lab:
    """The stopped run of the fixture `stopped`, in a folder of its own."""
    (folder / "data").symlink_to(stopped.folder / "data")
    shutil.copytree(stopped.at("x"), folder / "outputs" / "x")
    return Lab(stopped.server, folder, stopped.corpus)


def killed(lab: Lab, name: str, plant: Plant, *overrides: str) -> None:
    """A tiny run, or what is left of it, that is killed where the plant says; a plant ends with the signal's name."""
    ended = lab.tiny(name, *overrides, plants=[(*plant, "SIGKILL")])
    assert ended.code == -9, (plant, ended.err)


def finished(lab: Lab, name: str, *overrides: str, plants: Sequence[Plant] = ()) -> dict[str, Any]:
    """The outcome of a tiny run, or of what is left of it, that nothing interrupts any more."""
    ended = lab.tiny(name, *overrides, plants=plants)
    assert ended.code == 0 and ended.last_words == [] and "Traceback" not in ended.err, ended.err
    return outcome(lab.at(name))


def assert_continues(lab: Lab, golden: Golden, name: str, *overrides: str, plants: Sequence[Plant] = ()) -> None:
    """What is left of a run comes to the same last bit as if nothing had happened."""
    assert_same(finished(lab, name, *overrides, plants=plants), golden(*overrides))


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Two outcomes, or parts of them, to the last bit; tells the parts in which they differ."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == value, f"{key}: {_difference(found[key], value)}"


def _difference(found: Any, expected: Any) -> str:
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        found, expected = next((a, b) for a, b in zip(found, expected, strict=True) if a != b)
    return f"{found!r:.600} instead of {expected!r:.600}"


def resumed_from(run: Path) -> int:
    """The step that the next process continues from; every checkpoint that is there must verify."""
    found = newest_valid(run / "checkpoints", pytest.fail)
    return 0 if found is None else int(found[0].name.removeprefix("step-"))


def work_lost(run: Path) -> int:
    """Steps that are done, as the records say, and must be done again."""
    records = train_records(run) if (run / "metrics.jsonl").exists() else []
    return max((record["step"] for record in records), default=0) - resumed_from(run)
