"""At p = 1 nothing happens: the same operators, the same bits as the untouched Hugging Face model."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from est_cli.est import FULL, EstHandle, IndexGenerator, SamplingRates, apply_est
from est_cli.families import spec_of
from tests.lab.est_models import FAMILIES, build, config_of, tokens
from tests.lab.reference import Pass, forward_backward

SAMPLED = SamplingRates(0.5, 0.5, 0.6)


def only_wrap(handle: EstHandle) -> None:
    """apply_est alone."""


def activate_full(handle: EstHandle) -> None:
    handle.activate_full()


def draw_at_p_1(handle: EstHandle) -> None:
    handle.activate(IndexGenerator(handle.spec, 0).draw(0, SamplingRates(1.0, 1.0, 1.0)))


def subnetwork_then_full(handle: EstHandle) -> None:
    handle.activate(IndexGenerator(handle.spec, 0).draw(0, SAMPLED))
    handle.activate_full()


def subnetwork_then_p_1(handle: EstHandle) -> None:
    handle.activate(IndexGenerator(handle.spec, 0).draw(0, SAMPLED))
    handle.activate(FULL)


HISTORIES = [only_wrap, activate_full, draw_at_p_1, subnetwork_then_full, subnetwork_then_p_1]
every_history = pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.__name__)
every_family = pytest.mark.parametrize("family", FAMILIES)
every_attention = pytest.mark.parametrize("attention", ["eager", "sdpa"])


class Trace(TorchDispatchMode):
    """Records every operator that runs, forward and backward, with the shapes it read and wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[torch.Size, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        shapes = tuple(leaf.shape for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor))
        self.calls.append((str(func), shapes))
        return result


def traced(model: PreTrainedModel, ids: torch.Tensor) -> list[tuple[str, tuple[torch.Size, ...]]]:
    with Trace() as trace:
        forward_backward(model, ids)
    return trace.calls


def pair(
    family: str, attention: str, history: Callable[[EstHandle], None], **changes: Any
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The untouched model and its wrapped copy."""
    plain = build(config_of(family, attn_implementation=attention, **changes))
    wrapped = deepcopy(plain)
    history(apply_est(wrapped, spec_of(wrapped)))
    return plain, wrapped


def assert_bit_equal(a: Pass, b: Pass) -> None:
    assert torch.equal(a.loss, b.loss)
    assert torch.equal(a.logits, b.logits)
    assert torch.equal(a.input_gradient, b.input_gradient)
    assert a.gradients.keys() == b.gradients.keys()
    assert all(torch.equal(a.gradients[name], b.gradients[name]) for name in a.gradients)


@every_family
@every_attention
@every_history
def test_logits_and_gradients_have_the_same_bits(family: str, attention: str, history: Callable) -> None:
    plain, wrapped = pair(family, attention, history)
    assert_bit_equal(forward_backward(wrapped, tokens()), forward_backward(plain, tokens()))


@every_family
@every_attention
@every_history
def test_the_same_operators_run(family: str, attention: str, history: Callable) -> None:
    plain, wrapped = pair(family, attention, history)
    expected = traced(plain, tokens())
    assert len(expected) > 100
    assert traced(wrapped, tokens()) == expected


@every_family
def test_the_trace_sees_a_subnetwork(family: str) -> None:
    """The check above can fail."""
    plain, wrapped = pair(
        family, "eager", lambda handle: handle.activate(IndexGenerator(handle.spec, 0).draw(0, SAMPLED))
    )
    assert traced(wrapped, tokens()) != traced(plain, tokens())


@pytest.mark.slow
@every_family
@pytest.mark.parametrize("history", [only_wrap, subnetwork_then_full], ids=lambda history: history.__name__)
def test_ten_optimizer_steps_have_the_same_bits(family: str, history: Callable) -> None:
    plain, wrapped = pair(family, "eager", history)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-2) for model in (plain, wrapped)]
    losses = []
    for step in range(10):
        passes = [forward_backward(model, tokens(seed=step)) for model in (plain, wrapped)]
        assert_bit_equal(*passes)
        losses.append(passes[0].loss)
        for optimizer in optimizers:
            optimizer.step()
    assert len(set(map(float, losses))) == 10
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), wrapped.parameters(), strict=True))


def test_dropout_draws_the_same_numbers() -> None:
    plain, wrapped = pair("gpt2", "eager", subnetwork_then_full, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)
    passes = []
    for model in (plain, wrapped):
        torch.manual_seed(5)
        passes.append(forward_backward(model, tokens()))
    assert_bit_equal(*passes)


@every_family
def test_p_1_draws_nothing_and_leaves_the_global_generator_alone(family: str) -> None:
    generator = IndexGenerator(spec_of(config_of(family)), 0)
    before = torch.get_rng_state()
    assert generator.draw(0, SamplingRates()) == FULL
    generator.draw(0, SAMPLED)
    assert torch.equal(torch.get_rng_state(), before)
