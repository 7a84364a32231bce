"""LM head and next-token loss in one, piece by piece: the logits of all positions are never in memory at once.

The gradients of a piece are formed while its logits are at hand (the loss is a sum over positions, so its gradient
needs no other piece): three matrix products as in plain training, none of them twice, and nothing of the size of the
logits is kept for the backward pass.

What a family makes of the LM head's product (a bias, a constant factor, a cap; see arch.logits_of) is made of each
piece, and undone in its gradient.

Where positions are drawn (`p_t`, est/positions.py), the LM head sees those alone, k of each sequence.

Shapes: B sequences, T tokens, N = B * T or B * k positions, D model, V vocabulary, n positions of a piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from est_cli.families import logits_of
from est_cli.families.shared.family import Logits
from est_cli.models.documents import document_inputs

IGNORED = -100

Softmax = Literal["torch", "compiled", "triton"]
"""What computes the softmax of a piece."""

CHUNK = {"cpu": 512, "cuda": 8192}
"""Positions of a piece where none are given, as measured (docs/performance.md): on a CPU they stay in the cache."""


@dataclass(frozen=True)
class LmLoss:
    """How a training loss is computed; call it to compute one."""

    kind: str = "chunked"
    """`chunked`: piece by piece, as above; `triton`: the same, the softmax of a piece by a kernel of ours (see
    triton_softmax.py); `torch`: the same by torch's own linear_cross_entropy (torch 2.13 and later); `whole`: Hugging
    Face's logits of all positions, then torch's cross-entropy, the plain way."""
    chunk: int | None = None
    """Positions of a piece; None: CHUNK."""
    pad_to: int = 1
    """chunked, triton: the product's columns are filled up to a multiple of this; the filling takes no part in the
    softmax."""
    compiled: bool = False
    """chunked: the softmax of a piece is one compiled kernel."""
    end_of_text: int | None = None
    """The token that ends documents which do not see each other (see document_inputs); None: all see all before them.

    Either way all tokens of a sequence but the first are predicted, the first one of a document by the end of text
    before it: so the targets are as many, the end of text learns to begin a text, and the losses can be compared."""

    def __call__(
        self,
        model: PreTrainedModel,
        tokens: Tensor,
        targets: int,
        scale: Tensor | None = None,
        sequences: int | None = None,
        drawn: Tensor | None = None,
    ) -> Tensor:
        """Sum of the cross-entropy (nats) of each token given those before it, divided by `targets`: tokens (B, T).

        `scale`: a factor on all of it, a number on the device (see optim/loss_scale.py). `sequences`: only the first so
        many count; the others fill the batch up to a size that is compiled already. `drawn` (B, k): instead of all
        predictions those that are made at these positions (see est/positions.py).
        """
        assert drawn is None or sequences is None, "positions are drawn in training, batches filled up in evaluation"
        divisor = targets if scale is None else targets / scale
        inputs = {"input_ids": tokens, **document_inputs(model, tokens, self.end_of_text)}
        if self.kind == "whole" and drawn is None:
            return next_token_loss(model(**inputs, use_cache=False).logits, tokens, sequences) / divisor
        head, logits = model.get_output_embeddings(), logits_of(model.config)
        bias = getattr(head, "bias", None)
        hidden = model.base_model(**inputs, use_cache=False).last_hidden_state.flatten(0, 1)
        if drawn is None:
            labels, ends = _labels(tokens, sequences), tokens.shape[1]
        else:
            hidden, labels, ends = *_at(drawn, hidden, tokens), None
        if self.kind == "whole":
            return F.cross_entropy(_logits(head(hidden), logits), labels, reduction="sum") / divisor
        chunk = self.chunk or CHUNK.get(tokens.device.type, CHUNK["cuda"])
        if self.kind == "torch":
            return _torch_loss(hidden, head.weight, bias, logits, labels, chunk) / divisor
        counted = len(labels) if sequences is None else sequences * tokens.shape[1]
        softmax: Softmax = "triton" if self.kind == "triton" else "compiled" if self.compiled else "torch"
        how = _How(divisor, counted, ends, chunk, self.pad_to, softmax, torch.is_grad_enabled(), logits)
        return _Chunked.apply(hidden, head.weight, bias, labels, how)


class Objective(nn.Module):
    """A model and how its loss is computed, as one module: what sees its forward (FSDP) sees all of a step's work."""

    def __init__(self, model: PreTrainedModel, lm_loss: LmLoss) -> None:
        super().__init__()
        self.model = model
        self.lm_loss = lm_loss

    def forward(
        self,
        tokens: Tensor,
        targets: int,
        scale: Tensor | None = None,
        sequences: int | None = None,
        drawn: Tensor | None = None,
    ) -> Tensor:
        """See LmLoss."""
        return self.lm_loss(self.model, tokens, targets, scale, sequences, drawn)


