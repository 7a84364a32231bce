"""Fully sharded: each process holds a share of every weight, gradient and moment (torch's FSDP2).

The same call for CPU and GPU. The router leaves a skipped layer out before FSDP's hooks see it, so the layer is neither
gathered nor reduced; since all processes run the same subnetwork, they all leave it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from est_cli.config import LaunchConfig
from est_cli.distributed.gradient_sync import StepPlan, wire_dtype


def shard(
    whole: nn.Module, layers: Sequence[nn.Module], device: torch.device, world_size: int, launch: LaunchConfig
) -> None:
    """Spread the first process's parameters of `whole` over all of them; gradients will be sums, not means.

    The others may have theirs on the meta device. A layer at a time is sent to all, who keep their shares: no process
    but the first ever has the whole model.

    `whole` is what is called for a step's loss: its own call gathers what lies outside of the layers, always as it is
    kept, so that embeddings and LM head are those of replicas. Of layers that are gathered in other numbers neither the
    inputs nor the sums of gradients are converted.
    """
    size = launch.shard_size or world_size
    if size == world_size:
        mesh = init_device_mesh(device.type, (world_size,))
    else:
        mesh = init_device_mesh(device.type, (world_size // size, size), mesh_dim_names=("replicate", "shard"))
    as_kept, gather = MixedPrecisionPolicy(), wire_dtype(launch.gather_dtype)
    of_layers = MixedPrecisionPolicy(gather, torch.float32, cast_forward_inputs=False) if gather else as_kept
    reduce = wire_dtype(launch.reduce_dtype)
    done: set[nn.Module] = set()
    for module in (*layers, whole):
        _fill([part for part in module.modules() if part not in done], device)
        done.update(module.modules())
        sharded = fully_shard(
            module,
            mesh=mesh,
            reshard_after_forward=launch.reshard_after_forward,
            mp_policy=as_kept if module is whole else of_layers,
        )
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
        if reduce is not None:  # as the policy's reduce_dtype micro-batches would be added up in it, too
            sharded.set_custom_reduce_scatter(NarrowReduceScatter(reduce))  # type: ignore[arg-type]
    if gather:  # torch looks for the gathered weights of layers that have never run
        for layer in layers:
            assert isinstance(layer, FSDPModule)
            layer.unshard()
            layer.reshard()


class NarrowReduceScatter:
    """FSDP2's ReduceScatter in a type of fewer bits: what each process has added up is rounded once before."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory for gradients as they are, before and after."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False
    ) -> None:
        """The sum of this process's share, on the stream of now."""
        assert not async_op, "FSDP2 orders it by streams"
        reduced = torch.empty_like(output_tensor, dtype=self._dtype)
        reduce_scatter = (
            getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        )  # torch 2.13 renamed it
        reduce_scatter(reduced, input_tensor.to(self._dtype), op=op, group=group)
        output_tensor.copy_(reduced)


def _fill(modules: Sequence[nn.Module], device: torch.device) -> None:
    """Parameters and buffers of `modules` themselves become those of the first process, on the device; ties stay."""
    filled: dict[Tensor, Tensor] = {}
    for tensors in (table for module in modules for table in (module._parameters, module._buffers)):
        for name, tensor in tensors.items():
            if tensor is not None:
                if tensor not in filled:
                    filled[tensor] = _of_first(tensor, device)
                tensors[name] = filled[tensor]  # type: ignore[assignment]


def _of_first(tensor: Tensor, device: torch.device) -> Tensor:
    here = torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.detach().to(device)
    dist.broadcast(here, src=0)
    return nn.Parameter(here, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else here


class FullySharded:
    """GradientSync of processes that hold a share each (see GradientSync); FSDP2 does the work inside of backward."""

    packs = False  # a parameter is whole only while its layer runs

    def __init__(self, whole: nn.Module, layers: Sequence[nn.Module]) -> None:
        assert isinstance(whole, FSDPModule)
        self.reduced_bytes = 0
        self._whole = whole
        self._sizes = [_bytes(layer) for layer in layers]
        self._outside = _bytes(whole) - sum(self._sizes)
        self._micro_steps = 0

    def begin(self, plan: StepPlan) -> None:
        assert plan.anywhere is None or len(plan.subnetworks) > 1, "all processes must run the same subnetwork"
        self._micro_steps = plan.micro_steps
        running = plan.at(0).layer_idx if plan.anywhere is None else plan.anywhere
        self.reduced_bytes = self._outside
        self.reduced_bytes += sum(self._sizes if running is None else (self._sizes[number] for number in running))

    def before(self, micro_step: int) -> None:
        """Gradients stay where they are until the last micro-step, whose end also takes those of layers it skipped."""
        self._whole.set_requires_gradient_sync(micro_step + 1 == self._micro_steps)

    def finish(self, header: Tensor) -> Tensor:
        dist.all_reduce(header)
        return header


@contextmanager
def gathered(whole: nn.Module) -> Iterator[None]:
    """For passes without a backward: what lies outside of the layers is at hand for calls other than that of `whole`,
    such as generating text, and nothing stays gathered behind them, to be read after the weights have changed."""
    if not isinstance(whole, FSDPModule):
        yield
        return
    whole.unshard()
    try:
        yield
    finally:
        for module in whole.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def _bytes(module: nn.Module) -> int:
    """Of the whole gradients of a module's parameters."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
