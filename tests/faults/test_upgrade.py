"""Checkpoints that earlier versions wrote are continued; those of later ones are refused by name."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from est_cli.storage import content, manifest, strict_json
from est_cli.storage.store import verify_folder
from est_cli.tracking.metrics import read_metrics
from tests.faults.conftest import Tally
from tests.faults.refused import check_ended, unchanged
from tests.faults.size import either, only_full
from tests.lab.lab import TIMES, Ended, Lab, Server
from tests.storage.make_fixture import AT, EXPECTED, NAME, STEPS
from tests.storage.test_content import reseal

pytestmark = pytest.mark.row("U")

FIXTURES = sorted((Path(__file__).parents[1] / "storage" / "fixtures").iterdir())
"""One folder for each form that a checkpoint has had; they are never made again."""
RUN, STEP = f"outputs/{NAME}", f"step-{AT:06d}"
ROUNDED = {"loss", "grad_norm", "val_loss", "perplexity", "loss_before", "loss_after"}
"""What another processor or library may round otherwise; all else is a function of the settings."""


def taken(server: Server, fixture: Path, folder: Path) -> Lab:
    """The fixture in a folder of one's own, where it can be continued."""
    shutil.copytree(fixture, folder, dirs_exist_ok=True)
    return Lab(server, folder, folder / "corpus.jsonl")


def resumed(lab: Lab, *overrides: str) -> Ended:
    return lab.ended(lab.start(f"resume={RUN}", *overrides, plants=[]))


def checkpoint(lab: Lab) -> Path:
    return lab.at(NAME) / "checkpoints" / STEP


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.name)
def test_it_is_continued_as_it_would_have_been(server: Server, tmp_path: Path, tally: Tally, fixture: Path) -> None:
    lab = taken(server, fixture, tmp_path)
    kept = (lab.at(NAME) / "metrics.jsonl").read_bytes()
    ended = resumed(lab)
    assert ended.code == 0, ended.err
    assert (lab.at(NAME) / "metrics.jsonl").read_bytes().startswith(kept)
    records = [record for record in read_metrics(lab.at(NAME) / "metrics.jsonl") if record["step"] > AT]
    expected = json.loads((fixture / EXPECTED).read_text())
    assert len(records) == len(expected) and records[-1]["step"] == STEPS
    for record, then in zip(records, expected, strict=True):
        check(record, then)
    verify_folder(lab.at(NAME) / "checkpoints" / f"step-{STEPS:06d}")
    verify_folder(lab.at(NAME) / "model")
    tally(inputs=1)


def check(record: dict[str, Any], then: dict[str, Any]) -> None:
    """As it was; keys that later versions add do not count, and losses to five digits."""
    for key in then.keys() - TIMES:
        if key in ROUNDED and then[key] is not None:
            assert math.isclose(record[key], then[key], rel_tol=2e-5), (then["step"], key, record[key], then[key])
        else:
            assert record[key] == then[key], (then["step"], key)


def test_a_loss_that_is_another_is_seen() -> None:
    """Steps are further apart than the tolerance: a batch or a draw that is not the right one does not pass."""
    losses = [record["loss"] for record in json.loads((FIXTURES[0] / EXPECTED).read_text()) if "loss" in record]
    assert all(abs(one - other) > 1e-3 for one, other in itertools.pairwise(losses))
    with pytest.raises(AssertionError, match="loss"):
        check({"step": 7, "loss": losses[1]}, {"step": 7, "loss": losses[0]})


def future(path: Path, version: Any) -> None:
    """The same checkpoint as a version of the tool with another form would have sealed it."""
    found = strict_json.read_file(path / manifest.MANIFEST)
    (path / manifest.MANIFEST).write_bytes(strict_json.write_object({**found, "format_version": version}))


@pytest.mark.parametrize("version", either([2, 0, -1, 99, "2", 1.5, None, True], [2]))
def test_a_format_that_is_not_known_is_refused_by_name(
    server: Server, tmp_path: Path, tally: Tally, version: Any
) -> None:
    lab = taken(server, FIXTURES[-1], tmp_path)
    future(checkpoint(lab), version)
    with unchanged(lab.at(NAME)):
        ended = resumed(lab)
        check_ended(ended, 4, "none of its 1 checkpoints is intact")
    told = f"{RUN}/checkpoints/{STEP}/{manifest.MANIFEST}: format version {version!r}; this version of the tool reads 1"
    assert told in ended.err
    tally(inputs=1)


def test_state_of_another_version_is_refused_by_name(server: Server, tmp_path: Path, tally: Tally) -> None:
    lab = taken(server, FIXTURES[-1], tmp_path)
    state = strict_json.read_file(checkpoint(lab) / content.STATE)
    for number, changed in enumerate(({**state, "new": 1}, {key: state[key] for key in state if key != "time_s"})):
        reseal(checkpoint(lab), state=strict_json.write_object(changed))
        with unchanged(lab.at(NAME)):
            line = check_ended(resumed(lab), 4, f"{RUN}/checkpoints/{STEP}: state.json has the keys ")
        assert "another version of est wrote it" in line, number
        tally(inputs=1)


def test_a_setting_of_a_later_version_is_refused_by_name(server: Server, tmp_path: Path, tally: Tally) -> None:
    lab = taken(server, FIXTURES[-1], tmp_path)
    config = lab.at(NAME) / "config.yaml"
    config.write_text(config.read_text() + "newest: 3\n")
    with unchanged(lab.at(NAME)):
        check_ended(resumed(lab), 4, f"{RUN}/config.yaml: newest: unknown key")
    tally(inputs=1)


@only_full
def test_a_setting_that_an_earlier_version_did_not_have_takes_its_default(server: Server, tmp_path: Path) -> None:
    lab = taken(server, FIXTURES[-1], tmp_path)
    config = lab.at(NAME) / "config.yaml"
    lines = [line for line in config.read_text().splitlines() if not line.startswith("share_prefix:")]
    config.write_text("\n".join(lines) + "\n")
    assert resumed(lab).code == 0
