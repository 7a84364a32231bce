"""Several processes train one model: what they tell each other, and when they give up.

group.py      the processes: share, gather, sum, wait; a lost one becomes a PeerLostError
agreement.py  the few numbers that go along with every step: loss, signals, which subnetwork
gradient_sync.py   what a step asks of the two below, and the answer for one process
data_parallel.py   each process holds the whole model: gradients are summed
fully_sharded.py   each holds a share of it: FSDP2
hardware.py   what kinds of devices can do
device.py     the device of this process: opened, its kernels, its memory
"""

from __future__ import annotations

from est_cli.distributed.agreement import Agreed, read_header, step_header
from est_cli.distributed.data_parallel import DataParallel, weight_checksum, weights_finite
from est_cli.distributed.fully_sharded import FullySharded, gathered, shard
from est_cli.distributed.gradient_sync import GradientSync, NoSync, StepPlan, wire_dtype
from est_cli.distributed.group import Group, peers_answer

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
