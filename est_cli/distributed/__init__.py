"""Several processes train one model: what they tell each other, and when they give up.

group.py      the processes: share, gather, sum, wait; a lost one becomes a PeerLostError
agreement.py  the few numbers that go along with every step: loss, signals, which subnetwork
exchange.py   what a step asks of the two below, and the answer for one process
replicas.py   each process holds the whole model: gradients are summed (data parallel)
shards.py     each holds a share of it: FSDP2
"""

from __future__ import annotations

from est_cli.distributed.agreement import Agreed, read_header, step_header
from est_cli.distributed.exchange import Alone, Exchange, StepPlan
from est_cli.distributed.group import Group, peers_answer
from est_cli.distributed.replicas import Replicas, weight_checksum
from est_cli.distributed.shards import Shards, gathered, shard

__all__ = [
    "Agreed",
    "Alone",
    "Exchange",
    "Group",
    "Replicas",
    "Shards",
    "StepPlan",
    "gathered",
    "peers_answer",
    "read_header",
    "shard",
    "step_header",
    "weight_checksum",
]
