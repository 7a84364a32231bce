"""Which predictions a loss is the mean of: how many, how likely each is, and what the draw depends on."""

from __future__ import annotations

import pytest
import torch

from est_cli.est import IndexGenerator, SamplingOptions, SamplingRates, draw_positions, sample_sizes, three_stage
from est_cli.est.flops import planned_counts
from est_cli.est.kept import varies
from est_cli.est.positions import first_positions
from est_cli.est.sizes import full_sizes, position_count, realised_p_t
from est_cli.est.subnetwork import FULL
from est_cli.families import spec_of
from tests.lab.est_models import config_of

T = 16


def drawn(step: int = 3, sequences: int = 8, p_t: float = 0.4, seed: int = 5, seq_len: int = T) -> torch.Tensor:
    found = draw_positions(seed, step, torch.arange(sequences), seq_len, p_t)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("p_t", "seq_len", "count"), [(1.0, 16, 16), (0.5, 16, 8), (0.5, 257, 128), (0.01, 16, 1), (0.9999, 16, 15)]
)
def test_how_many(p_t: float, seq_len: int, count: int) -> None:
    """Of the T - 1 positions that predict a token, rounded half up, at least one; at the rate 1 the head sees all."""
    assert position_count(p_t, seq_len) == count
    found, placed = (draw_positions(0, 0, torch.arange(3), seq_len, p_t), first_positions(3, seq_len, p_t))
    if p_t == 1.0:
        assert found is None and placed is None
    else:
        assert found is not None and placed is not None and found.shape == placed.shape == (3, count)


def test_each_row_has_different_positions_in_order_and_never_the_last_one() -> None:
    found = drawn(sequences=500)
    assert found.dtype == torch.int64 and bool((found.diff(dim=1) > 0).all())
    assert found.min() == 0 and found.max() == T - 2, "the last token of a sequence has nothing to predict"


def test_every_position_is_as_likely_as_any_other() -> None:
    """6 of 15 in 20,000 rows: counts within five standard deviations of a binomial one."""
    rows, n, k = 20_000, T - 1, 6
    counts = drawn(sequences=rows).flatten().bincount(minlength=n)
    expected, deviation = rows * k / n, (rows * (k / n) * (1 - k / n)) ** 0.5
    assert bool(((counts - expected).abs() < 5 * deviation).all())


def test_two_positions_are_drawn_together_as_often_as_chance_says() -> None:
    rows, n, k = 20_000, T - 1, 6
    chosen = torch.zeros(rows, n).scatter_(1, drawn(sequences=rows), 1.0)
    both = (chosen.T @ chosen)[~torch.eye(n, dtype=torch.bool)] / rows
    chance = k * (k - 1) / (n * (n - 1))
    assert bool(((both - chance).abs() < 5 * (chance * (1 - chance) / rows) ** 0.5).all())


def test_a_draw_is_a_function_of_seed_step_and_sequence_alone() -> None:
    everything = drawn()
    own = torch.tensor([6, 1, 3])
    assert torch.equal(draw_positions(5, 3, own, T, 0.4), everything[own]), "whichever others are drawn beside it"
    for other in (drawn(step=4), drawn(seed=6)):
        assert not torch.equal(other, everything)
    assert len({tuple(row) for row in everything.tolist()}) == len(everything)


def test_the_complete_model_on_drawn_positions_is_complete_but_not_full() -> None:
    rates, spec = SamplingRates(p_t=0.5), spec_of(config_of("gpt2"))
    assert rates.complete and not rates.full and not rates.sampled
    assert IndexGenerator(spec, 0).draw(7, rates) is FULL
    sizes = sample_sizes(spec, rates, SamplingOptions())
    assert sizes != full_sizes(spec) and sizes.p_t == 0.5
    assert realised_p_t([(sizes, 3), (full_sizes(spec), 1)], 16) == pytest.approx((3 * 8 / 15 + 1) / 4)


def test_sizes_that_vary_from_draw_to_draw_keep_it() -> None:
    """A plan replays them: with layers that are protected, draws of the others differ in size."""
    spec, options = spec_of(config_of("gpt2")), SamplingOptions(protect=("heads:0",))
    scheduler = three_stage(12, 4, 8, SamplingRates(0.5, 0.5, 0.5, p_t=0.5))
    assert varies(spec, scheduler.stages[0].rates, options)
    shares = {
        number: {sizes.p_t for sizes, _ in ran} for number, ran in planned_counts(spec, scheduler, options, 4).items()
    }
    assert shares == {1: {0.5}, 2: {0.5}, 3: {1.0}}


@pytest.mark.parametrize("p_t", [0.0, 1.1, float("nan")])
def test_a_share_that_is_none(p_t: float) -> None:
    with pytest.raises(ValueError, match=r"p_t: .* is not a sampling rate"):
        SamplingRates(p_t=p_t)
