"""The device of a run: how it is opened, what it computes in, its kernels of attention, its memory."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from importlib.util import find_spec

import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.integrations import sdpa_attention

from est_cli.common.errors import ConfigError
from est_cli.common.rank import Rank
from est_cli.config import Attention, Precision
from est_cli.distributed.hardware import device_type, repeats_kv_heads
from est_cli.est import EstHandle, ModelSpec

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
_HALF = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}


_WHOLE_PAGES = (
    ",pinned_max_round_threshold_mb:1" if torch.torch_version.TorchVersion(torch.__version__) >= "2.13" else ""
)
"""A snapshot's page-locked memory is as large as its tensors; before torch 2.13 each takes the next power of two."""
GPU_ENVIRONMENT = {
    # Stages of other sizes leave gaps that fit nothing.
    "PYTORCH_CUDA_ALLOC_CONF": f"expandable_segments:True{_WHOLE_PAGES}",
    "TORCH_FR_BUFFER_SIZE": "2000",  # NCCL's flight recorder, written where a collective times out
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
}
"""Set unless it is set, before a GPU is opened."""


def prepare_gpu_environment() -> None:
    """What torch reads from the environment; a user's own settings, also under their other names, stay."""
    others = {"PYTORCH_CUDA_ALLOC_CONF": "PYTORCH_ALLOC_CONF", "TORCH_FR_BUFFER_SIZE": "TORCH_NCCL_TRACE_BUFFER_SIZE"}
    for name, value in GPU_ENVIRONMENT.items():
        if others.get(name, name) not in os.environ:
            os.environ.setdefault(name, value)


def open_communicator(device: torch.device) -> None:
    """Have NCCL take its memory now: it does so in the first reduction, which would come after memory was measured."""
    if device.type == "cuda" and dist.is_initialized():
        dist.all_reduce(torch.zeros(1, device=device))
        torch.cuda.synchronize(device)


def build_accelerator(rank: Rank, timeout_s: float) -> Accelerator:
    """This process's GPU where there is one.

    Under a launcher the processes meet here, and give up on each other after `timeout_s`. Raises ConfigError where they
    do not find each other.
    """
    timeout = InitProcessGroupKwargs(timeout=timedelta(seconds=timeout_s))
    accelerator = Accelerator(cpu=device_type() == "cpu", mixed_precision="no", kwargs_handlers=[timeout])
    if accelerator.num_processes != rank.world_size:
        raise ConfigError(
            f"launch.num_processes: the launcher started {rank.world_size} processes, but this one knows of "
            f"{accelerator.num_processes} only; use torchrun or launch.num_processes"
        )
    return accelerator


def own_device(rank: Rank) -> torch.device:
    """The device that this process will use, named before any of them is opened."""
    kind = device_type()
    return torch.device(kind, rank.local_rank) if kind in ("cuda", "xpu") else torch.device(kind)


def use_precision(precision: Precision) -> None:
    """Products of fp32 matrices use a GPU's tensor cores (TF32) or do not, for this process."""
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high" if precision is Precision.tf32 else "highest")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Inside of it a forward pass computes in `precision`."""
    half = _HALF.get(precision)
    return nullcontext() if half is None else torch.autocast(device.type, half)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next big tensor, on a CPU.

    By default it gives back and takes again the memory of every activation in every step, and the page faults cost up
    to 40 % of a small model's step. Does nothing where the C library is another one.
    """
    if device_type() != "cpu" or not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)  # no tensor gets a mapping of its own, to be unmapped when freed
        mallopt(_M_TRIM_THRESHOLD, -1)  # the top of the heap is never returned


RECOMPILE_LIMIT = 64
"""Shapes x (stages, evaluation): beyond it torch silently stops compiling."""


def compile_layers(handle: EstHandle, processes: int) -> None:
    """Compile layer by layer: one graph for all layers of a shape, with the drawn indices among its inputs.

    The router stays outside of it, so skipping layers makes no graph. `processes` of this machine share its cores.
    """
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    if "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ:  # torch takes up to 32 of them in each process
        from torch._inductor import config as inductor_config  # heavy, and nothing for those who compile nothing

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        inductor_config.compile_threads = max(1, min(32, cores // processes))
    for layer in handle.layers:
        layer.compile(dynamic=False)


def compiled_graphs() -> int:
    """Graphs that this process has compiled."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def missing_for_compiling(device: str) -> str | None:
    """What torch.compile needs on a device of this type and does not find; None: it is all there."""
    if device != "cpu":  # Triton builds what starts its kernels
        if find_spec("triton") is None:
            return "Triton"
        found = any(shutil.which(name) for name in (os.environ.get("CC"), "gcc", "clang", "cc") if name)
        return None if found else "a C compiler"
    from torch._inductor.cpp_builder import get_cpp_compiler  # heavy, and asked for by few

    try:
        get_cpp_compiler()
    except Exception:  # InvalidCxxCompiler, which older versions do not have
        return "a C++ compiler"
    return None


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
    if attention not in _KERNELS:
        yield
        return
    with sdpa_kernel(_KERNELS[attention]):
        for masked in masks:
            _try_attention(attention, device, precision, spec, dropout, masked)
        yield


@contextmanager
def repeated_kv_heads(needed: bool) -> Iterator[None]:
    """Have transformers repeat grouped KV heads before attention, where torch's fast kernels do not take them."""
    choose = sdpa_attention.use_gqa_in_sdpa
    if needed:
        sdpa_attention.use_gqa_in_sdpa = lambda *args: False
    try:
        yield
    finally:
        sdpa_attention.use_gqa_in_sdpa = choose


@contextmanager
def deterministic_kernels(attention: Attention) -> Iterator[None]:
    """Inside of it torch takes kernels whose sums have one order only, and raises where there is none.

    Of the kernels of attention flash and math have such a backward pass.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first product is computed
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it costs and decides nothing
    kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    try:
        with sdpa_kernel(kernels) if attention is Attention.auto else nullcontext():
            yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def any_attention_kernel() -> AbstractContextManager[None]:
    """Let torch choose again, inside of attention_kernel."""
    return sdpa_kernel(list(_KERNELS.values()))


def _try_attention(
    attention: Attention, device: torch.device, precision: Precision, spec: ModelSpec, dropout: float, masked: bool
) -> None:
    """One small forward and backward pass of the kind that the layers will ask for.

    A sliding window needs a mask, and transformers repeats the KV heads where there is one.
    """
    dtype = _HALF.get(precision, torch.float32)
    grouped = spec.num_heads != spec.num_kv_heads and not masked and not repeats_kv_heads(device, precision)
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


def peak_memory_gb(device: torch.device) -> float:
    """Most memory used so far, in 1e9 bytes: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def allocator_record(device: torch.device) -> dict[str, float]:
    """Of a GPU, whose memory torch takes in blocks and keeps: what it has at most taken, and how often it had to give
    blocks back to get others. Nothing of a CPU."""
    if device.type != "cuda":
        return {}
    retries = torch.cuda.memory_stats(device).get("num_alloc_retries", 0)
    return {"mem_reserved_gb": torch.cuda.max_memory_reserved(device) / 1e9, "alloc_retries": retries}
