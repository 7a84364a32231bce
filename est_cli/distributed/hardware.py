"""What is known of devices: what each kind of them can do; peak speeds of GPUs by their names: common/peaks.py."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from est_cli.common.counts import counted
from est_cli.common.errors import ConfigError
from est_cli.common.peaks import known_peak
from est_cli.config import Precision


@dataclass(frozen=True)
class DeviceKind:
    """How a run uses a kind of device; what is False takes the plain way, which needs nothing but torch."""

    runs_ahead: bool
    """Pinned memory, copies that nobody waits for, numbers read a step late: torch.cuda's streams and events."""
    compiled: bool
    """Whether layers are compiled where train.compile is null."""
    pad_vocab_to: int
    """What train.pad_vocab_to=null stands for."""
    never_run: bool
    """No run of est on this kind of device is known of."""


KINDS = {
    "cpu": DeviceKind(runs_ahead=False, compiled=False, pad_vocab_to=1, never_run=False),
    "cuda": DeviceKind(runs_ahead=True, compiled=True, pad_vocab_to=128, never_run=False),
    "rocm": DeviceKind(runs_ahead=True, compiled=True, pad_vocab_to=128, never_run=True),
    "xpu": DeviceKind(runs_ahead=False, compiled=False, pad_vocab_to=128, never_run=True),
    "mps": DeviceKind(runs_ahead=False, compiled=False, pad_vocab_to=1, never_run=True),
}
"""AMD's GPUs call themselves cuda in torch; xpu are Intel's, mps Apple's."""


def device_type() -> str:
    """torch's name of the device that a run on this machine uses; ACCELERATE_USE_CPU=true keeps it on the CPU."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if torch.xpu.is_available():
        return "xpu"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def kind_of(type_name: str) -> DeviceKind:
    """What a device of this torch type can do."""
    if type_name == "cuda" and torch.version.hip is not None:
        return KINDS["rocm"]
    return KINDS[type_name]


def runs_ahead(device: torch.device) -> bool:
    """Whether the device works on its own while the host goes on to the next step."""
    return kind_of(device.type).runs_ahead


def precisions_of(device: torch.device) -> tuple[Precision, ...]:
    """What the device computes in without emulating it, the best choice for training first."""
    if device.type == "cuda" and torch.version.hip is None:
        return precisions_of_capability(torch.cuda.get_device_capability(device)[0])
    return {
        "cpu": (Precision.fp32, Precision.bf16, Precision.fp16),
        "cuda": (Precision.bf16, Precision.fp16, Precision.fp32),
        "xpu": (Precision.bf16, Precision.fp16, Precision.fp32),
        "mps": (Precision.fp32,),
    }[device.type]


def precisions_of_capability(major: int) -> tuple[Precision, ...]:
    """Of NVIDIA's GPUs: bf16 and TF32 came with compute capability 8, tensor cores (for fp16) with 7."""
    if major >= 8:
        return (Precision.bf16, Precision.fp16, Precision.tf32, Precision.fp32)
    return (Precision.fp16, Precision.fp32) if major == 7 else (Precision.fp32, Precision.fp16)


def require_gpus(processes: int) -> None:
    """Raise ConfigError where this machine has GPUs, but fewer than so many processes, each of which takes one."""
    there = torch.cuda.device_count()
    if there and processes > there:
        raise ConfigError(
            f"launch.num_processes: {processes} processes, but this machine has {counted(there, 'GPU')}; one each: "
            f"launch.num_processes={there}"
        )


def settled_precision(wanted: Precision | None, device: torch.device, key: str = "train.precision") -> Precision:
    """What a run computes in on `device`; None: the best choice. Raises ConfigError where it would be emulated."""
    able = precisions_of(device)
    if wanted is None:
        return able[0]
    if wanted not in able:
        names = ", ".join(precision.value for precision in able)
        raise ConfigError(
            f"{key}: {device_name(device)} does not compute in {wanted.value}; "
            f"it does in {names}: {key}={able[0].value}"
        )
    return wanted


def repeats_kv_heads(device: torch.device, precision: Precision) -> bool:
    """Whether grouped KV heads must be repeated before attention: on GPUs of NVIDIA only the flash kernel takes them as
    they are, in 16 bits and from compute capability 8 on; torch would fall back to T x T matrices without a word."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    half = precision in (Precision.bf16, Precision.fp16)
    return not half or torch.cuda.get_device_capability(device)[0] < 8


def device_name(device: torch.device) -> str:
    """The maker's name of a GPU, of a CPU that of its model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "xpu":
        return str(torch.xpu.get_device_name(device))
    return "Apple's GPU (mps)" if device.type == "mps" else cpu_name()


def hardware(device: torch.device, processes: int) -> str:
    """What a run trains on, for its record: `2 x NVIDIA H200`, or the CPU with its threads."""
    if device.type != "cpu":
        return f"{processes} x {device_name(device)}"
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {processes} process(es) of {threads} thread{'s' if threads != 1 else ''}"


def cpu_name() -> str:
    """As the machine tells it; where it tells none, the kind of its instructions."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        name = found[1].strip() if found else name
    return name


def peak_flop_per_s(device: torch.device, precision: Precision) -> float | None:
    """The device's peak, or None where it is not known: an MFU is never guessed."""
    return known_peak(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None
