"""A GPU that this machine has and torch does not see: a run would train on the CPU, slowly and without a word."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch

from est_cli.common.errors import reason
from est_cli.distributed.hardware import device_type

_NO_GPU_WANTED = ("", "-1", "none", "NoDevFiles")
_GET_ANOTHER = "install one for this machine, https://pytorch.org/get-started/locally"


def unseen_gpu(dev: Path = Path("/dev")) -> str | None:
    """One line with the reason and what to do, where a run goes to the CPU beside a GPU of NVIDIA or AMD; else None.

    Nothing is said where the environment asks for a CPU. `dev` is the folder of the devices.
    """
    wanted = [os.environ.get(name, "all") for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")]
    if device_type() != "cpu" or "ACCELERATE_USE_CPU" in os.environ or any(word in _NO_GPU_WANTED for word in wanted):
        return None
    nvidia = any(dev.glob("nvidia[0-9]*"))
    if not nvidia and not (dev / "kfd").exists():
        return None
    kind = "NVIDIA" if nvidia else "AMD"
    return (
        f"a GPU of {kind} is here, and torch {torch.__version__} does not see it: {_why(nvidia)}; training on the CPU"
    )


def _why(nvidia: bool) -> str:
    if (torch.version.cuda if nvidia else torch.version.hip) is None:
        return f"this build of torch is for another device; {_GET_ANOTHER}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says the same again
            torch.cuda.init()
    except Exception as error:  # an old driver, no right to open the device, an index that is not there
        said = reason(error).rstrip(".")
        if "driver" in said.lower():
            return f"{said}; or take an older build of torch, {_GET_ANOTHER}"
        return f"{said}; nvidia-smi tells whether it works, CUDA_VISIBLE_DEVICES which of them are to be seen"
    return "it gives no reason; nvidia-smi tells whether the GPU works"
