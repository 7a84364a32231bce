"""The Triton kernel of the LM head's softmax against torch's cross-entropy, in Triton's interpreter, without a GPU.

`make test-fake-gpu` runs it: torch brings Triton along in its builds for GPUs only, and the interpreter is asked for
when a process starts.
"""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from est_cli.models.lm_loss import LmLoss, target_count
from tests.lab.est_models import build, config_of

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 and Triton: make test-fake-gpu", allow_module_level=True)
from est_cli.models import triton_softmax

FACTOR = 1 / 64


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of a small vocabulary takes several rounds."""
    monkeypatch.setattr(triton_softmax, "COLUMNS", 16)


def both(logits: Tensor, labels: Tensor, vocab_size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Our loss and gradient, then torch's in float64."""
    reference = logits[:, :vocab_size].double().requires_grad_()
    wanted = F.cross_entropy(reference, labels, ignore_index=-100, reduction="sum") * FACTOR
    wanted.backward()
    ours = logits.clone()
    loss = triton_softmax.loss_of_piece(ours, labels, vocab_size, torch.tensor(FACTOR))
    assert reference.grad is not None
    return loss, ours, wanted, reference.grad


@pytest.mark.parametrize("vocab_size", [1, 15, 16, 17, 50])
@pytest.mark.parametrize("padding", [0, 14])
@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(torch.float32, 1e-5, 1e-8), (torch.bfloat16, 1e-2, 1e-4)])
def test_loss_and_gradient_are_those_of_cross_entropy(
    vocab_size: int, padding: int, dtype: torch.dtype, rtol: float, atol: float
) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    logits = (20 * torch.randn(6, vocab_size + padding, generator=generator)).to(dtype)
    labels = torch.randint(vocab_size, (6,), generator=generator)
    labels[[1, 4]] = -100
    loss, gradient, wanted, wanted_gradient = both(logits, labels, vocab_size)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient[:, :vocab_size].double(), wanted_gradient, rtol=rtol, atol=atol)
    assert not gradient[:, vocab_size:].any() and not gradient[[1, 4]].any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(value: float) -> None:
    logits = torch.zeros(2, 40)
    logits[1, 33] = value
    loss = triton_softmax.loss_of_piece(logits, torch.tensor([0, 0]), 40, torch.tensor(FACTOR))
    assert not loss.isfinite()


@pytest.mark.parametrize("family", ["gpt2", "phi", "granite", "gemma2"])
def test_a_models_loss_and_gradients(family: str) -> None:
    """Plain logits, a bias, a factor and a cap; pieces end inside of a sequence, and one sequence does not count."""
    config = config_of(family)
    model = build(config)
    tokens = torch.randint(config.vocab_size, (3, 16), generator=torch.Generator().manual_seed(1))
    found = []
    for kind in ("chunked", "triton"):
        model.zero_grad()
        loss = LmLoss(kind, chunk=7, pad_to=32)(model, tokens, target_count(tokens), sequences=2)
        loss.backward()
        found.append([loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