def next_token_loss(logits: Tensor, tokens: Tensor, sequences: int | None = None) -> Tensor:
    """Sum of the cross-entropy (nats) of each token given those before it: logits (B, T, V), tokens (B, T).

    The labels are shifted, not the logits: slicing these would copy the largest tensor of the step. `sequences`: see
    LmLoss.
    """
    labels = _labels(tokens, sequences)
    return F.cross_entropy(logits.flatten(0, 1).float(), labels, ignore_index=IGNORED, reduction="sum")


def target_count(tokens: Tensor, drawn: Tensor | None = None) -> int:
    """Predictions that a loss sums over: all but the first token of each sequence, or those that are drawn."""
    return tokens.shape[0] * (tokens.shape[1] - 1) if drawn is None else drawn.numel()


def _labels(tokens: Tensor, sequences: int | None) -> Tensor:
    """(N,): each position's next token; none have the last position of a sequence, and sequences that do not count."""
    labels = F.pad(tokens[:, 1:], (0, 1), value=IGNORED)
    if sequences is not None:
        labels[sequences:] = IGNORED
    return labels.flatten()


def _at(drawn: Tensor, hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Of all hidden states (B * T, D) those at the positions `drawn`, (B * k, D), and the tokens that follow them."""
    first = torch.arange(0, tokens.numel(), tokens.shape[1], device=drawn.device)
    index = (drawn + first.unsqueeze(1)).flatten()
    return hidden.index_select(0, index), tokens.flatten().index_select(0, index + 1)


def _logits(product: Tensor, logits: Logits) -> Tensor:
    """(N, V) in single precision at least, of what the LM head gives."""
    y = product.to(torch.promote_types(product.dtype, torch.float32)) * logits.factor
    return y if logits.cap is None else logits.cap * torch.tanh(y / logits.cap)


def _torch_loss(
    positions: Tensor, weight: Tensor, bias: Tensor | None, logits: Logits, labels: Tensor, chunk: int
) -> Tensor:
    """A factor on the logits is one on the hidden states and the bias."""
    assert logits.cap is None, "torch's own loss cannot cap logits"
    if logits.factor != 1.0:
        positions, bias = positions * logits.factor, None if bias is None else bias * logits.factor
    return F.linear_cross_entropy(
        positions,
        weight,
        labels,
        linear_bias=bias,
        reduction="sum",
        ignore_index=IGNORED,
        options=torch.nn.LinearCrossEntropyOptions(batch_chunk_size=chunk),
    )


@dataclass(frozen=True)
class _How:
    """See LmLoss; `backward`: whether gradients are wanted."""

    divisor: int | Tensor
    counted: int
    """Positions, from the first one, that have a loss, ..."""
    ends: int | None
    """... but for each so many-th one, the last of its sequence; None: without exception."""
    chunk: int
    pad_to: int
    softmax: Softmax
    backward: bool
    logits: Logits


class _Chunked(torch.autograd.Function):
    """hidden (N, D), weight (V, D), bias (V,) or None, labels (N,) -> the loss, with its gradients already formed if
    `how.backward`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, how: _How) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        positions, rows = hidden.to(dtype), _padded(weight, dtype, how.pad_to)
        offset = None if bias is None else bias.to(dtype)
        piece_loss = _loss_by_triton if how.softmax == "triton" else _loss_of_piece
        exact = torch.promote_types(dtype, torch.float32)
        factor = torch.ones((), dtype=exact, device=hidden.device) * (1.0 / how.divisor)
        grad_hidden = torch.empty_like(positions) if how.backward else None
        grad_weight: Tensor | None = None
        grad_bias = torch.zeros_like(bias) if bias is not None and how.backward else None
        loss = torch.zeros_like(factor)
        for begin in range(0, len(positions), how.chunk):
            here = positions[begin : begin + how.chunk]
            logits = torch.mm(here, rows.t())
            slope = _shape(logits, offset, how.logits)
            own = labels[begin : begin + how.chunk]
            loss += piece_loss(logits, own, begin, len(weight), factor, how)
            if grad_hidden is None:
                continue
            if slope is not None:
                logits.mul_(slope)
            torch.mm(logits, rows, out=grad_hidden[begin : begin + how.chunk])
            grad_weight = _added(grad_weight, logits, here, weight.dtype)
            if grad_bias is not None:
                grad_bias += logits[:, : len(weight)].sum(0, dtype=grad_bias.dtype)
        if grad_hidden is not None and grad_weight is not None:
            formed = grad_hidden.to(hidden.dtype), grad_weight[: len(weight)], grad_bias
            ctx.save_for_backward(*formed)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        formed = ctx.saved_tensors
        if grad.device.type != "cpu" or grad != 1.0:  # on a GPU, looking would wait for it
            formed = [None if gradient is None else gradient.mul_(grad) for gradient in formed]
        return *formed, None, None


