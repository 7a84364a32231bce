"""The device of a run: Accelerate's choice, its memory and its peak speed."""

from __future__ import annotations

import ctypes
import resource
import sys

import torch
from accelerate import Accelerator

from est_cli.config import Precision

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h

PEAK_FLOP_PER_S = {
    ("NVIDIA A100", Precision.bf16): 312e12,
    ("NVIDIA A100", Precision.fp32): 19.5e12,
    ("NVIDIA H100 80GB HBM3", Precision.bf16): 989e12,
    ("NVIDIA H100 80GB HBM3", Precision.fp32): 67e12,
    ("NVIDIA H200", Precision.bf16): 989e12,
    ("NVIDIA H200", Precision.fp32): 67e12,
}
"""Dense matrix-product peaks from the makers' data sheets (no sparsity, no TF32), by the beginning of the name."""


def build_accelerator(precision: Precision) -> Accelerator:
    """One process, on the GPU where there is one; bf16 means autocast with fp32 weights."""
    mixed = "bf16" if precision is Precision.bf16 else "no"
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=mixed)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next big tensor, on a CPU.

    By default it gives back and takes again the memory of every activation in every step, and the page faults cost up
    to 40 % of a small model's step. Does nothing where the C library is another one.
    """
    if torch.cuda.is_available() or not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)  # no tensor gets a mapping of its own, to be unmapped when freed
        mallopt(_M_TRIM_THRESHOLD, -1)  # the top of the heap is never returned


def peak_flop_per_s(device: torch.device, precision: Precision) -> float | None:
    """The device's peak, or None where it is not known: an MFU is never guessed."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = (peak for (model, of), peak in PEAK_FLOP_PER_S.items() if name.startswith(model) and of is precision)
    return next(known, None)


def peak_memory_gb(device: torch.device) -> float:
    """Most memory used so far, in 1e9 bytes: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
