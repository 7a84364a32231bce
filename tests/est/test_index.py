"""The index generator: exact sizes, uniform, independent, and a pure function of (seed, step, micro-step).

The statistical checks are on fixed seeds: they are deterministic, with thresholds that a fair generator misses less
than once in some thousands of seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import cache

import pytest
import torch

from est_cli.est import FULL, IndexGenerator, SamplingOptions, SamplingRates, Subnetwork
from est_cli.families import spec_of
from tests.lab.est_models import gpt2_config, llama_config

HALF = SamplingRates(0.5, 0.5, 0.5)
SQUARE = spec_of(gpt2_config(n_embd=16, n_head=4, n_inner=4, n_layer=4))
"""4 layers of 4 heads and 4 columns: each of the nine draws of a step is one of six pairs."""
PAIRS = {pair: number for number, pair in enumerate(itertools.combinations(range(4), 2))}


def rows_of(subnetwork: Subnetwork) -> tuple:
    """A subnetwork as plain tuples, so that two can be compared."""
    tensors = (subnetwork.head_idx, subnetwork.kv_idx, subnetwork.mlp_idx)
    return subnetwork.layer_idx, *(None if t is None else tuple(map(tuple, t.tolist())) for t in tensors)


def upper_limit(degrees: int, z: float = 4.0) -> float:
    """Chi-square value that is exceeded as rarely as a normal exceeds z (Wilson and Hilferty)."""
    share = 2.0 / (9.0 * degrees)
    return degrees * (1.0 - share + z * share**0.5) ** 3


def chi_square(counts: torch.Tensor) -> float:
    """Of counts that should all be equal."""
    expected = counts.sum() / counts.numel()
    return float(((counts - expected) ** 2 / expected).sum())


def code(index: Iterable[int]) -> int:
    return PAIRS[tuple(index)]


@cache
def coded_draws(seed: int, draws: int, micro_step: int = 0) -> torch.Tensor:
    """(draws, 9): the layers' pair, the heads' pair of each layer and the columns' pair of each layer, as 0..5."""
    generator = IndexGenerator(SQUARE, seed, SamplingOptions(redraw="forward"))
    table = []
    for step in range(draws):
        drawn = generator.draw(step, HALF, micro_step)
        rows = [drawn.layer_idx, *drawn.head_idx.tolist(), *drawn.mlp_idx.tolist()]
        table.append([code(row) for row in rows])
    return torch.tensor(table)


def assert_independent(a: torch.Tensor, b: torch.Tensor, skip: Callable[[int, int], bool] = lambda i, j: False) -> None:
    """Every column of `a` (n, 9) and of `b` (n, 9): the 36 joint outcomes are equally frequent."""
    for i, j in itertools.product(range(9), range(9)):
        if not skip(i, j):
            counts = torch.bincount(6 * a[:, i] + b[:, j], minlength=36).double()
            assert chi_square(counts) < upper_limit(35, z=4.5), (i, j)


@pytest.mark.parametrize(
    ("rates", "layers", "heads", "kv_heads", "columns"),
    [
        (SamplingRates(0.5, 0.5, 0.5), 3, 6, 2, 13),  # 9 heads in 3 groups, 25 columns, 5 layers
        (SamplingRates(0.01, 0.01, 0.01), 1, 3, 1, 1),
        (SamplingRates(0.8, 0.9, 0.7), 4, 6, 2, 23),
        (SamplingRates(p_h=0.4), None, 3, 1, None),
        (SamplingRates(p_m=0.3), None, None, None, 8),
        (SamplingRates(p_l=0.4), 2, None, None, None),
    ],
)
def test_sizes_are_exact_and_indices_sorted_and_distinct(
    rates: SamplingRates, layers: int | None, heads: int | None, kv_heads: int | None, columns: int | None
) -> None:
    generator = IndexGenerator(spec_of(llama_config()), 0)
    for step in range(20):
        drawn = generator.draw(step, rates)
        assert (drawn.layer_idx is None) == (layers is None)
        if layers is not None:
            assert len(set(drawn.layer_idx)) == layers and list(drawn.layer_idx) == sorted(drawn.layer_idx)
            assert set(drawn.layer_idx) <= set(range(5))
        for index, k, n in ((drawn.head_idx, heads, 9), (drawn.kv_idx, kv_heads, 3), (drawn.mlp_idx, columns, 25)):
            assert (index is None) == (k is None)
            if k is not None:
                assert index.shape == (5, k) and index.dtype == torch.int64
                assert index.min() >= 0 and index.max() < n
                assert k == 1 or (index.diff(dim=1) > 0).all()


