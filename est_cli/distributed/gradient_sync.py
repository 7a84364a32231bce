"""How the processes of a run put their gradients together: what the step asks of it, and the answer for one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from est_cli.config import WireDtype
from est_cli.est import Subnetwork

SHARED_BELOW = 1 << 22
"""Gradients of fewer entries go into a bucket; larger ones are sent by themselves, whole ones where they lie."""


def wire_dtype(name: WireDtype | None) -> torch.dtype | None:
    """torch's type of that name."""
    return None if name is None else {WireDtype.bf16: torch.bfloat16}[name]


@dataclass(frozen=True)
class StepPlan:
    """Which subnetworks a step will run, known before it begins."""

    subnetworks: Sequence[Subnetwork]
    """Of this process: one for all micro-steps, or one for each."""
    micro_steps: int
    anywhere: frozenset[int] | None
    """Layers that run in any micro-step of any process; None where all of them run one and the same subnetwork."""
    everyones: Sequence[Subnetwork] | None = None
    """All that run in any process, where each draws its own."""

    def at(self, micro_step: int) -> Subnetwork:
        """What runs in this micro-step."""
        return self.subnetworks[min(micro_step, len(self.subnetworks) - 1)]

    @property
    def shared(self) -> bool:
        """Whether several micro-batches of this process run one subnetwork, as all processes do."""
        return self.micro_steps > 1 and len(self.subnetworks) == 1 and self.anywhere is None

    @property
    def drawn(self) -> Sequence[Subnetwork]:
        """All that run anywhere."""
        return self.subnetworks if self.everyones is None else self.everyones


class GradientSync(Protocol):
    """Sums gradients over the processes. Called in this order in every step, by all of them."""

    reduced_bytes: int
    """Of gradients that this process handed over in the last step."""
    packs: bool
    """Whether micro-batches may share packed copies of the parameters (see EstHandle.pack)."""

    def begin(self, plan: StepPlan) -> None:
        """A step begins; no gradient is there."""

    def before(self, micro_step: int) -> None:
        """Forward and backward of `micro_step` come next; its subnetwork is active."""

    def finish(self, header: Tensor) -> Tensor:
        """Return the sum of `header` over the processes; every gradient is the sum, too, in the processes that hold it.

        The result is on the header's device and need not be there yet.
        """


class NoSync:
    """One process: its gradients are the gradients."""

    reduced_bytes = 0
    packs = True

    def begin(self, plan: StepPlan) -> None:
        """Nothing to prepare."""

    def before(self, micro_step: int) -> None:
        """Nothing to prepare."""

    def finish(self, header: Tensor) -> Tensor:
        """The header itself."""
        return header
