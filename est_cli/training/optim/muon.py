"""torch's Muon for the matrices of the layers, with clipped gradients and rejected steps.

Muon (Jordan et al., 2024): the momentum of a matrix is orthogonalised by five Newton-Schulz iterations before it is
subtracted. By default the update has the root mean square of AdamW's (Liu et al., 2025, Muon is scalable for LLM
training), so that learning rate and weight decay are those of AdamW.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim._muon import muon as torch_muon

from est_cli.config import DEFAULT_MOMENTUM, DEFAULT_NS_STEPS, AdjustLr, OptimConfig
from est_cli.est import ModelSpec
from est_cli.storage.tensors import own_share


def matrices_of(layers: Sequence[nn.Module], spec: ModelSpec) -> dict[nn.Parameter, bool]:
    """The weights of the layers' projections, and whether each is stored transposed, (in, out).

    A fused projection, such as GPT-2's c_attn, is one matrix. No matrices are: what lies outside of the layers
    (embeddings, LM head), vectors, convolutions, and tables that are no module's `weight`, such as Mamba's A_log.
    """
    transposed = {f"{projection.path}.weight" for projection in spec.projections if projection.transposed}
    return {
        parameter: name in transposed
        for layer in layers
        for name, parameter in layer.named_parameters()
        if name.endswith(".weight") and parameter.dim() == 2 and parameter.requires_grad
    }


def build_muon(matrices: dict[nn.Parameter, bool], optim: OptimConfig) -> torch.optim.Muon:
    """torch's Muon over `matrices` (see matrices_of).

    A group's `transposed` and `lr_ratio`, its learning rate over the schedule's, are read by step_muon and update.
    """
    adjust = AdjustLr.match_rms_adamw if optim.adjust_lr is None else optim.adjust_lr
    ratio = 1.0 if optim.muon_lr is None else optim.muon_lr / optim.lr
    groups = [
        {"params": [p for p, is_transposed in matrices.items() if is_transposed is side], "transposed": side}
        for side in (False, True)
    ]
    return torch.optim.Muon(
        [{**group, "lr_ratio": ratio} for group in groups],
        lr=optim.lr,
        weight_decay=optim.weight_decay,
        momentum=DEFAULT_MOMENTUM if optim.momentum is None else optim.momentum,
        nesterov=True if optim.nesterov is None else optim.nesterov,
        ns_steps=DEFAULT_NS_STEPS if optim.ns_steps is None else optim.ns_steps,
        adjust_lr_fn=adjust.value,
    )


@torch.no_grad()
def step_muon(muon: torch.optim.Muon, divisor: Tensor | None, rejected: Tensor) -> None:
    """A step with gradients over `divisor`, or none where `rejected` is 1.0; both stay on the device."""
    for group in muon.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                state = muon.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                _step_matrix(parameter, state["momentum_buffer"], group, divisor, rejected)


def _step_matrix(
    parameter: nn.Parameter, momentum: Tensor, group: dict[str, Any], divisor: Tensor | None, rejected: Tensor
) -> None:
    """On copies, of which nothing is taken over where the step is rejected.

    A matrix that is spread over processes is put together in all of them, which do the same and keep their shares.
    """
    assert parameter.grad is not None
    gradient = _whole(parameter.grad) if divisor is None else _whole(parameter.grad) / divisor
    copies = _whole(parameter).clone(), gradient, _whole(momentum).clone()
    # The adjusted learning rate depends on which side is the output.
    weight, grad, buffer = (copy.T if group["transposed"] else copy for copy in copies)
    settings = ("lr", "weight_decay", "momentum", "nesterov", "ns_coefficients", "ns_steps", "eps", "adjust_lr_fn")
    torch_muon([weight], [grad], [buffer], has_complex=False, **{key: group[key] for key in settings})
    for tensor, changed in ((parameter, copies[0]), (momentum, copies[2])):
        own, new = _local(tensor), _local(own_share(changed, tensor))
        torch.where(rejected > 0, own, new, out=own)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
