"""A GPU that torch does not see is told with the reason, and what is wanted so is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from est_cli.distributed import unseen_gpu as module
from est_cli.distributed.unseen_gpu import unseen_gpu

OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver."


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "device_type", lambda: "cpu")
    (tmp_path / "nvidiactl").touch()
    return tmp_path


def failing(message: str) -> None:
    raise RuntimeError(message)


def test_a_machine_without_a_gpu_hears_nothing(dev: Path) -> None:
    assert unseen_gpu(dev) is None


def test_a_build_of_torch_for_cpus_is_named(dev: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (dev / "nvidia0").touch()
    monkeypatch.setattr(torch.version, "cuda", None)
    told = str(unseen_gpu(dev))
    assert told.startswith(f"a GPU of NVIDIA is here, and torch {torch.__version__} does not see it: this build")
    assert "https://pytorch.org/get-started/locally" in told and told.endswith("; training on the CPU")


def test_an_old_driver_and_a_gpu_that_cannot_be_opened_are_told(dev: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (dev / "nvidia0").touch()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", lambda: failing(OLD))
    told = str(unseen_gpu(dev))
    assert "driver on your system is too old (found version 11040)" in told and "older build of torch" in told
    monkeypatch.setattr(torch.cuda, "init", lambda: failing("No CUDA GPUs are available"))
    assert "No CUDA GPUs are available; nvidia-smi tells" in str(unseen_gpu(dev))


@pytest.mark.parametrize(
    ("name", "value"), [("CUDA_VISIBLE_DEVICES", ""), ("CUDA_VISIBLE_DEVICES", "-1"), ("ACCELERATE_USE_CPU", "true")]
)
def test_who_wants_the_cpu_hears_nothing(name: str, value: str, dev: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (dev / "nvidia0").touch()
    monkeypatch.setenv(name, value)
    assert unseen_gpu(dev) is None


def test_a_gpu_that_is_seen_is_none(dev: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (dev / "nvidia0").touch()
    monkeypatch.setattr(module, "device_type", lambda: "cuda")
    assert unseen_gpu(dev) is None
