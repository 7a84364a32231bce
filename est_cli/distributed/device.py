"""The device of a run: Accelerate's choice, its memory and its peak speed."""

from __future__ import annotations

import ctypes
import platform
import re
import resource
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch.nn.attention import SDPBackend, sdpa_kernel

from est_cli.common.errors import ConfigError
from est_cli.common.rank import Rank
from est_cli.config import Attention, Precision
from est_cli.est import EstHandle, ModelSpec

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h

PEAK_FLOP_PER_S = {
    "NVIDIA A10": (125e12, 31.2e12),
    "NVIDIA A30": (165e12, 10.3e12),
    "NVIDIA A40": (149.7e12, 37.4e12),
    "NVIDIA A100": (312e12, 19.5e12),
    "NVIDIA B200": (2250e12, None),
    "NVIDIA GeForce RTX 3090": (71e12, 35.6e12),
    "NVIDIA GeForce RTX 4090": (165.2e12, 82.6e12),
    "NVIDIA H100 80GB HBM3": (989e12, 67e12),
    "NVIDIA H100 NVL": (835e12, 60e12),
    "NVIDIA H100 PCIe": (756e12, 51e12),
    "NVIDIA H200": (989e12, 67e12),
    "NVIDIA H200 NVL": (835e12, 60e12),
    "NVIDIA L4": (121e12, 30.3e12),
    "NVIDIA L40S": (362e12, 91.6e12),
    "Tesla V100-SXM2-16GB": (None, 15.7e12),
    "Tesla V100-SXM2-32GB": (None, 15.7e12),
}
"""(bf16, fp32) peaks of dense matrix products from the makers' data sheets: no sparsity, no TF32, sums in fp32."""


def kind_of_device() -> str:
    """`cuda` where there is a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def build_accelerator(precision: Precision, rank: Rank, timeout_s: float) -> Accelerator:
    """This process's GPU where there is one; bf16 means autocast with fp32 weights.

    Under a launcher the processes meet here, and give up on each other after `timeout_s`. Raises ConfigError where they
    do not find each other.
    """
    mixed = "bf16" if precision is Precision.bf16 else "no"
    timeout = InitProcessGroupKwargs(timeout=timedelta(seconds=timeout_s))
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=mixed, kwargs_handlers=[timeout])
    if accelerator.num_processes != rank.world_size:
        raise ConfigError(
            f"launch.num_processes: the launcher started {rank.world_size} processes, but this one knows of "
            f"{accelerator.num_processes} only; use torchrun or launch.num_processes"
        )
    return accelerator


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


def compile_layers(handle: EstHandle) -> None:
    """Compile layer by layer: one graph for all layers of a shape, with the drawn indices among its inputs.

    The router stays outside of it, so skipping layers makes no graph.
    """
    torch._dynamo.config.recompile_limit = 64  # shapes x (stages, evaluation): beyond it torch silently stops compiling
    for layer in handle.layers:
        layer.compile(dynamic=False)


@contextmanager
def attention_kernel(
    attention: Attention,
    device: torch.device,
    precision: Precision,
    spec: ModelSpec,
    dropout: float,
    masks: tuple[bool, ...],
) -> Iterator[None]:
    """Have torch use this kernel for attention; `masks`: for each kind of layer, whether it needs a mask.

    Raises ConfigError where it cannot do what the run needs of it.
    """
    if attention is Attention.auto:
        yield
        return
    with sdpa_kernel(_KERNELS[attention]):
        for masked in masks:
            _try_attention(attention, device, precision, spec, dropout, masked)
        yield


def any_attention_kernel() -> AbstractContextManager[None]:
    """Let torch choose again, inside of attention_kernel."""
    return sdpa_kernel(list(_KERNELS.values()))


def _try_attention(
    attention: Attention, device: torch.device, precision: Precision, spec: ModelSpec, dropout: float, masked: bool
) -> None:
    """One small forward and backward pass of the kind that the layers will ask for.

    A sliding window needs a mask, and transformers repeats the KV heads where there is one.
    """
    dtype = torch.bfloat16 if precision is Precision.bf16 else torch.float32
    grouped = spec.num_heads != spec.num_kv_heads and not masked
    kv_heads = spec.num_kv_heads if grouped else spec.num_heads
    mask = torch.ones(16, 16, dtype=torch.bool, device=device).tril() if masked else None

    def projected(heads: int) -> torch.Tensor:
        return torch.zeros(1, heads, 16, spec.head_dim, dtype=dtype, device=device, requires_grad=True)

    query, key, value = projected(spec.num_heads), projected(kv_heads), projected(kv_heads)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch tells at length why, for each kernel
            out = F.scaled_dot_product_attention(
                query, key, value, mask, dropout_p=dropout, is_causal=not masked, enable_gqa=grouped
            )
            out.sum().backward()
    except RuntimeError as error:
        needs = f"{precision.value}, heads of {spec.head_dim}" + (", grouped KV heads" if grouped else "")
        needs += ", a sliding window" if masked else ""
        raise ConfigError(
            f"train.attention: {attention.value} cannot do this on {device.type} ({needs}, dropout {dropout:g}); "
            "use auto or math"
        ) from error


_KERNELS = {
    Attention.flash: SDPBackend.FLASH_ATTENTION,
    Attention.cudnn: SDPBackend.CUDNN_ATTENTION,
    Attention.efficient: SDPBackend.EFFICIENT_ATTENTION,
    Attention.math: SDPBackend.MATH,
}


def runs_ahead(device: torch.device) -> bool:
    """Whether the device works on its own while the host goes on to the next step."""
    return device.type == "cuda"


def peak_flop_per_s(device: torch.device, precision: Precision) -> float | None:
    """The device's peak, or None where it is not known: an MFU is never guessed."""
    if device.type != "cuda":
        return None
    return known_peak(torch.cuda.get_device_name(device), precision)


def hardware(device: torch.device, processes: int) -> str:
    """What a run trains on, for its record: `2 x NVIDIA H200`, or the CPU with its threads."""
    if device.type == "cuda":
        return f"{processes} x {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {processes} process(es) of {threads} thread{'s' if threads != 1 else ''}"


def cpu_name() -> str:
    """As the machine tells it; where it tells none, the kind of its instructions."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        name = found[1].strip() if found else name
    return name


@cache  # asked for at every logged step
def known_peak(name: str, precision: Precision) -> float | None:
    """The peak of the device of this name; memory sizes and forms may follow the name in the table (A100-SXM4-80GB)."""
    fitting = [known for known in PEAK_FLOP_PER_S if re.match(rf"{re.escape(known)}(?![0-9A-Z])", name)]
    if not fitting:
        return None
    bf16, fp32 = PEAK_FLOP_PER_S[max(fitting, key=len)]
    return bf16 if precision is Precision.bf16 else fp32


def peak_memory_gb(device: torch.device) -> float:
    """Most memory used so far, in 1e9 bytes: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
