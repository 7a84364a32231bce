"""What devices can do, told for GPUs that are not here, and the peaks by their full names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from est_cli.common.errors import ConfigError
from est_cli.common.peaks import known_peak
from est_cli.config import Precision
from est_cli.distributed import hardware
from est_cli.distributed.device import GPU_ENVIRONMENT, allocator_record, prepare_gpu_environment
from est_cli.distributed.hardware import precisions_of, repeats_kv_heads, settled_precision

CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA A100 80GB PCIe", 312e12, 19.5e12),
        ("NVIDIA H100 80GB HBM3", 989e12, 67e12),
        ("NVIDIA H200", 989e12, 67e12),
        ("NVIDIA H200 NVL", 835e12, 60e12),
        ("NVIDIA L4", 121e12, 30.3e12),
        ("NVIDIA L40S", 362e12, 91.6e12),
        ("Tesla V100-SXM2-32GB", None, 15.7e12),
        ("NVIDIA B200", 2250e12, None),
        ("NVIDIA GH200 480GB", 989e12, 67e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None),
        ("NVIDIA A10G", None, None),
        ("NVIDIA L40", None, None),
        ("NVIDIA H100", None, None),
        ("some other GPU", None, None),
    ],
)
def test_peaks_are_known_or_null(name: str, bf16: float | None, fp32: float | None) -> None:
    assert (known_peak(name, Precision.bf16), known_peak(name, Precision.fp32)) == (bf16, fp32)


def test_half_precision_and_tf32_have_their_own_peaks() -> None:
    assert known_peak("NVIDIA H100 80GB HBM3", Precision.fp16) == known_peak("NVIDIA H100 80GB HBM3", Precision.bf16)
    assert known_peak("NVIDIA H100 80GB HBM3", Precision.tf32) == 494e12
    assert (known_peak("Tesla T4", Precision.fp16), known_peak("Tesla T4", Precision.bf16)) == (65e12, None)


@pytest.mark.parametrize(
    ("capability", "best", "refused", "repeated"),
    [
        ((9, 0), "bf16", None, {"fp32", "tf32"}),
        ((8, 0), "bf16", None, {"fp32", "tf32"}),
        ((7, 5), "fp16", "bf16", {"fp16", "fp32"}),
        ((7, 0), "fp16", "tf32", {"fp16", "fp32"}),
        ((6, 1), "fp32", "bf16", {"fp16", "fp32"}),
    ],
)
def test_by_compute_capability(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    best: str,
    refused: str | None,
    repeated: set[str],
) -> None:
    """The first choice, what would be emulated, and where torch has no fast kernel for grouped KV heads."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some GPU")
    assert settled_precision(None, CUDA) is Precision(best)
    if refused is not None:
        with pytest.raises(ConfigError, match=f"^train.precision: some GPU does not compute in {refused}; it does in "):
            settled_precision(Precision(refused), CUDA)
    assert {one.value for one in precisions_of(CUDA) if repeats_kv_heads(CUDA, one)} == repeated


@pytest.mark.parametrize(("type_name", "best"), [("cpu", "fp32"), ("xpu", "bf16"), ("mps", "fp32")])
def test_other_devices_take_the_plain_way(type_name: str, best: str) -> None:
    device = torch.device(type_name)
    assert settled_precision(None, device) is Precision(best)
    kind = hardware.kind_of(type_name)
    assert not (kind.runs_ahead or kind.compiled or repeats_kv_heads(device, Precision.fp32))


def test_the_device_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in (("cuda", torch.cuda), ("xpu", torch.xpu), ("mps", torch.backends.mps)):
        with monkeypatch.context() as patch:
            for other in (torch.cuda, torch.xpu, torch.backends.mps):
                patch.setattr(other, "is_available", lambda other=other, module=module: other is module)
            assert hardware.device_type() == name
            patch.setenv("ACCELERATE_USE_CPU", "true")
            assert hardware.device_type() == "cpu"


def test_what_torch_reads_from_the_environment_is_a_users_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "TORCH_NCCL_TRACE_BUFFER_SIZE", *GPU_ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:512")
    monkeypatch.setenv("TORCH_NCCL_DUMP_ON_TIMEOUT", "0")
    prepare_gpu_environment()
    found = {name: os.environ.pop(name, None) for name in GPU_ENVIRONMENT}
    assert found == {
        "PYTORCH_CUDA_ALLOC_CONF": None,
        "TORCH_FR_BUFFER_SIZE": "2000",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
    }


def test_large_pinned_blocks_are_not_rounded_up_where_torch_can_do_without() -> None:
    """An older torch refuses a setting that it does not know."""
    known = b"pinned_max_round_threshold_mb" in (Path(torch.__file__).parent / "lib" / "libc10.so").read_bytes()
    assert ("pinned_max_round_threshold_mb:1" in GPU_ENVIRONMENT["PYTORCH_CUDA_ALLOC_CONF"]) == known


def test_what_a_gpus_allocator_has_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gaps show in what was taken beside what was used."""
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {"num_alloc_retries": 3, "other": 1})
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 2_500_000_000)
    assert allocator_record(torch.device("cuda")) == {"mem_reserved_gb": 2.5, "alloc_retries": 3}
    assert allocator_record(torch.device("cpu")) == {}
