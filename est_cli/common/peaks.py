"""Peak speeds of GPUs by their names. Standard library only."""

from __future__ import annotations

import re
from functools import cache

PEAK_FLOP_PER_S = {
    "NVIDIA A10": (125e12, 62.5e12, 31.2e12),
    "NVIDIA A30": (165e12, 82e12, 10.3e12),
    "NVIDIA A40": (149.7e12, 74.8e12, 37.4e12),
    "NVIDIA A100": (312e12, 156e12, 19.5e12),
    "NVIDIA B200": (2250e12, None, None),
    "NVIDIA GeForce RTX 3090": (71e12, 35.6e12, 35.6e12),
    "NVIDIA GeForce RTX 4090": (165.2e12, 82.6e12, 82.6e12),
    "NVIDIA GH200 480GB": (989e12, 494e12, 67e12),
    "NVIDIA H100 80GB HBM3": (989e12, 494e12, 67e12),
    "NVIDIA H100 NVL": (835e12, 417e12, 60e12),
    "NVIDIA H100 PCIe": (756e12, 378e12, 51e12),
    "NVIDIA H200": (989e12, 494e12, 67e12),
    "NVIDIA H200 NVL": (835e12, 417e12, 60e12),
    "NVIDIA H800": (989e12, 494e12, 67e12),
    "NVIDIA H20": (148e12, 74e12, 44e12),
    "NVIDIA L4": (121e12, 60e12, 30.3e12),
    "NVIDIA L40S": (362e12, 183e12, 91.6e12),
    "NVIDIA RTX A6000": (154.8e12, 77.4e12, 38.7e12),
    "Tesla T4": (65e12, None, 8.1e12),
    "Tesla V100-SXM2-16GB": (125e12, None, 15.7e12),
    "Tesla V100-SXM2-32GB": (125e12, None, 15.7e12),
}
"""(bf16 and fp16, tf32, fp32) peaks of dense matrix products from the makers' data sheets: no sparsity, sums in fp32.
V100 and T4 have fp16 only."""


@cache  # asked for at every logged step
def known_peak(name: str, precision: str) -> float | None:
    """The peak of the device of this name at bf16, fp16, tf32 or fp32; None where it is not known.

    Memory sizes and forms may follow the name in the table (A100-SXM4-80GB).

    A slice of a GPU (MIG) has a peak of its own, which is not known.
    """
    fitting = [known for known in PEAK_FLOP_PER_S if re.match(rf"{re.escape(known)}(?![0-9A-Z])", name)]
    if not fitting or " MIG " in name:
        return None
    half, tf32, fp32 = PEAK_FLOP_PER_S[max(fitting, key=len)]
    if precision == "bf16" and name.startswith("Tesla"):
        return None
    return {"tf32": tf32, "fp32": fp32}.get(precision, half)
