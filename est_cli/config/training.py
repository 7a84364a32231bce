"""Budget, batch, precision and intervals."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Precision(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"


class LmLossKind(StrEnum):
    chunked = "chunked"
    torch = "torch"
    whole = "whole"


class Attention(StrEnum):
    """Which of torch's attention kernels; auto: torch chooses the fastest that can do it."""

    auto = "auto"
    flash = "flash"
    cudnn = "cudnn"
    efficient = "efficient"
    math = "math"


@dataclass
class TrainConfig:
    max_steps: int | None = None
    """Optimizer steps; None with max_tokens None: 300."""
    max_tokens: int | None = None
    """Budget in tokens instead of steps: rounded up to whole steps."""
    seq_len: int = 256
    tokens_per_step: int = 4096
    """Tokens per optimizer step over all micro-batches; a multiple of seq_len."""
    micro_batch: Any = 16  # OmegaConf knows no Union with a list; batch_sizes.py checks what it holds
    """Sequences per forward pass and rank: an int, `auto` (the largest that fits, found when the run starts), or a list
    with one of these for each stage, [32,24,16]."""
    precision: Precision = Precision.fp32
    compile: bool | None = None
    """Regional torch.compile of each layer; None: on CUDA only."""
    attention: Attention = Attention.auto
    lm_loss: LmLossKind = LmLossKind.chunked
    """How the LM head's loss is computed: piece by piece with its gradients (chunked), by torch's own function of that
    kind (torch 2.13 and later), or from the logits of all positions as plain Hugging Face does it (whole)."""
    lm_chunk: int | None = None
    """Positions of a piece under lm_loss=chunked and torch; None: as measured for the device."""
    pad_vocab_to: int | None = None
    """lm_loss=chunked: fill the columns of the LM head's product up to a multiple of this, outside of the model and its
    softmax; None: 128 on CUDA, where odd sizes are slow, else 1 (none)."""
    activation_checkpointing: bool = False
    log_every: int = 1
    eval_every: int = 50
    """Steps between evaluations; above 0 also at the end of a stage whose checkpoint is kept; 0: at the end only."""
    eval_tokens: int | None = 131072
    """Validation tokens read at each evaluation, from the start of the validation split; None: all of it."""
    checkpoint_every: int = 100
    async_checkpoints: bool | None = None
    """Copy what is saved to the host and write it while training goes on; None: on CUDA only."""
    keep_last: int = 2
    """Newest checkpoints kept (at least 2); those at stage transitions are kept beside them."""
    keep_every: int = 0
    """Also keep each checkpoint whose step is a multiple of this."""
    sample_every: int = 0
    """Print a continuation of sample_prompt every so many steps, and at the end."""
    sample_prompt: str = "def "
    sample_tokens: int = 64
    profile_step: int | None = None
    """Record a profiler trace of profile_steps steps from this one on, into the run's folder profile/; None: never."""
    profile_steps: int = 3
