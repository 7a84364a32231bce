"""What processes tell each other of a layer's gradients: all that a subnetwork changes, and little else."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from transformers import AutoModelForCausalLM

from est_cli.est import (
    GradientPart,
    IndexGenerator,
    SamplingOptions,
    SamplingRates,
    apply_est,
    sampled_parts,
    whole_parts,
)
from est_cli.families import spec_of
from tests.lab.est_models import config_of

HALF = SamplingRates(0.5, 0.5, 0.5)


def trained(family: str, options: SamplingOptions, rates: SamplingRates):  # type: ignore[no-untyped-def]
    """A model after one backward pass of a drawn subnetwork, and the layers that ran."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family), dtype=torch.float64)
    handle = apply_est(model, spec_of(model.config))
    subnetwork = IndexGenerator(handle.spec, 3, options).draw(7, rates)
    handle.activate(subnetwork)
    tokens = torch.randint(0, handle.spec.vocab_size, (2, 8))
    model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    running = range(len(handle.layers)) if subnetwork.layer_idx is None else subnetwork.layer_idx
    return model, [handle.layers[number] for number in running]


CASES = [
    ("gpt2", SamplingOptions()),
    ("gpt2", SamplingOptions(per_layer=False)),
    ("llama", SamplingOptions()),
    ("llama", SamplingOptions(kv_groups="within")),
]


@pytest.mark.parametrize(("family", "options"), CASES)
def test_everything_outside_of_the_parts_is_zero(family: str, options: SamplingOptions) -> None:
    _, layers = trained(family, options, HALF)
    for layer in layers:
        for part in sampled_parts(layer):
            grad = part.parameter.grad
            before, values = grad.clone(), torch.empty(part.numel, dtype=grad.dtype)
            part.gather(values)
            grad.zero_()
            part.scatter(values)
            assert torch.equal(grad, before)
            part.scatter(torch.arange(part.numel, dtype=grad.dtype) + 1)
            assert grad.count_nonzero() == part.numel, "each entry has a place of its own"


@pytest.mark.parametrize(("family", "options"), CASES)
def test_the_parts_are_as_large_as_the_sample(family: str, options: SamplingOptions) -> None:
    """Half of the projections' weights, and of the biases on their sampled side; norms and output biases whole."""
    model, layers = trained(family, options, HALF)
    for layer in layers:
        taken = sum(part.numel for part in sampled_parts(layer))
        nonzero = sum(int(parameter.grad.count_nonzero()) for parameter in layer.parameters())
        whole = sum(parameter.numel() for parameter in layer.parameters())
        assert nonzero <= taken < 0.7 * whole
        assert {part.parameter for part in sampled_parts(layer)} == set(layer.parameters())
    skipped = [layer for layer in model.get_submodule(spec_of(model.config).layers) if layer not in layers]
    assert skipped and all(parameter.grad is None for layer in skipped for parameter in layer.parameters())


def test_of_a_full_layer_all_is_taken() -> None:
    _, layers = trained("gpt2", SamplingOptions(), SamplingRates())
    sampled, whole = sampled_parts(layers[0]), whole_parts(layers[0])
    assert [id(part.parameter) for part in sampled] == [id(part.parameter) for part in whole]
    for part in (*sampled, *whole):
        nothing_left_out = GradientPart(part.parameter)
        assert all(getattr(part, field.name) is getattr(nothing_left_out, field.name) for field in fields(part))
