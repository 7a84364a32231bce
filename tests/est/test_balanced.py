"""sampling.cover=balanced: the draws of a step use all units alike, each alone is as before, and gradients vary less.

The statistical checks are on fixed seeds, as in test_index.py.
"""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from torch import Tensor

from est_cli.est import IndexGenerator, SamplingOptions, SamplingRates, Subnetwork, apply_est
from est_cli.est.balanced import balanced
from est_cli.est.hashing import further, hashed
from est_cli.families import spec_of
from tests.est.test_index import chi_square, rows_of, upper_limit
from tests.lab.est_models import build, gpt2_config, llama_config, tokens

BALANCED = {"redraw": "forward", "cover": "balanced", "multiple_of": 1}


def stream(n: int, k: int, draws: int, streams: int = 1) -> Tensor:
    """(draws, streams, k): the first draws of so many streams."""
    which = streams_of(7, torch.arange(streams))
    return torch.stack([balanced(which, torch.full((streams,), number), n, k) for number in range(draws)])


def streams_of(key: int, numbers: Tensor) -> Tensor:
    return further(hashed((key,), numbers), numbers)


def uses(drawn: Tensor, n: int) -> Tensor:
    """(draws, streams, n): how often each unit was in the draws so far."""
    return torch.zeros(*drawn.shape[:2], n).scatter_(2, drawn, 1.0).cumsum(0)


@pytest.mark.parametrize(("n", "k"), [(n, k) for n in range(2, 10) for k in range(1, n)])
def test_of_any_first_draws_all_units_are_in_as_many_but_for_one(n: int, k: int) -> None:
    """Over more than two whole rounds of the orders, wherever a draw lies in them."""
    drawn = stream(n, k, 2 * n + 3, streams=40)
    assert k == 1 or bool((drawn.diff(dim=2) > 0).all()), "sorted, no unit twice"
    counts = uses(drawn, n)
    assert float((counts.amax(2) - counts.amin(2)).max()) <= 1.0
    assert bool((counts[n - 1] == k).all()), "after n draws of k each unit was in exactly k"


@pytest.mark.parametrize(("n", "k"), [(4, 2), (5, 2), (7, 3), (6, 4), (7, 5)])
def test_each_draw_alone_is_any_subset_with_equal_chances(n: int, k: int) -> None:
    """So are its units and pairs, in draws that lie in one order and in those that lie in two."""
    subsets = {subset: number for number, subset in enumerate(itertools.combinations(range(n), k))}
    for drawn in stream(n, k, n + 1, streams=4000):
        seen = torch.bincount(torch.tensor([subsets[tuple(row)] for row in drawn.tolist()]), minlength=len(subsets))
        assert chi_square(seen.double()) < upper_limit(len(subsets) - 1, z=4.5)


def test_streams_and_steps_are_independent() -> None:
    """Of two streams, and of two keys, the 36 joint outcomes of a first draw of 2 of 4."""
    pairs = {pair: number for number, pair in enumerate(itertools.combinations(range(4), 2))}

    def coded(key: int, first: int) -> Tensor:
        which = streams_of(key, torch.arange(first, 8000, 2))
        drawn = balanced(which, torch.zeros(4000, dtype=torch.int64), 4, 2)
        return torch.tensor([pairs[tuple(row)] for row in drawn.tolist()])

    for other in (coded(0, 1), coded(1, 0)):
        assert chi_square(torch.bincount(6 * coded(0, 0) + other, minlength=36).double()) < upper_limit(35, z=4.5)


def drawn_in_step(generator: IndexGenerator, step: int, rates: SamplingRates, micro_steps: int) -> list[Subnetwork]:
    ranks = generator.world_size if generator.options.ranks == "independent" else 1
    return [generator.draw(step, rates, at, rank) for at in range(micro_steps) for rank in range(ranks)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"per_layer": False},
        {"kv_groups": "within"},
        {"keep_ends": True},
        {"protect": ("heads:1", "columns:-1")},
        {"ranks": "independent"},
        {"ranks": "independent", "redraw": "step"},
    ],
    ids=str,
)
@pytest.mark.parametrize("rates", [SamplingRates(0.5, 0.4, 1.0), SamplingRates(0.7, 0.5, 0.6)], ids=str)
def test_a_step_uses_all_units_of_the_layers_that_run_alike(options: dict, rates: SamplingRates) -> None:
    """9 heads in 3 groups, 25 columns, 5 layers; five micro-batches, of one process or of three."""
    spec, options = spec_of(llama_config()), SamplingOptions(**{**BALANCED, **options})
    generator = IndexGenerator(spec, 3, options, world_size=3)
    shares_layers = options.per_layer or rates.p_l == 1.0
    for step in range(8):
        ran = torch.zeros(5)
        used = {"heads": torch.zeros(5, 9), "columns": torch.zeros(5, 25)}
        for drawn in drawn_in_step(generator, step, rates, 5 if options.redraw == "forward" else 1):
            for layer in range(5) if drawn.layer_idx is None else drawn.layer_idx:
                ran[layer] += 1
                used["heads"][layer, drawn.units("head", layer)] += 1
                used["columns"][layer, drawn.units("column", layer)] += 1
        free = ran[1:-1] if options.keep_ends else ran
        assert free.max() - free.min() <= 1
        for counts in used.values() if shares_layers else ():
            assert float((counts.amax(1) - counts.amin(1)).max()) <= 1.0


