"""The loss at drawn positions against plain Hugging Face logits at the same ones, picked by hand."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from est_cli.est import IndexGenerator, SamplingRates, apply_est, draw_positions, sample_sizes, training_flops
from est_cli.est.sizes import DEFAULTS
from est_cli.families import spec_of
from est_cli.models.lm_loss import LmLoss, target_count
from tests.lab.est_models import ALL_FAMILIES
from tests.models.test_lm_loss import HEADS, B, T, gradients, model_and_tokens, reference

KINDS = [LmLoss(), LmLoss(chunk=4, pad_to=8), LmLoss(chunk=1), LmLoss("torch", chunk=5), LmLoss("whole")]


def some(step: int = 0, p_t: float = 0.4, sequences: int = B, seq_len: int = T) -> Tensor:
    drawn = draw_positions(0, step, torch.arange(sequences), seq_len, p_t)
    assert drawn is not None
    return drawn


def by_hand(model: Any, tokens: Tensor, drawn: Tensor) -> Tensor:
    """One position after the other: log-softmax of Hugging Face's logits at the next token."""
    logits = model(input_ids=tokens).logits
    places = [(row, position) for row, positions in enumerate(drawn.tolist()) for position in positions]
    losses = [-logits[row, at].log_softmax(0)[tokens[row, at + 1]] for row, at in places]
    return torch.stack(losses).mean()


def assert_same(model: Any, found: Tensor, expected: Tensor, rtol: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=0)
    theirs = [gradient.clone() for gradient in gradients(model, expected)]
    for ours, their in zip(gradients(model, found), theirs, strict=True):
        torch.testing.assert_close(ours, their, rtol=rtol, atol=1e-13)


@HEADS
@pytest.mark.parametrize("loss", KINDS, ids=repr)
def test_every_kind_of_loss(family: str, loss: LmLoss) -> None:
    """float64, heads with a bias, a factor and a cap."""
    if loss.kind == "torch" and (family == "gemma2" or not hasattr(torch.nn, "LinearCrossEntropyOptions")):
        pytest.skip("refused (tests/training/test_families.py), or not in this torch")
    model, tokens = model_and_tokens(family)
    drawn = some()
    assert_same(model, loss(model, tokens, target_count(tokens, drawn), drawn=drawn), by_hand(model, tokens, drawn))


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_family(family: str) -> None:
    model, tokens = model_and_tokens(family)
    drawn = some()
    with torch.no_grad():
        found = LmLoss(chunk=4)(model, tokens, drawn.numel(), drawn=drawn)
        torch.testing.assert_close(found, by_hand(model, tokens, drawn), rtol=1e-12, atol=0)


@pytest.mark.parametrize("tied", [False, True])
def test_tied_and_own_weights(tied: bool) -> None:
    model, tokens = model_and_tokens("gpt2", tie_word_embeddings=tied)
    drawn = some()
    assert_same(model, LmLoss()(model, tokens, drawn.numel(), drawn=drawn), by_hand(model, tokens, drawn))


@pytest.mark.parametrize("kind", ["chunked", "whole"])
def test_the_mean_over_all_draws_is_the_loss_of_all_positions(kind: str) -> None:
    """Two of three positions of each of two sequences: all 9 draws, losses and gradients, to rounding."""
    model, tokens = model_and_tokens("gpt2")
    tokens, loss = tokens[:2, :4], LmLoss(kind, chunk=3)
    of_a_row = [*combinations(range(3), 2)]
    losses, totals = [], [torch.zeros_like(p) for p in model.parameters()]
    for rows in product(of_a_row, repeat=2):
        one = loss(model, tokens, 4, drawn=torch.tensor(rows))
        losses.append(one.detach())
        for total, gradient in zip(totals, gradients(model, one), strict=True):
            total += gradient / len(of_a_row) ** 2
    whole = reference(model, tokens)
    torch.testing.assert_close(torch.stack(losses).mean(), whole, rtol=1e-12, atol=0)
    assert torch.stack(losses).std() > 1e-3, "one draw alone is not the mean"
    for total, gradient in zip(totals, gradients(model, whole), strict=True):
        torch.testing.assert_close(total, gradient, rtol=1e-10, atol=1e-13)


def test_micro_batches_of_any_size_weigh_each_sequence_alike() -> None:
    """A step of 3 sequences as 2 and 1: the sum is what the whole step gives."""
    model, tokens = model_and_tokens("llama")
    drawn = some()
    expected = [gradient.clone() for gradient in gradients(model, by_hand(model, tokens, drawn))]
    model.zero_grad()
    for rows in (slice(0, 2), slice(2, 3)):
        LmLoss()(model, tokens[rows], drawn.numel(), drawn=drawn[rows]).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-13)


def test_mixed_precision_is_as_close_as_that_of_all_positions() -> None:
    model, tokens = model_and_tokens("gpt2", torch.float32)
    drawn = some()
    exact = [gradient.clone() for gradient in gradients(model, by_hand(model, tokens, drawn))]
    errors = []
    for kind in ("whole", "chunked"):
        with torch.autocast("cpu", torch.bfloat16):
            loss = LmLoss(kind, chunk=5)(model, tokens, drawn.numel(), drawn=drawn)
        found = gradients(model, loss)
        errors.append(max(((f - e).norm() / e.norm()).item() for f, e in zip(found, exact, strict=True)))
    assert errors[1] < 1.2 * errors[0] < 0.1, errors


@pytest.mark.parametrize("rates", [SamplingRates(p_t=0.4), SamplingRates(0.5, 0.5, 0.5, p_t=0.2)], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_flops_are_what_pytorch_counts(family: str, rates: SamplingRates) -> None:
    """Of the plain loss: the counter misses products in place, which that of pieces has."""
    model, tokens = model_and_tokens(family, torch.float32)
    spec, drawn = spec_of(model), some(p_t=rates.p_t)
    apply_est(model, spec).activate(IndexGenerator(spec, 0).draw(0, rates))
    with FlopCounterMode(display=False) as counter:
        LmLoss("whole")(model, tokens, drawn.numel(), drawn=drawn).backward()
    flops = training_flops(spec, sample_sizes(spec, rates, DEFAULTS), B, T)
    assert flops.total == counter.get_total_flops()
    head = 6 * model.config.hidden_size * model.config.vocab_size
    whole = training_flops(spec, sample_sizes(spec, SamplingRates(rates.p_h, rates.p_m, rates.p_l), DEFAULTS), B, T)
    assert flops.blocks == whole.blocks and whole.total - flops.total == head * (B * T - drawn.numel())
