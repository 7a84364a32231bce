"""Coverage: counts of the draws that a run makes, against the draws themselves counted one by one."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from est_cli.config import ModelConfig
from est_cli.est import IndexGenerator, SamplingRates, SamplingScheduler, Subnetwork, dense, three_stage
from est_cli.est.baselines import early_dropout, layer_dropout, pld, raptr
from est_cli.est.coverage import coverage
from est_cli.est.schedule import constant
from est_cli.est.sizes import MicroBatchSplit, SamplingOptions
from est_cli.est.stacking import g_stack
from est_cli.families import spec_of
from est_cli.models import hf_config
from tests.lab.est_models import config_of

STEPS, SEED = 60, 5
SCHEDULERS = {
    "three_stage": three_stage(STEPS, 20, 40, SamplingRates(0.5, 0.5, 0.5)),
    "raptr": raptr(STEPS, [20], [2]),
    "layer_dropout": layer_dropout(STEPS, 0.6),
    "pld": pld(STEPS, 0.5, 0.1),
    "g_stack": g_stack(STEPS, [30], [1]),
}


def counted(
    scheduler: SamplingScheduler, options: SamplingOptions, draws: list[tuple[int, int, float]]
) -> tuple[Counter[int], Counter[tuple[int, int]], Counter[tuple[int, int]]]:
    """Layers, (layer, head), (layer, column) with the steps that trained them; draws: (micro-step, rank, weight)."""
    spec = spec_of(config_of("llama"))
    layers: Counter[int] = Counter()
    heads: Counter[tuple[int, int]] = Counter()
    columns: Counter[tuple[int, int]] = Counter()
    for step in range(STEPS):
        for micro_step, rank, weight in draws:
            drawn = IndexGenerator(spec, SEED, options).draw(step, scheduler.rates_at(step), micro_step, rank)
            for layer in range(spec.num_layers) if drawn.layer_idx is None else drawn.layer_idx:
                layers[layer] += weight  # type: ignore[assignment]
                own = range(spec.num_heads) if drawn.head_idx is None else drawn.head_idx[layer].tolist()
                for head in own:
                    heads[layer, head] += weight  # type: ignore[assignment]
                own = range(spec.mlp_size) if drawn.mlp_idx is None else drawn.mlp_idx[layer].tolist()
                for column in own:
                    columns[layer, column] += weight  # type: ignore[assignment]
    return layers, heads, columns


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(
    ("options", "cut", "draws"),
    [
        (SamplingOptions(), MicroBatchSplit((8,)), [(0, 0, 1.0)]),
        (SamplingOptions(redraw="forward"), MicroBatchSplit((6, 2)), [(0, 0, 0.75), (1, 0, 0.25)]),
        (SamplingOptions(ranks="independent", per_layer=False), MicroBatchSplit((8,), 2), [(0, 0, 0.5), (0, 1, 0.5)]),
    ],
)
def test_every_unit_is_counted(
    name: str, options: SamplingOptions, cut: MicroBatchSplit, draws: list[tuple[int, int, float]]
) -> None:
    scheduler, spec = SCHEDULERS[name], spec_of(config_of("llama"))
    found = coverage(spec, scheduler, SEED, options, dict.fromkeys(range(1, len(scheduler.stages) + 1), cut))
    layers, heads, columns = counted(scheduler, options, draws)
    for shares, counts in (
        (found.layers.unsqueeze(1), {(n, 0): count for n, count in layers.items()}),
        (found.heads, heads),
        (found.columns, columns),
    ):
        wanted = torch.zeros_like(shares)
        for place, count in counts.items():
            wanted[place] = count / STEPS
        torch.testing.assert_close(shares, wanted, rtol=0, atol=1e-12)


def test_balanced_draws_cover_every_unit_by_its_rate() -> None:
    """Three processes with a draw each, of 2 of 3 KV groups: each group is in exactly two, in every step."""
    options = SamplingOptions(ranks="independent", cover="balanced")
    scheduler, cut = constant(7, SamplingRates(p_h=0.5)), {1: MicroBatchSplit((6,), 3)}
    found = coverage(spec_of(config_of("llama")), scheduler, SEED, options, cut)
    torch.testing.assert_close(found.heads, torch.full_like(found.heads, 2 / 3))


@pytest.mark.slow
@pytest.mark.parametrize("redraw", ["step", "forward"])
def test_of_very_many_draws_some_stand_for_all(monkeypatch: pytest.MonkeyPatch, redraw: str) -> None:
    """As many as are allowed, from the whole stage: of pld, where shares fall, near the exact ones."""
    spec, scheduler, cuts = spec_of(config_of("llama")), pld(2000, 0.4, 0.002), {1: MicroBatchSplit((6, 2))}
    exact = coverage(spec, scheduler, SEED, SamplingOptions(redraw=redraw), cuts)
    steps, draw = [], IndexGenerator.draw

    def counted_draw(self: IndexGenerator, step: int, *args: Any) -> Subnetwork:
        steps.append(step)
        return draw(self, step, *args)

    monkeypatch.setattr(IndexGenerator, "draw", counted_draw)
    monkeypatch.setattr("est_cli.est.coverage.MOST_DRAWS", 700)
    found = coverage(spec, scheduler, SEED, SamplingOptions(redraw=redraw), cuts)
    assert 500 <= len(steps) <= 700 and max(steps) > 1990
    assert float(found.layers[0]) == pytest.approx(1.0) and 0.6 < float(exact.layers[-1]) < 0.8
    torch.testing.assert_close(found.layers, exact.layers, rtol=0, atol=0.08)


def test_where_nothing_is_sampled_everything_is_covered() -> None:
    for scheduler in (dense(10), early_dropout(10, 5, 0.5)):
        found = coverage(spec_of(config_of("gpt2")), scheduler, 0)
        assert all((part == 1).all() for part in (found.layers, found.heads, found.columns))


def test_a_model_without_an_mlp_has_no_columns() -> None:
    found = coverage(
        spec_of(hf_config(ModelConfig("mamba_tiny", "mamba", vocab_size=64, hidden_size=16, num_layers=4))),
        three_stage(10, 5, 8, SamplingRates(0.5, 0.5, 0.5)),
        0,
    )
    assert found.columns.shape[1] == 0 and 0.3 < float(found.heads.mean()) < 1.0
