"""The inverse of the ledger: found boundaries, put back into the ledger, save what was asked for."""

from __future__ import annotations

import pytest

from est_cli.arch import spec_of
from est_cli.est import SamplingRates, SamplingScheduler, dense, three_stage
from est_cli.est.flops import planned_ledger
from est_cli.est.sizes import SamplingOptions
from est_cli.est.target import boundaries_for, stage_savings

from .models import FAMILIES, config_of

OPTIONS = SamplingOptions()
SEQ_LEN = 16
RATES = SamplingRates(0.4, 0.6, 0.4)


def ends(scheduler: SamplingScheduler) -> list[int]:
    return [stage.until_step for stage in scheduler.stages]


def savings_of(family: str, scheduler: SamplingScheduler, convention: str) -> list[float]:
    return stage_savings(spec_of(config_of(family)), scheduler, OPTIONS, SEQ_LEN, convention)


@pytest.mark.parametrize("convention", ["blocks", "total"])
@pytest.mark.parametrize("family", FAMILIES)
def test_savings_of_a_stage_are_those_of_its_ledger(family: str, convention: str) -> None:
    scheduler, spec = three_stage(10, 4, 7, RATES), spec_of(config_of(family))
    savings = savings_of(family, scheduler, convention)
    for saving, (t1, t2) in zip(savings, [(10, 10), (0, 10), (0, 0)], strict=True):
        ledger = planned_ledger(spec, three_stage(10, t1, t2, RATES), OPTIONS, 3, SEQ_LEN)
        assert 100 * saving == pytest.approx(ledger.saved_pct(convention), abs=1e-9)
    assert savings[0] > savings[1] > savings[2] == 0.0


@pytest.mark.parametrize("keep", ["ratio", "t1", "t2"])
@pytest.mark.parametrize("convention", ["blocks", "total"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("steps", [97, 1000, 150_000])
def test_what_is_found_saves_what_was_asked_for(family: str, convention: str, keep: str, steps: int) -> None:
    scheduler = three_stage(steps, 0.2, 0.6, RATES)
    savings = savings_of(family, scheduler, convention)
    lowest, highest = reach(scheduler, savings, keep)
    for share in (0.001, 0.3, 0.77, 1.0):
        wanted = lowest + share * (highest - lowest)
        found = boundaries_for(wanted, scheduler, savings, keep)
        ledger = planned_ledger(spec_of(config_of(family)), found, OPTIONS, 5, SEQ_LEN)
        assert abs(ledger.saved_pct(convention) / 100 - wanted) <= 1 / steps
        assert [stage.rates for stage in found.stages] == [stage.rates for stage in scheduler.stages]
        assert found.max_steps == steps
        kept = {"t1": 0, "t2": 1}.get(keep)
        if kept is None:
            assert abs(ends(found)[0] - ends(found)[1] / 3) <= 1
        else:
            assert ends(found)[kept] == ends(scheduler)[kept]


def reach(scheduler: SamplingScheduler, savings: list[float], keep: str) -> tuple[float, float]:
    """The least and the most that can be saved, by trying the outermost boundaries."""
    t1, t2, steps = ends(scheduler)
    outermost = {"ratio": [(0, 0), (steps * t1 / t2, steps)], "t1": [(t1, t1), (t1, steps)], "t2": [(0, t2), (t2, t2)]}
    low, high = ((a * savings[0] + (b - a) * savings[1]) / steps for a, b in outermost[keep])
    return low, high


@pytest.mark.parametrize(
    ("keep", "t1", "t2", "wanted", "found"),
    [
        ("ratio", 0.2, 0.4, 0.25, [200, 400]),  # (200*0.75 + 200*0.5) / 1000
        ("ratio", 0.2, 0.4, 0.125, [100, 200]),
        ("ratio", 0.5, 0.5, 0.75, [1000, 1000]),
        ("t1", 0.2, 0.4, 0.15, [200, 200]),
        ("t1", 0.2, 0.4, 0.55, [200, 1000]),
        ("t2", 0.2, 0.4, 0.2, [0, 400]),
        ("t2", 0.2, 0.4, 0.3, [400, 400]),
        ("t2", 0.2, 0.4, 0.25, [200, 400]),
    ],
)
def test_by_hand(keep: str, t1: float, t2: float, wanted: float, found: list[int]) -> None:
    """Stage 1 saves three quarters, stage 2 a half, as all rates 0.5 do of the blocks."""
    scheduler = three_stage(1000, t1, t2, SamplingRates(0.5, 0.5, 0.5))
    assert ends(boundaries_for(wanted, scheduler, [0.75, 0.5, 0.0], keep)) == [*found, 1000]


@pytest.mark.parametrize(
    ("keep", "wanted", "told"),
    [
        ("ratio", 0.63, "0 to 0.625"),
        ("ratio", -0.1, "0 to 0.625"),
        ("t1", 0.14, "0.15 to 0.55"),
        ("t1", 0.56, "0.15 to 0.55"),
        ("t2", 0.19, "0.2 to 0.3"),
        ("t2", 0.31, "0.2 to 0.3"),
    ],
)
def test_out_of_reach_is_told_with_what_is_not(keep: str, wanted: float, told: str) -> None:
    scheduler = three_stage(1000, 0.2, 0.4, SamplingRates(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match=f"^target_saving: .* out of reach; with target_keep={keep} .* save {told}$"):
        boundaries_for(wanted, scheduler, [0.75, 0.5, 0.0], keep)


def test_the_told_bounds_are_within_reach() -> None:
    """They are cut to four digits, inwards: 0.5833 for 7/12, not 0.5834, and 0.1334 for 2/15."""
    scheduler = three_stage(900, 0.2, 0.6, SamplingRates(0.5, 0.5, 0.5))
    savings = [0.75, 0.5, 0.0]
    with pytest.raises(ValueError, match=r"save 0 to 0\.5833$"):
        boundaries_for(0.9, scheduler, savings, "ratio")
    boundaries_for(0.5833, scheduler, savings, "ratio")
    third = [2 / 3, 0.5, 0.0]
    with pytest.raises(ValueError, match=r"save 0\.1334 to 0\.5333$"):
        boundaries_for(0.9, scheduler, third, "t1")
    boundaries_for(0.1334, scheduler, third, "t1")


def test_rates_that_save_nothing_reach_nothing() -> None:
    scheduler = three_stage(100, 0.2, 0.4, SamplingRates())
    for keep in ("ratio", "t1", "t2"):
        with pytest.raises(ValueError, match="out of reach"):
            boundaries_for(0.1, scheduler, savings_of("gpt2", scheduler, "blocks"), keep)


def test_dense_saves_nothing_in_its_one_stage() -> None:
    assert savings_of("gpt2", dense(10), "total") == [0.0]
