"""The search for a setting: what it finds has the wanted value, as near as the steps of the value allow."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from est_cli.est.target import OutOfReach, longest_within, solve

CURVES: dict[str, Callable[[float], float]] = {
    "line": lambda x: 0.2 + 0.5 * x,
    "falling": lambda x: 0.7 - 0.5 * x,
    "bent": lambda x: 0.2 + 0.5 * x**9,
    "bent the other way": lambda x: 0.2 + 0.5 * x**0.5,
    "falling fast": lambda x: 0.2 + 0.5 * math.exp(-40 * x) * (1 - x),
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("share", [0.0, 1e-4, 0.3, 0.77, 1.0])
def test_what_is_found_has_the_value(name: str, share: float) -> None:
    curve, asked = CURVES[name], []

    def value(x: float) -> float:
        asked.append(x)
        return curve(x)

    wanted = 0.2 + share * 0.5
    found = solve(wanted, value, finest=1e-12, tolerance=1e-7)
    assert abs(curve(found) - wanted) <= 1e-7
    assert len(asked) <= 84 and min(asked) >= 0.0 and max(asked) <= 1.0


def test_a_line_takes_one_look_beyond_its_ends() -> None:
    asked = []
    solve(0.4, lambda x: asked.append(x) or CURVES["line"](x), finest=1e-9, tolerance=1e-7)  # type: ignore[func-returns-value]
    assert len(asked) == 3


@pytest.mark.parametrize(("wanted", "found"), [(0.26, 0.25), (0.36, 0.375), (0.3, 0.25)])
def test_of_two_steps_the_nearer_one_is_found(wanted: float, found: float) -> None:
    """The value goes up by an eighth at every eighth."""
    x = solve(wanted, lambda x: math.floor(x * 8) / 8, finest=1e-6, tolerance=1e-9)
    assert math.floor(x * 8) / 8 == found


@pytest.mark.parametrize("wanted", [0.19, 0.71])
def test_out_of_reach_says_what_is_not(wanted: float) -> None:
    for name in ("line", "falling"):
        with pytest.raises(OutOfReach) as error:
            solve(wanted, CURVES[name], 1e-9, 1e-7)
        assert (error.value.lowest, error.value.highest) == pytest.approx((0.2, 0.7))


def test_a_value_that_does_not_move_reaches_nothing() -> None:
    with pytest.raises(OutOfReach):
        solve(0.5, lambda x: 0.5, 1e-9, 1e-7)


@pytest.mark.parametrize("name", ["line", "bent", "stairs", "none for short ones"])
@pytest.mark.parametrize("limit", [0.0, 6.9, 7.0, 1234.5, 98765.0])
def test_the_longest_within_a_limit(name: str, limit: float) -> None:
    value: Callable[[int], float] = {
        "line": lambda n: 7.0 * n,
        "bent": lambda n: 0.001 * n**2.5,
        "stairs": lambda n: 100.0 * (n // 30),
        "none for short ones": lambda n: 7.0 * n if n >= 300 else 0,
    }[name]
    found = longest_within(value, limit, 2**20)
    assert value(found) <= limit < value(found + 1) and (found or limit < value(1))


def test_the_longest_of_a_line_takes_few_looks() -> None:
    """Of a scheduler that draws how many layers run, one look counts a whole run step by step."""
    asked: list[int] = []
    longest_within(lambda n: asked.append(n) or 7.0 * n + n % 5, 1e6, 2**30)  # type: ignore[func-returns-value]
    assert len([n for n in asked if n > 2**16]) <= 10
