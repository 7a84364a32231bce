"""What a planned run takes beside FLOPs: GPU hours at an assumed share of the peak, disk, and text for its size."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from est_cli.common.errors import ConfigError
from est_cli.common.peaks import PEAK_FLOP_PER_S, known_peak
from est_cli.config import Precision
from est_cli.config.resolve import Resolved
from est_cli.est import FlopsLedger

OPTIMAL_TOKENS = 20
"""For each parameter: what a dense model of a fixed training budget wants (Hoffmann et al. 2022)."""
_HOUR_S = 3600.0
_FP32_BYTES = 4


@dataclass(frozen=True)
class GpuHours:
    """Of one kind of GPU; None where its peak at this precision is not known."""

    name: str
    precision: Precision
    peak_flop_per_s: float | None
    used: float | None
    dense: float | None
    """What as many steps of the complete model take."""


def gpu_hours(wanted: Sequence[str], precision: Precision | None, mfu: float, ledger: FlopsLedger) -> list[GpuHours]:
    """Hours of one GPU, or of N together: FLOPs (total) / (`mfu` * peak). ConfigError for a GPU that is not known.

    `precision` None: bf16, or fp16 where a GPU has no bf16.
    """
    return [_hours(_named(name), precision, mfu, ledger) for name in wanted]


def _hours(name: str, precision: Precision | None, mfu: float, ledger: FlopsLedger) -> GpuHours:
    chosen = precision or (Precision.fp16 if known_peak(name, Precision.bf16) is None else Precision.bf16)
    peak = known_peak(name, chosen)
    if peak is None:
        return GpuHours(name, chosen, None, None, None)
    used, dense = (flops.total / (mfu * peak) / _HOUR_S for flops in (ledger.used, ledger.dense))
    return GpuHours(name, chosen, peak, used, dense)


def _named(wanted: str) -> str:
    """The first GPU of the table of peaks whose name has these words, as H100 or RTX 4090."""
    words = wanted.lower().split()
    for known in PEAK_FLOP_PER_S:
        if words and set(words) <= set(re.split(r"[ -]", known.lower())) | {known.lower()}:
            return known
    raise ConfigError(f"gpus: {wanted!r} is none whose peak is known; choose of {', '.join(PEAK_FLOP_PER_S)}")


@dataclass(frozen=True)
class Disk:
    """Bytes."""

    checkpoints: int
    """How many are kept in the end."""
    checkpoint: int
    """Weights and moments."""
    model: int
    """The final model."""
    token: int
    """Of the token cache, for each token of the text."""

    @property
    def run(self) -> int:
        """At most: a further checkpoint is there while the newest is written."""
        return (self.checkpoints + 1) * self.checkpoint + self.model


def disk_of(run: Resolved, parameters: int, states: int, vocab_size: int) -> Disk:
    """`states`: bytes of weights, gradients and moments, all in fp32."""
    weights = _FP32_BYTES * parameters
    kept = len(kept_checkpoints(run))
    return Disk(kept, states - weights, weights, 2 if vocab_size <= 1 << 16 else 4)


def kept_checkpoints(run: Resolved) -> list[int]:
    """The steps whose checkpoints are there when the run has ended."""
    train, last = run.config.train, run.max_steps
    saved = sorted({*_multiples(train.checkpoint_every, last), *run.lasting, last})
    kept = {*saved[-max(train.keep_last, 2) :], *run.lasting}
    return sorted(kept | {step for step in saved if train.keep_every and step % train.keep_every == 0})


def _multiples(every: int, last: int) -> Iterable[int]:
    return range(every, last + 1, every) if every else ()
