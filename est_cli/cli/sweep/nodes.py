"""A job on several nodes of a Slurm cluster: each node has one task, which starts torchrun; the first records it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from est_cli.cli.sweep.jobs import Job
from est_cli.common.child import python_command
from est_cli.common.errors import ConfigError, reason

PORTS = range(20000, 32000)
"""Below those that Linux gives away by itself; a job takes the one that its number says."""


@dataclass(frozen=True)
class Nodes:
    """Where this process is among the nodes of its job."""

    count: int = 1
    rank: int = 0
    first: str = ""
    """Host name of the first."""
    port: int = 0


def nodes_of(environment: Mapping[str, str]) -> Nodes:
    """As Slurm tells them to a job of submitit; anywhere else one node. ConfigError where Slurm does not answer."""
    if environment.get("SUBMITIT_EXECUTOR") != "slurm" or environment.get("SLURM_JOB_NUM_NODES", "1") == "1":
        return Nodes()
    try:
        names = subprocess.check_output(["scontrol", "show", "hostnames", environment["SLURM_JOB_NODELIST"]], text=True)
        number = int(environment["SLURM_JOB_ID"])
        count, rank = int(environment["SLURM_JOB_NUM_NODES"]), int(environment["SLURM_NODEID"])
    except (OSError, subprocess.SubprocessError, KeyError, ValueError) as error:
        raise ConfigError(f"hydra.launcher.nodes: Slurm does not tell this job its nodes ({reason(error)})") from error
    return Nodes(count, rank, names.split()[0], PORTS[number % len(PORTS)])


def command_of(job: Job, nodes: Nodes) -> Sequence[str]:
    """What runs a job here: its command, or on each of several nodes torchrun with launch.num_processes of them.

    Of torchrun's 30 s after a signal, too few to save a large model, ten minutes are made.
    """
    module = f"est_cli.{job.program.name}"
    if nodes.count == 1:
        return python_command(module, *job.arguments)
    where = ["--nnodes", nodes.count, "--node-rank", nodes.rank, "--nproc-per-node", job.processes]
    meeting = ["--master-addr", nodes.first, "--master-port", nodes.port, "--max-restarts", 0]
    arguments = [*map(str, [*where, *meeting]), "-m", module, *job.arguments, "launch.num_processes=1"]
    return ["env", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600", *python_command("torch.distributed.run", *arguments)]
