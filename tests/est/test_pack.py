"""Packed copies: the gradients of a step in micro-batches are those of the plain way, and no micro-batch touches more
than the part of a parameter that takes part."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from est_cli.est import EstHandle, IndexGenerator, SamplingOptions, SamplingRates, apply_est, packed_copies
from est_cli.families import spec_of
from tests.lab.est_models import FAMILIES, OTHERS, config_of

pytestmark = pytest.mark.slow

RATES = SamplingRates(0.4, 0.6, 0.6)
MICRO_STEPS = 3


def model_of(family: str) -> tuple[Any, EstHandle]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family), dtype=torch.float64)
    return model, apply_est(model, spec_of(model.config))


def passes(model: Any, tokens: Tensor) -> None:
    for part in tokens.chunk(MICRO_STEPS):
        model(input_ids=part, labels=part, use_cache=False).loss.backward()


@pytest.mark.parametrize(
    ("family", "kv_groups"), [*((family, "whole") for family in (*FAMILIES, *OTHERS)), ("llama", "within")]
)
def test_gradients_are_those_of_the_plain_way(family: str, kv_groups: str) -> None:
    found = []
    for packed in (False, True):
        model, handle = model_of(family)
        tokens = torch.randint(0, handle.spec.vocab_size, (MICRO_STEPS, 8), generator=torch.Generator().manual_seed(1))
        for step in (0, 1):  # the second time gradients are there already
            handle.activate(IndexGenerator(handle.spec, 3, SamplingOptions(kv_groups=kv_groups)).draw(step, RATES))
            if packed:
                handle.pack()
            passes(model, tokens)
            handle.unpack()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    plain, packed_too = found
    assert {name for name, grad in plain.items() if grad is None} == {n for n, g in packed_too.items() if g is None}
    for name, grad in plain.items():
        if grad is not None:
            torch.testing.assert_close(packed_too[name], grad, rtol=1e-10, atol=1e-12, msg=name)


def test_unpacked_parameters_are_read_as_they_are_now() -> None:
    """An update between two steps on one subnetwork is seen by the second."""
    model, handle = model_of("gpt2")
    handle.activate(IndexGenerator(handle.spec, 3).draw(0, RATES))
    tokens = torch.arange(8).unsqueeze(0)
    losses = []
    for _ in range(2):
        handle.pack()
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        handle.unpack()
        losses.append(loss.item())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad if parameter.grad is not None else 0.0
    assert losses[1] < losses[0]


class WholeWrites(TorchDispatchMode):
    """Counts new or changed tensors of the shape of a whole sampled weight."""

    def __init__(self, shapes: Iterable[torch.Size]) -> None:
        super().__init__()
        self.shapes, self.count = set(shapes), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        view = {value.data_ptr() for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        for value in tree_leaves(out):
            written = isinstance(value, Tensor) and (
                value.data_ptr() not in view or func.__name__.split(".")[0][-1] == "_"
            )
            self.count += written and value.shape in self.shapes
        return out


@pytest.mark.parametrize("family", FAMILIES)
def test_no_micro_batch_writes_a_whole_sampled_weight(family: str) -> None:
    """Counted in what torch executes: the plain way fills and adds one for each sampled weight and micro-batch."""
    counts = {}
    for packed in (False, True):
        model, handle = model_of(family)
        handle.activate(IndexGenerator(handle.spec, 3).draw(0, SamplingRates(0.4, 0.6, 1.0)))
        layer = handle.layers[0]
        weights = [layer.get_submodule(held.path)._parameters[held.name] for held in handle.spec.sampled]
        handle.pack()
        parts = {copy.shape for copy in packed_copies(layer)}  # Llama: a part of Q is as large as all of K
        handle.unpack()
        shapes = [weight.shape for weight in weights if weight is not None and weight.shape not in parts]
        assert len(shapes) >= 3
        tokens = torch.randint(0, handle.spec.vocab_size, (MICRO_STEPS, 7))
        if packed:
            handle.pack()
        with WholeWrites(shapes) as writes:
            passes(model, tokens)
        counts[packed] = writes.count
        handle.unpack()
    assert counts[True] == 0 and counts[False] >= MICRO_STEPS * len(handle.layers) * len(shapes)
