"""Several processes train one model: what they tell each other, and when they give up.

group.py      the processes: share, gather, sum, wait; a lost one becomes a PeerLostError
agreement.py  the few numbers that go along with every step: loss, signals, which subnetwork
gradient_sync.py   what a step asks of the two below, and the answer for one process
data_parallel.py   each process holds the whole model: gradients are summed
fully_sharded.py   each holds a share of it: FSDP2
hardware.py   what kinds of devices can do
device.py     the device of this process: opened, its kernels, its memory

Names are loaded on first use: who asks what a kind of device can do has no need of FSDP2.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from est_cli.distributed.agreement import Agreed, read_header, step_header
    from est_cli.distributed.data_parallel import DataParallel, weight_checksum, weights_finite
    from est_cli.distributed.fully_sharded import FullySharded, gathered, shard
    from est_cli.distributed.gradient_sync import GradientSync, NoSync, StepPlan, wire_dtype
    from est_cli.distributed.group import Group, peers_answer

_HOME = {
    "Agreed": "agreement",
    "read_header": "agreement",
    "step_header": "agreement",
    "DataParallel": "data_parallel",
    "weight_checksum": "data_parallel",
    "weights_finite": "data_parallel",
    "FullySharded": "fully_sharded",
    "gathered": "fully_sharded",
    "shard": "fully_sharded",
    "GradientSync": "gradient_sync",
    "NoSync": "gradient_sync",
    "StepPlan": "gradient_sync",
    "wire_dtype": "gradient_sync",
    "Group": "group",
    "peers_answer": "group",
}

__all__ = [
    "Agreed",
    "DataParallel",
    "FullySharded",
    "GradientSync",
    "Group",
    "NoSync",
    "StepPlan",
    "gathered",
    "peers_answer",
    "read_header",
    "shard",
    "step_header",
    "weight_checksum",
    "weights_finite",
    "wire_dtype",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