def test_a_draw_is_a_pure_function_of_its_place() -> None:
    """Whatever was drawn before it, however many come after it, and wherever that process stands."""
    spec, options = spec_of(gpt2_config()), SamplingOptions(**BALANCED)
    one, many = IndexGenerator(spec, 5, options), IndexGenerator(spec, 5, options, world_size=4)
    rates = SamplingRates(0.5, 0.4, 0.5)
    forwards = [rows_of(one.draw(11, rates, micro_step)) for micro_step in range(6)]
    backwards = [rows_of(many.draw(11, rates, micro_step, rank=3)) for micro_step in reversed(range(6))]
    assert forwards == backwards[::-1]
    assert forwards != [rows_of(one.draw(12, rates, micro_step)) for micro_step in range(6)]


def test_it_needs_several_draws_and_sizes_that_are_fixed() -> None:
    with pytest.raises(
        ValueError, match=r"sampling\.cover: .* sampling\.redraw=forward or sampling\.ranks=independent"
    ):
        SamplingOptions(cover="balanced")
    generator = IndexGenerator(spec_of(gpt2_config()), 0, SamplingOptions(**BALANCED))
    with pytest.raises(ValueError, match=r"sampling\.cover: .* chance"):
        generator.draw(0, SamplingRates(p_l=0.5, layers="chance"))


TINY = {"n_embd": 8, "n_head": 4, "n_inner": 4, "n_layer": 2}
HALF = SamplingRates(0.5, 0.5, 0.5)


@cache
def gradients_of_all_subnetworks() -> tuple[dict[tuple, int], Tensor]:
    """(subnetwork -> row, (72, P) float64): the gradient of each of the 6 x 6 x 2 subnetworks on the same tokens."""
    model, ids = build(gpt2_config(**TINY), dtype=torch.float64), tokens()
    handle = apply_est(model, spec_of(model))
    pairs = [torch.tensor([pair] * 2) for pair in itertools.combinations(range(4), 2)]
    rows, found = {}, []
    for heads, columns, layer in itertools.product(pairs, pairs, range(2)):
        subnetwork = Subnetwork((layer,), head_idx=heads, kv_idx=heads, mlp_idx=columns)
        handle.activate(subnetwork)
        loss = model(ids, labels=ids, use_cache=False).loss
        gradients = torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)
        whole = zip(model.parameters(), gradients, strict=True)
        rows[rows_of(subnetwork)] = len(found)
        found.append(torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in whole]))
    return rows, torch.stack(found)


def step_gradients(cover: str, draws: int, steps: int = 300) -> Tensor:
    """(steps, P): the mean gradient over the draws of each step."""
    rows, gradients = gradients_of_all_subnetworks()
    spec = spec_of(gpt2_config(**TINY))
    options = SamplingOptions(redraw="forward", cover=cover, per_layer=False, multiple_of=1)
    generator = IndexGenerator(spec, 2, options)
    picked = [[rows[rows_of(generator.draw(step, HALF, at))] for at in range(draws)] for step in range(steps)]
    return gradients[torch.tensor(picked)].mean(1)


@pytest.mark.parametrize("draws", [2, 3])
def test_the_gradient_of_a_step_keeps_its_mean_and_varies_less(draws: int) -> None:
    """Its mean over steps is that over all 72 subnetworks, within what chance leaves of it."""
    exact = gradients_of_all_subnetworks()[1].mean(0)
    variance = {}
    for cover in ("independent", "balanced"):
        found = step_gradients(cover, draws)
        variance[cover] = float(found.var(0).sum())
        off = float((found.mean(0) - exact).square().sum())
        assert off < 4.0 * variance[cover] / len(found), cover
    assert variance["balanced"] < 0.8 * variance["independent"]
