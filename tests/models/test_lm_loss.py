"""The loss in pieces against torch's cross-entropy over the logits of a plain Hugging Face model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from est_cli.models.lm_loss import LmLoss, target_count
from tests.lab.est_models import ALL_FAMILIES, build, config_of

B, T = 3, 16
HEADS = pytest.mark.parametrize("family", ["gpt2", "llama", "phi", "granite", "gemma2"])
"""Two with plain logits, and one each with a bias, a factor and a cap."""


def model_and_tokens(family: str, dtype: torch.dtype = torch.float64, **changes: Any) -> tuple[Any, Tensor]:
    config = config_of(family, **changes)
    model = build(config).to(dtype)
    return model, torch.randint(config.vocab_size, (B, T), generator=torch.Generator().manual_seed(1))


def reference(model: Any, tokens: Tensor) -> Tensor:
    """Hugging Face's own loss, a mean over the targets, in the model's precision."""
    logits = model(input_ids=tokens).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def gradients(model: Any, loss: Tensor) -> list[Tensor]:
    model.zero_grad()
    loss.backward()
    return [parameter.grad for parameter in model.parameters()]


@HEADS
@pytest.mark.parametrize("chunk", [1, 7, 16, 20, 48, 1000])
@pytest.mark.parametrize("pad_to", [1, 128])
def test_pieces_equal_the_whole(family: str, chunk: int, pad_to: int) -> None:
    """Pieces that end inside, at and after the end of a sequence; float64, to 1e-12."""
    model, tokens = model_and_tokens(family)
    whole = reference(model, tokens)
    loss = LmLoss(chunk=chunk, pad_to=pad_to)(model, tokens, target_count(tokens))
    torch.testing.assert_close(loss, whole, rtol=1e-12, atol=0)
    expected = [gradient.clone() for gradient in gradients(model, whole)]
    for ours, theirs in zip(gradients(model, loss), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_the_loss_of_every_family_is_that_of_its_logits(family: str) -> None:
    model, tokens = model_and_tokens(family)
    with torch.no_grad():
        whole = reference(model, tokens)
        loss = LmLoss(chunk=20, pad_to=128)(model, tokens, target_count(tokens))
    torch.testing.assert_close(loss, whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("family", "changes"),
    [("phi", {"tie_word_embeddings": True}), ("gemma3_text", {}), ("granite", {"logits_scaling": 0.25})],
    ids=str,
)
def test_the_gradients_of_other_heads(family: str, changes: dict[str, Any]) -> None:
    model, tokens = model_and_tokens(family, **changes)
    expected = [gradient.clone() for gradient in gradients(model, reference(model, tokens))]
    found = gradients(model, LmLoss(chunk=20, pad_to=8)(model, tokens, target_count(tokens)))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


@HEADS
@pytest.mark.parametrize("loss", [LmLoss(), LmLoss(chunk=20), LmLoss("torch", chunk=20), LmLoss("whole")], ids=repr)
def test_every_kind_in_fp32(family: str, loss: LmLoss) -> None:
    if loss.kind == "torch" and not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        pytest.skip("this torch has no linear_cross_entropy")
    if loss.kind == "torch" and family == "gemma2":
        pytest.skip("refused: torch's own loss knows no cap (tests/training/test_families.py)")
    model, tokens = model_and_tokens(family, torch.float32)
    whole = reference(model, tokens)
    expected = [gradient.clone() for gradient in gradients(model, whole)]
    found = loss(model, tokens, target_count(tokens))
    torch.testing.assert_close(found, whole, rtol=1e-6, atol=0)
    for ours, theirs in zip(gradients(model, found), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


@HEADS
def test_under_autocast_it_is_as_close_to_fp32_as_plain_autocast(family: str) -> None:
    model, tokens = model_and_tokens(family, torch.float32)
    exact = [gradient.clone() for gradient in gradients(model, reference(model, tokens))]
    errors = []
    for kind in ("whole", "chunked"):
        with torch.autocast("cpu", torch.bfloat16):
            loss = LmLoss(kind, chunk=20)(model, tokens, target_count(tokens))
        found = gradients(model, loss)
        errors.append(max(((f - e).norm() / e.norm()).item() for f, e in zip(found, exact, strict=True)))
    assert errors[1] < 1.2 * errors[0] < 0.1, errors


def test_a_factor_on_the_loss_reaches_the_gradients() -> None:
    model, tokens = model_and_tokens("gpt2")
    once = [g.clone() for g in gradients(model, LmLoss(chunk=10)(model, tokens, 1))]
    thrice = gradients(model, 3.0 * LmLoss(chunk=10)(model, tokens, 1))
    for one, three in zip(once, thrice, strict=True):
        torch.testing.assert_close(3.0 * one, three, rtol=1e-12, atol=1e-14)


def test_without_gradients_only_the_loss_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = model_and_tokens("llama")
    products: list[str] = []
    real = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *args, **kwargs: products.append("mm") or real(*args, **kwargs))
    with torch.no_grad():
        LmLoss(chunk=24)(model, tokens, 1)
    assert len(products) == 2, "one product for each piece"


def test_a_label_of_vanishing_probability_keeps_its_loss() -> None:
    """Its softmax is zero in fp32; the loss must come from the logits, not from the logarithm of that."""
    model, tokens = model_and_tokens("llama", torch.float32)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e4)
    loss = LmLoss(chunk=20)(model, tokens, 1)
    assert torch.isfinite(loss)
    torch.testing.assert_close(loss / target_count(tokens), reference(model, tokens), rtol=1e-5, atol=0)
