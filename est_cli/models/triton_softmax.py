"""Softmax, loss and gradient of one piece of the LM head's logits as one Triton kernel, which reads them twice.

The first pass over a row keeps the largest logit and the sum of the exponentials together (the online softmax of
Milakov and Gimelshein, 2018), the second one writes the gradient over the logits. torch's operators, compiled or not,
need at least one pass more. Compared with them under TRITON_INTERPRET=1 in tests/models/test_triton_softmax.py; the
kernel has not been run on a GPU.

The import fails where there is no Triton: torch brings it along in its builds for GPUs only.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 4096
"""Logits of a row that a program holds at a time."""


@triton.jit
def _softmax_kernel(
    logits_ptr: Any,
    labels_ptr: Any,
    losses_ptr: Any,
    factor_ptr: Any,
    row_stride: Any,
    vocab_size: Any,
    padded_size: Any,
    COLUMNS: tl.constexpr,
) -> None:
    """One row: its loss, and its logits become (softmax - one at the label) * factor; a label below 0 leaves zeros."""
    row = tl.program_id(0)
    logits_ptr += row.to(tl.int64) * row_stride
    label = tl.load(labels_ptr + row)
    factor = tl.load(factor_ptr)
    lanes = tl.arange(0, COLUMNS)
    largest = tl.full((COLUMNS,), -3e38, tl.float32)  # no -inf: the difference of two is not a number
    total = tl.zeros((COLUMNS,), tl.float32)
    for begin in range(0, vocab_size, COLUMNS):
        columns = begin + lanes
        inside = columns < vocab_size
        x = tl.load(logits_ptr + columns, inside, other=0.0).to(tl.float32)
        larger = tl.where(inside, tl.maximum(largest, x), largest)
        total = total * tl.exp(largest - larger) + tl.where(inside, tl.exp(x - larger), 0.0)
        largest = larger
    row_largest = tl.max(largest, 0)
    log_sum = row_largest + tl.log(tl.sum(total * tl.exp(largest - row_largest), 0))
    counts = label >= 0
    label_logit = tl.load(logits_ptr + label, counts, other=0.0).to(tl.float32)
    tl.store(losses_ptr + row, tl.where(counts, log_sum - label_logit, 0.0))
    for begin in range(0, padded_size, COLUMNS):
        columns = begin + lanes
        x = tl.load(logits_ptr + columns, columns < vocab_size, other=float("-inf")).to(tl.float32)
        gradient = (tl.exp(x - log_sum) - tl.where(columns == label, 1.0, 0.0)) * factor
        gradient = tl.where(counts, gradient, 0.0)
        tl.store(logits_ptr + columns, gradient.to(logits_ptr.dtype.element_ty), columns < padded_size)


def loss_of_piece(logits: Tensor, labels: Tensor, vocab_size: int, factor: Tensor) -> Tensor:
    """The cross-entropy (nats) of a piece, times `factor`, a number of type fp32.

    logits (n, V or more), a row's entries side by side, become the gradient of it, those behind V zero. labels (n,)
    int64; one below 0 has no loss.
    """
    assert logits.stride(1) == 1 and factor.dtype == torch.float32
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    _softmax_kernel[(len(logits),)](
        logits, labels, losses, factor, logits.stride(0), vocab_size, logits.shape[1], COLUMNS=COLUMNS, num_warps=8
    )
    return losses.sum() * factor
