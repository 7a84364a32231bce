"""Mamba's selective scan where its CUDA kernels are not installed, in time and memory linear in the sequence.

transformers' own loop reads one position after the other out of large tensors, and autograd makes each of these reads a
gradient as large as the whole tensor: the backward pass takes time that grows with the square of the sequence. Here the
backward pass is a loop as well, and all that is kept are the states.

Shapes: B batch, C channels, T positions, N state.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable
from transformers.models.mamba import modeling_mamba

THEIRS = modeling_mamba.mamba_selective_scan


def use_selective_scan(use: bool) -> None:
    """Have all Mamba models of this process scan with `selective_scan`, or with transformers' function again."""
    has_kernels = find_spec("mamba_ssm") is not None
    modeling_mamba.mamba_selective_scan = selective_scan if use and not has_kernels else THEIRS


def selective_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **others: Any,
) -> Any:
    """What transformers' mamba_selective_scan computes (its signature): (B, C, T).

    hidden_states, dt, z (B, C, T), A (C, N), B, C (B, N, T), D, delta_bias (C,). A caller who wants the last state, and
    torch.compile, which has an associative scan of its own, get transformers' function.
    """
    if return_last_state or torch.compiler.is_compiling():
        more = {"delta_softplus": delta_softplus, "return_last_state": return_last_state, **others}
        return THEIRS(hidden_states, dt, A, B, C, D=D, z=z, delta_bias=delta_bias, **more)
    exact = torch.promote_types(hidden_states.dtype, torch.float32)
    x, dt, into, out_of = (value.to(exact).permute(2, 0, 1).contiguous() for value in (hidden_states, dt, B, C))
    if delta_bias is not None:
        dt = dt + delta_bias
    if delta_softplus:
        dt = F.softplus(dt)
    with torch.autocast(x.device.type, enabled=False):
        y = _Scan.apply(dt, dt * x, A.to(exact), into, out_of)
    if D is not None:
        y = y + x * D
    y = y.permute(1, 2, 0)
    return y if z is None else y * F.silu(z)


class _Scan(torch.autograd.Function):
    """dt, u (T, B, C), A (C, N), into, out_of (T, B, N) -> y (T, B, C).

    h_t = exp(dt_t A) * h_(t-1) + u_t into_t, and y_t is the sum of h_t * out_of_t over the state (Gu and Dao 2023).
    """

    @staticmethod
    def forward(ctx: Any, dt: Tensor, u: Tensor, a: Tensor, into: Tensor, out_of: Tensor) -> Tensor:
        states = u.new_zeros(len(u) + 1, *u.shape[1:], a.shape[1])
        y = torch.empty_like(u)
        for t in range(0 if isinstance(u, FakeTensor) else len(u)):  # fake tensors have shapes, which are there
            state = torch.mul(u[t].unsqueeze(-1), into[t].unsqueeze(1), out=states[t + 1])
            state.addcmul_(_decay(dt[t], a), states[t])
            torch.bmm(state, out_of[t].unsqueeze(-1), out=y[t].unsqueeze(-1))
        ctx.save_for_backward(dt, u, a, into, out_of, states)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, ...]:
        dt, u, a, into, out_of, states = ctx.saved_tensors
        grad_dt, grad_u, grad_into = (torch.empty_like(value) for value in (dt, u, into))
        grad_a, grad_state = torch.zeros_like(a), torch.zeros_like(states[0])
        for t in reversed(range(len(u))):
            grad_state.addcmul_(grad_y[t].unsqueeze(-1), out_of[t].unsqueeze(1))
            torch.bmm(grad_state, into[t].unsqueeze(-1), out=grad_u[t].unsqueeze(-1))
            torch.bmm(u[t].unsqueeze(1), grad_state, out=grad_into[t].unsqueeze(1))
            grad_state.mul_(_decay(dt[t], a))
            grad_exponent = grad_state * states[t]  # of dt_t A
            torch.sum(grad_exponent * a, -1, out=grad_dt[t])
            grad_a += (grad_exponent * dt[t].unsqueeze(-1)).sum(0)
        with torch.autocast(u.device.type, enabled=False):
            grad_out_of = torch.matmul(grad_y.unsqueeze(2), states[1:]).squeeze(2)
        return grad_dt, grad_u, grad_a, grad_into, grad_out_of


def _decay(dt: Tensor, a: Tensor) -> Tensor:
    """(B, C), (C, N) -> (B, C, N)."""
    return (dt.unsqueeze(-1) * a).exp_()
