"""The peak of a device: known ones by their full names, and none for a name that only begins like a known one."""

from __future__ import annotations

import pytest

from est_cli.config import Precision
from est_cli.distributed.device import known_peak


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
        ("NVIDIA A10G", None, None),
        ("NVIDIA L40", None, None),
        ("NVIDIA H100", None, None),
        ("some other GPU", None, None),
    ],
)
def test_peaks_are_known_or_null(name: str, bf16: float | None, fp32: float | None) -> None:
    assert (known_peak(name, Precision.bf16), known_peak(name, Precision.fp32)) == (bf16, fp32)