def test_whole_draws_groups_with_all_their_query_heads() -> None:
    generator = IndexGenerator(spec_of(llama_config()), 0)
    for step in range(20):
        drawn = generator.draw(step, SamplingRates(p_h=0.5))
        expected = [[3 * group + i for group in row for i in range(3)] for row in drawn.kv_idx.tolist()]
        assert drawn.head_idx.tolist() == expected


def test_within_draws_the_same_number_from_each_group() -> None:
    generator = IndexGenerator(spec_of(llama_config()), 0, SamplingOptions(kv_groups="within"))
    seen = set()
    for step in range(100):
        drawn = generator.draw(step, SamplingRates(p_h=0.5))
        assert drawn.kv_idx is None or drawn.kv_idx.tolist() == [[0, 1, 2]] * 5
        for row in drawn.head_idx.tolist():
            assert [head // 3 for head in row] == [0, 0, 1, 1, 2, 2]
            seen.add(tuple(row))
    assert len(seen) == 27, "each of the 3 x 3 x 3 choices must appear: groups are drawn apart"


def test_all_subsets_are_equally_likely() -> None:
    """10,000 draws of 3 of 6 heads: the 20 subsets, hence each head and each pair, are uniform."""
    generator = IndexGenerator(spec_of(gpt2_config(n_embd=24, n_head=6, n_layer=5)), 1)
    subsets = {subset: number for number, subset in enumerate(itertools.combinations(range(6), 3))}
    counts = torch.zeros(20, dtype=torch.float64)
    for step in range(2000):
        for row in generator.draw(step, SamplingRates(p_h=0.5)).head_idx.tolist():
            counts[subsets[tuple(row)]] += 1
    assert counts.sum() == 10_000
    assert chi_square(counts) < upper_limit(19)


@pytest.mark.parametrize(("p_m", "k"), [(0.5, 12), (0.1, 2), (0.9, 21)])
def test_each_column_and_each_pair_of_columns_is_equally_likely(p_m: float, k: int) -> None:
    """10,000 draws of k of 23 columns, without replacement."""
    generator = IndexGenerator(spec_of(gpt2_config()), 2)
    drawn = torch.cat([generator.draw(step, SamplingRates(p_m=p_m)).mlp_idx for step in range(2000)])
    included = torch.zeros(10_000, 23, dtype=torch.float64).scatter_(1, drawn, 1.0)
    assert included.sum() == 10_000 * k
    together = included.T @ included
    p, pair = k / 23, k * (k - 1) / (23 * 22)
    spread = ((together.diagonal() - 10_000 * p) ** 2).sum() / (10_000 * p * (1 - p)) * 22 / 23
    assert spread < upper_limit(22)
    off_diagonal = together[torch.triu(torch.ones(23, 23), diagonal=1) == 1]
    assert ((off_diagonal - 10_000 * pair) / (10_000 * pair * (1 - pair)) ** 0.5).abs().max() < 4.8


@pytest.mark.parametrize("keep_ends", [False, True])
def test_layer_sets_are_equally_likely(keep_ends: bool) -> None:
    """3 of 5 layers: 10 sets; with both ends kept, one of the 3 in the middle."""
    generator = IndexGenerator(spec_of(gpt2_config()), 3, SamplingOptions(keep_ends=keep_ends))
    drawn = [generator.draw(step, SamplingRates(p_l=0.6)).layer_idx for step in range(3000)]
    expected = [s for s in itertools.combinations(range(5), 3) if not keep_ends or (s[0] == 0 and s[-1] == 4)]
    counts = torch.tensor([drawn.count(subset) for subset in expected], dtype=torch.float64)
    assert counts.sum() == 3000
    assert chi_square(counts) < upper_limit(len(expected) - 1)


def test_layers_heads_and_columns_of_a_step_are_independent() -> None:
    table = coded_draws(0, 3000)
    for column in table.T:
        assert chi_square(torch.bincount(column, minlength=6).double()) < upper_limit(5)
    assert_independent(table, table, skip=lambda i, j: i >= j)


@pytest.mark.slow
def test_neighbouring_steps_seeds_and_micro_steps_are_independent() -> None:
    table = coded_draws(0, 3000)
    assert_independent(table[1:], table[:-1])
    assert_independent(table, coded_draws(1, 3000))
    assert_independent(table[1:], coded_draws(1, 3000)[:-1])  # seed + step must not be what counts
    assert_independent(table, coded_draws(0, 3000, micro_step=1))


def test_the_draw_is_a_pure_function_of_seed_step_and_micro_step() -> None:
    spec, options = spec_of(llama_config()), SamplingOptions(redraw="forward")
    positions = list(itertools.product((0, 1, 2**31), (0, 1, 149_999), (0, 3)))
    generators = {seed: IndexGenerator(spec, seed, options) for seed in (0, 1, 2**31)}
    forwards = [rows_of(generators[seed].draw(step, HALF, micro)) for seed, step, micro in positions]
    torch.manual_seed(123)
    for (seed, step, micro), expected in reversed(list(zip(positions, forwards, strict=True))):
        assert rows_of(IndexGenerator(spec, seed, options).draw(step, HALF, micro)) == expected


def test_every_seed_step_and_micro_step_draws_something_else() -> None:
    spec, options = spec_of(gpt2_config(n_inner=64)), SamplingOptions(redraw="forward")
    positions = itertools.product(range(8), range(8), range(8))
    drawn = {rows_of(IndexGenerator(spec, a, options).draw(b, HALF, c))[-1] for a, b, c in positions}
    assert len(drawn) == 512
    assert len({row for rows in drawn for row in rows}) == 512 * 5, "no two layers share a draw"


def test_redraw_step_ignores_the_micro_step() -> None:
    generator = IndexGenerator(spec_of(llama_config()), 0, SamplingOptions(redraw="step"))
    assert (
        rows_of(generator.draw(7, HALF, 0)) == rows_of(generator.draw(7, HALF, 5)) == rows_of(generator.draw(7, HALF))
    )
    assert rows_of(generator.draw(7, HALF)) != rows_of(generator.draw(8, HALF))


@pytest.mark.parametrize("kv_groups", ["whole", "within"])
def test_one_draw_is_shared_by_all_layers_without_per_layer(kv_groups: str) -> None:
    spec = spec_of(llama_config())
    shared = IndexGenerator(spec, 0, SamplingOptions(per_layer=False, kv_groups=kv_groups))
    apart = IndexGenerator(spec, 0, SamplingOptions(per_layer=True, kv_groups=kv_groups))
    rows = set()
    for step in range(30):
        drawn = shared.draw(step, HALF)
        for index in (drawn.head_idx, drawn.mlp_idx):
            assert index.shape[0] == 5 and (index == index[0]).all()
        rows.add(tuple(drawn.mlp_idx[0].tolist()))
        assert len(set(map(tuple, apart.draw(step, HALF).mlp_idx.tolist()))) == 5
    assert len(rows) == 30


def test_keep_ends_keeps_the_first_and_the_last_layer() -> None:
    generator = IndexGenerator(spec_of(gpt2_config()), 0, SamplingOptions(keep_ends=True))
    for p_l, k in ((0.4, 2), (0.6, 3), (0.8, 4)):
        for step in range(20):
            layers = generator.draw(step, SamplingRates(p_l=p_l)).layer_idx
            assert layers[0] == 0 and layers[-1] == 4 and len(layers) == k


def test_nothing_is_drawn_at_p_1(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = IndexGenerator(spec_of(llama_config()), 0)
    drawn = generator.draw(0, SamplingRates())
    assert (drawn.layer_idx, drawn.head_idx, drawn.kv_idx, drawn.mlp_idx) == (None, None, None, None)
    assert rows_of(drawn) == rows_of(FULL)


def test_kinds_of_sampling_do_not_disturb_each_other() -> None:
    """The heads of a step are the same whether or not columns and layers are sampled beside them."""
    generator = IndexGenerator(spec_of(llama_config()), 0)
    together = generator.draw(3, HALF)
    assert torch.equal(generator.draw(3, SamplingRates(p_h=0.5)).head_idx, together.head_idx)
    assert torch.equal(generator.draw(3, SamplingRates(p_m=0.5)).mlp_idx, together.mlp_idx)
    assert generator.draw(3, SamplingRates(p_l=0.5)).layer_idx == together.layer_idx
