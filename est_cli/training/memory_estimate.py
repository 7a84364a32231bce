"""What a process needs of memory, as memory.py estimates it. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from est_cli.config import LaunchConfig, Precision


@dataclass(frozen=True)
class Activations:
    """Bytes that one set of rates keeps for the backward pass of a micro-batch; they grow linearly with it."""

    fixed: int
    """Kept however many sequences there are, such as the gathered weights of a subnetwork."""
    per_sequence: int

    def of(self, sequences: int) -> int:
        return self.fixed + self.per_sequence * sequences


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes."""

    parameters: int
    """Number of parameters, tied ones once (not bytes)."""
    states: int
    """Parameters, gradients and moments."""
    layers: tuple[int, ...]
    """Number of parameters of each layer."""
    buffered: int
    """Of the parameters those whose gradients are small, and copied into buffers to be sent."""
    activations: list[Activations]
    """Per set of rates."""
    precision: Precision
    """What the passes compute in."""

    def states_under(self, launch: LaunchConfig, accumulates: bool, sampled: float = 1.0) -> int:
        """The states that one process holds at most; `accumulates`: whether its step has several micro-batches.

        `sampled`: the share of the layers' parameters that run. Under ddp a process holds all, and the buffers in which
        gradients are sent: what is sampled and what is small is copied, what is large and whole is not. Under fsdp it
        holds its share, the gathered weights (of a layer and of the one that comes next, or of all that stay), and
        gradients that are whole: of one layer, or until the last micro-batch of all.
        """
        if launch.num_processes == 1:
            return self.states
        if launch.strategy != "fsdp":
            copied = self.buffered if sampled == 1.0 else round(sampled * sum(self.layers))
            return self.states + (_BYTES * copied if launch.reduce_dtype is None else 2 * self.parameters)
        outside, largest = self.parameters - sum(self.layers), max(self.layers)
        at_hand = sum(self.layers) if launch.reshard_after_forward is False else min(2 * largest, sum(self.layers))
        gathered = _BYTES * outside + (_BYTES if launch.gather_dtype is None else 2) * at_hand
        gradients = _BYTES * (self.parameters if accumulates else outside + largest)
        return self.states // (launch.shard_size or launch.num_processes) + gathered + gradients


_BYTES = 4
"""Of a number in fp32."""
