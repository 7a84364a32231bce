"""Prices: lost steps counted one by one, and the search for a schedule against every schedule there is."""

from __future__ import annotations

import random
from itertools import combinations_with_replacement, product

import pytest

from est_cli.est.prices import COMPLETE, Estimate, Moment, PriceList, Span, cheapest, spans_of
from est_cli.est.schedule import SamplingRates, three_stage

A, B, C = SamplingRates(p_h=0.5), SamplingRates(p_m=0.5), SamplingRates(0.5, 0.5, 0.5)
SAVED = {A: 0.25, B: 0.25, C: 0.5}


def made(*moments: tuple[int, dict[SamplingRates, float]], error: float = 0.0) -> PriceList:
    return PriceList(
        tuple(
            Moment(step, Estimate(0.002, 0.0), {rates: Estimate(lost, error) for rates, lost in of_each.items()})
            for step, of_each in moments
        )
    )


def lost_by_hand(prices: PriceList, spans: list[Span], nearest: dict[int, int]) -> float:
    """Step by step, each at the prices of the moment that `nearest` says."""
    rates_at = {step: span.rates for span in spans for step in range(span.begin, span.end)}
    return sum(prices.moments[nearest[step]].lost[rates].mean for step, rates in rates_at.items() if not rates.full)


def test_each_step_has_the_price_of_the_nearest_moment() -> None:
    prices = made((4, {A: 0.1, B: 0.2, C: 0.4}), (12, {A: 0.3, B: 0.1, C: 0.9}))
    nearest = {step: int(step >= 8) for step in range(20)}
    for spans in ([Span(0, 10, A), Span(10, 20, COMPLETE)], [Span(0, 7, C), Span(7, 9, B), Span(9, 20, A)]):
        assert prices.lost(spans, 20).mean == pytest.approx(lost_by_hand(prices, spans, nearest), rel=1e-12)
    with pytest.raises(ValueError, match=r"no price was measured of steps at p_h=0\.25 p_m=1 p_l=1"):
        prices.lost([Span(0, 5, SamplingRates(p_h=0.25))], 20)


def test_errors_of_one_moment_add_up_and_those_of_two_are_independent() -> None:
    prices = made((4, {A: 0.1, B: 0.2, C: 0.4}), (12, {A: 0.3, B: 0.1, C: 0.9}), error=0.01)
    assert prices.lost([Span(0, 4, A), Span(4, 8, B)], 20).error == pytest.approx(0.08)
    assert prices.lost([Span(5, 8, A), Span(8, 12, A)], 20).error == pytest.approx(0.05)
    assert Estimate(1.0, 0.1).interval == pytest.approx((0.804, 1.196), abs=1e-4)


def brute_force(prices: PriceList, steps: int, until: int, wanted: float) -> float:
    """The least loss over all schedules of up to three stages before the last, with boundaries at any steps."""
    best = float("inf")
    for order in product((COMPLETE, A, B, C), repeat=3):
        for ends in combinations_with_replacement(range(until + 1), 3):
            spans = [Span(begin, end, rates) for begin, end, rates in zip((0, *ends), ends, order, strict=False)]
            saving = sum(SAVED.get(span.rates, 0.0) * (span.end - span.begin) for span in spans)
            if saving == wanted * steps:
                best = min(best, prices.lost(spans, steps).mean)
    return best


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_cheaper_than_what_is_found(seed: int) -> None:
    """Planted prices; shares and the target are such that boundaries at whole steps meet it."""
    rng, steps, until = random.Random(seed), 16, 12
    moments = [(step, {rates: rng.uniform(-0.05, 0.5) for rates in (A, B, C)}) for step in (3, 9)]
    prices = made(*moments)
    for wanted in (0.125, 0.25):
        design = cheapest(prices, steps, until, SAVED, wanted)
        assert design is not None and design.saved == wanted * steps
        assert design.spans[0].begin == 0 and design.spans[-1].end <= until
        assert design.lost.mean == pytest.approx(brute_force(prices, steps, until, wanted), abs=1e-12)


def test_it_buys_where_it_is_cheap() -> None:
    """Columns cost nothing late, and everything is dear early: the model is complete first."""
    prices = made((100, {A: 0.5, B: 0.4, C: 1.0}), (500, {A: 0.5, B: 0.0, C: 1.0}))
    design = cheapest(prices, 1000, 800, SAVED, 0.1)
    assert design is not None and design.lost.mean == 0.0 and design.saved == 100.0
    assert [span.rates for span in design.spans] == [COMPLETE, B]
    begin, end = design.spans[1].begin, design.spans[1].end
    assert end - begin == 400 and 300 <= begin < end <= 800


def test_rates_that_save_nothing_are_left_alone_whatever_their_price() -> None:
    """As positions do in the convention `blocks`: that they lose less than nothing is noise."""
    free = SamplingRates(p_t=0.5)
    prices = made((8, {A: 0.1, free: -0.3}))
    design = cheapest(prices, 16, 12, {A: 0.25, free: 0.0}, 0.1)
    assert design is not None and {span.rates for span in design.spans} <= {A, COMPLETE}


def test_three_stages_where_three_are_cheapest() -> None:
    """Each of them free at its own moment alone."""
    moments = [
        (step, {rates: 0.0 if rates is free else 0.9 for rates in (A, B, C)})
        for step, free in ((2, A), (6, B), (10, C))
    ]
    design = cheapest(made(*moments), 16, 12, SAVED, 0.25)
    assert design is not None and design.lost.mean == 0.0
    assert design.spans == (Span(0, 4, A), Span(4, 8, B), Span(8, 12, C))


def test_a_saving_that_is_out_of_reach_is_none() -> None:
    prices = made((3, {A: 0.1, B: 0.1, C: 0.1}))
    assert cheapest(prices, 16, 12, SAVED, 0.376) is None
    design = cheapest(prices, 16, 12, SAVED, 0.375)
    assert design is not None and design.spans == (Span(0, 12, C),)
    rounded = cheapest(prices, 16, 12, SAVED, 0.26)
    assert rounded is not None and 0.26 * 16 <= rounded.saved <= 0.26 * 16 + 0.5, "no less than was asked for"


def test_what_a_step_is_worth_falls_with_its_number() -> None:
    prices = made((100, {A: 0.1}), (400, {A: 0.2}))
    assert prices.gain_at(400).mean == 0.002 and prices.gain_at(1600).mean == 0.0005


def test_spans_of_a_scheduler_are_its_stages() -> None:
    found = spans_of(three_stage(10, 0, 6, SamplingRates(0.5, 0.5, 0.5)))
    assert found == [Span(0, 6, SamplingRates(0.5, 0.5, 1.0)), Span(6, 10, COMPLETE)]


def test_lists_that_are_none() -> None:
    with pytest.raises(ValueError, match="rising"):
        made((5, {A: 0.1}), (5, {A: 0.1}))
    with pytest.raises(ValueError, match="rising"):
        PriceList(())
    with pytest.raises(ValueError, match="the same rates"):
        made((5, {A: 0.1}), (6, {B: 0.1}))
