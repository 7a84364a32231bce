"""analysis=draws against masked models, and two heads that cancel each other, planted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from est_cli.analysis.analysis_job import Text
from est_cli.analysis.draws import absences, distributions, rates_drawn, sequence_losses
from est_cli.analysis.gates import expressible
from est_cli.config import AnalyzeConfig
from est_cli.est import IndexGenerator, SamplingOptions, SamplingRates, apply_est
from est_cli.families import spec_of
from tests.lab.est_models import build, config_of, tokens
from tests.lab.reference import masked_dense
from tests.lab.toys import alone


def job_of(model: Any, **settings: Any) -> Any:
    config = AnalyzeConfig()
    for key, value in settings.items():
        setattr(config.analyze, key, value)
    batches = (tokens(2, 8, seed=0), tokens(2, 8, seed=1))
    return SimpleNamespace(config=config, text=Text(batches, ""), batches=2, work=alone())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_each_draw_is_the_masked_model(family: str) -> None:
    model = build(config_of(family), dtype=torch.float64).eval()
    plain = build(config_of(family), dtype=torch.float64).eval()
    plain.load_state_dict(model.state_dict())
    spec = spec_of(model.config)
    handle = apply_est(model, spec)
    job = job_of(model, draws=3, rates=[0.5])
    complete = sequence_losses(model, job.text)
    found = distributions(job, model, handle, complete)
    assert [(one["kind"], one["rate"]) for one in found] == [
        (kind, 0.5) for kind in ("heads", "columns", "layers", "all")
    ]
    assert np.array_equal(sequence_losses(model, job.text), complete), "the complete model is active again"
    generator = IndexGenerator(spec, job.config.seed, SamplingOptions())
    for one, rates in zip(
        found, (SamplingRates(p_h=0.5), SamplingRates(p_m=0.5), SamplingRates(p_l=0.5)), strict=False
    ):
        for number, excess in enumerate(one["each"]):
            reference = masked_dense(plain, generator.draw(number, rates))
            expected = float((sequence_losses(reference, job.text) - complete).mean())
            assert excess == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert one["least"] <= one["quantile_05"] <= one["median"] <= one["quantile_95"] <= one["most"]


def test_units_without_which_the_model_is_worse_are_found() -> None:
    """Two heads of layer 1 cancel each other: without one of them tokens 7 or 8 come, without both all is well."""
    model = build(config_of("gpt2"), dtype=torch.float64).eval()
    spec = spec_of(model.config)
    attention, width, words = model.transformer.h[1].attn, spec.head_dim, model.transformer.wte.weight
    values = slice(2 * spec.hidden_size, 2 * spec.hidden_size + 2 * width)  # of heads 0 and 1
    with torch.no_grad():
        words[8] = -words[7]
        model.transformer.ln_f.bias += 4.0 * words[5] / words[5].square().sum()
        attention.c_attn.weight[:, values], attention.c_attn.bias[values] = 0.0, 1.0
        attention.c_proj.weight[:width], attention.c_proj.weight[width : 2 * width] = (
            100.0 * words[7],
            -100.0 * words[7],
        )
    handle = apply_est(model, spec)
    job = job_of(model, units=3)
    job.text = Text((torch.full((2, 8), 5), torch.full((3, 8), 5)), "")
    complete = sequence_losses(model.requires_grad_(False), job.text)
    units, pairs = absences(job, model, handle, complete)
    costs = {(one["layer"], one["number"]): one["excess"]["mean"] for one in units if one["kind"] == "head"}
    assert list(costs)[:2] in ([(1, 0), (1, 1)], [(1, 1), (1, 0)]) and min(list(costs.values())[:2]) > 0.5
    worst = pairs[0]
    assert (worst["layer"], sorted(worst["heads"])) == (1, [0, 1])
    assert worst["excess"]["mean"] < 0.2 * min(costs[1, 0], costs[1, 1])
    beyond = worst["excess"]["mean"] - costs[1, 0] - costs[1, 1]
    assert worst["beyond_the_sum"]["mean"] == pytest.approx(beyond, rel=1e-6)
    assert np.array_equal(sequence_losses(model, job.text), complete), "nothing is left out any more"


def test_the_absence_of_a_unit_is_a_draw_of_all_others() -> None:
    model = build(config_of("gpt2"), dtype=torch.float64).eval()
    plain = build(config_of("gpt2"), dtype=torch.float64).eval()
    plain.load_state_dict(model.state_dict())
    spec = spec_of(model.config)
    handle = apply_est(model, spec)
    job = job_of(model, units=99)
    complete = sequence_losses(model.requires_grad_(False), job.text)
    units, _ = absences(job, model, handle, complete)
    for unit in [unit for unit in units if unit["kind"] == "layer"]:
        from est_cli.est import Subnetwork

        others = tuple(layer for layer in range(spec.num_layers) if layer != unit["layer"])
        reference = masked_dense(plain, Subnetwork(layer_idx=others))
        expected = float((sequence_losses(reference, job.text) - complete).mean())
        assert unit["excess"]["mean"] == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert len([unit for unit in units if unit["kind"] == "head"]) == spec.num_layers * spec.num_heads


def test_what_cannot_be_sampled_is_left_out() -> None:
    config = AnalyzeConfig()
    config.analyze.rates = [0.5, 0.99]
    spec = spec_of(build(config_of("gpt2"), dtype=torch.float64).config)
    assert ("heads", 0.99) not in [(kind, rate) for kind, rate, _ in rates_drawn(config, spec)]
    assert expressible(spec)