def _shape(product: Tensor, bias: Tensor | None, logits: Logits) -> Tensor | float | None:
    """product (n, V or more) becomes the logits; returns their derivative by it, None where that is 1."""
    if bias is not None:
        product[:, : len(bias)] += bias
    if logits.factor != 1.0:
        product.mul_(logits.factor)
    if logits.cap is None:
        return None if logits.factor == 1.0 else logits.factor
    capped = product.div_(logits.cap).tanh_()
    slope = (1.0 - capped.square()).mul_(logits.factor)
    capped.mul_(logits.cap)
    return slope


def _padded(weight: Tensor, dtype: torch.dtype, pad_to: int) -> Tensor:
    """(V, D) in `dtype`, with rows of zeros up to a multiple of `pad_to`."""
    size = -(-len(weight) // pad_to) * pad_to
    if size == len(weight):
        return weight.to(dtype)
    rows = weight.new_zeros(size, weight.shape[1], dtype=dtype)
    rows[: len(weight)].copy_(weight)
    return rows


def _loss_of_piece(logits: Tensor, labels: Tensor, begin: int, vocab_size: int, factor: Tensor, how: _How) -> Tensor:
    """The loss of positions `begin` ..., times `factor`; logits (n, V or more) become the gradient of it.

    labels (n,): the next token of each; of a position that has none, or does not count, the label is IGNORED.
    """
    labels = labels.clamp(min=0).unsqueeze(1)  # any token will do where the loss is taken out again
    logits[:, vocab_size:] = -torch.inf
    label_logits = logits.gather(1, labels).to(factor.dtype)
    log_sum = (_compiled_softmax() if how.softmax == "compiled" else _softmax)(logits, factor)
    log_p = label_logits - log_sum
    logits.scatter_(1, labels, (log_p.expm1() * factor).to(logits.dtype))
    without_label = [slice((-1 - begin) % how.ends, None, how.ends)] if how.ends else []
    for left_out in (*without_label, slice(max(0, how.counted - begin), None)):
        logits[left_out] = 0.0
        log_p[left_out] = 0.0
    return -(log_p.sum() * factor)


def _loss_by_triton(logits: Tensor, labels: Tensor, begin: int, vocab_size: int, factor: Tensor, how: _How) -> Tensor:
    """See _loss_of_piece."""
    from est_cli.models.triton_softmax import loss_of_piece  # only here: most builds of torch have no Triton

    return loss_of_piece(logits, labels, vocab_size, factor)


def _softmax(logits: Tensor, factor: Tensor) -> Tensor:
    """logits (n, V) become softmax * factor, computed in factor's dtype; returns their log-sum-exp, (n, 1)."""
    x = logits.to(factor.dtype)
    largest = x.amax(1, keepdim=True)
    x.sub_(largest).exp_()
    total = x.sum(1, keepdim=True)
    logits.copy_(x.mul_(factor / total))
    return largest + total.log()


@cache
def _compiled_softmax() -> Any:
    return torch.compile(_softmax, dynamic=False)


def _added(grad_weight: Tensor | None, logits: Tensor, here: Tensor, dtype: torch.dtype) -> Tensor:
    """grad_weight + logits^T here, (V, D) in `dtype`; None counts as zero."""
    if grad_weight is None:
        return torch.mm(logits.t(), here).to(dtype)
    if logits.dtype == dtype:
        return grad_weight.addmm_(logits.t(), here)
    return grad_weight.add_(torch.mm(logits.t(), here))
