"""B4: eight bugs are planted, and each must turn a check of the suite red that is green without it.

A suite that cannot fail proves nothing. Where a bug shows in the product's own behaviour (a rank that draws its own
indices ends the run) the check that all is well is what must fail.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from est_cli.storage import manifest
from tests.faults.planted import planted
from tests.faults.size import either, only_full
from tests.faults.test_crash_points import skip_without_strace, synced_before_its_name, with_three, write
from tests.faults.test_ranks import own_draws
from tests.faults.victims import STEP, Golden, assert_same, finished, killed
from tests.lab.lab import T1, Lab, Plant
from tests.storage.test_damage import NAMES
from tests.storage.test_damage import test_truncated_anywhere as truncated_anywhere

pytestmark = pytest.mark.row("B4")

DROPOUT = ("model.dropout=0.1",)
CONTINUED: dict[str, tuple[Plant, tuple[str, ...]]] = {
    "optimizer state dropped": (("drop_optimizer_state",), ()),
    "a batch skipped": (("skip_a_batch",), ()),
    "reseeded": (planted("reseed_at_start"), DROPOUT),
    "learning rate shifted by one": (("shift_the_learning_rate",), ()),
    "an index draw reused": (("reuse_the_last_draw",), ()),
}
"""What goes wrong in the process that continues a run, and the settings with which it matters."""


@pytest.mark.parametrize("bug", either(list(CONTINUED), ["reseeded"]))
def test_a_run_that_is_continued_wrongly(lab: Lab, golden: Golden, bug: str) -> None:
    plant, settings = CONTINUED[bug]
    expected = golden(*settings)
    killed(lab, "x", ("at_step", STEP, T1 + 4, "before"), *settings)
    found = finished(lab, "x", *settings, plants=[plant])
    for part in ("records", "sha256"):
        with pytest.raises(AssertionError):
            assert_same({part: found[part]}, {part: expected[part]})
    killed(lab, "y", ("at_step", STEP, T1 + 4, "before"), *settings)
    assert_same(finished(lab, "y", *settings), expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_that_nobody_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    truncated_anywhere(tmp_path / "right", name)
    monkeypatch.setattr(manifest, "check_file", lambda *_: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        truncated_anywhere(tmp_path / "wrong", name)


def test_a_name_given_before_the_files_are_synced(tmp_path: Path) -> None:
    skip_without_strace()
    folder = with_three(tmp_path / "x")
    assert write(folder, tmp_path / "log", arguments=("late",)) == 0
    assert not synced_before_its_name(tmp_path / "log", folder)


OWN = 70


@only_full
def test_a_rank_that_draws_its_own(lab: Lab) -> None:
    with pytest.raises(AssertionError):
        own_draws(lab, ("draw_differently", OWN))


@only_full
def test_a_rank_that_draws_its_own_where_nobody_looks(lab: Lab) -> None:
    """The recorded draws show it, too, in case the ranks' own comparison is what is broken."""
    blind = planted("see_no_difference")
    drawn = own_draws(lab, ("draw_differently", OWN), everywhere=[blind])
    with pytest.raises(AssertionError):
        assert drawn == [True] * 200
    assert drawn.count(False) == 1 and not drawn[OWN]
