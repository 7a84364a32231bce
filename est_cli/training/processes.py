"""Several processes of one run: what must hold before they begin, and what a checkpoint of other processes means."""

from __future__ import annotations

from est_cli.common.errors import ConfigError
from est_cli.common.rank import Rank
from est_cli.config import RunConfig
from est_cli.config.batch import share_problems
from est_cli.config.launch import shard_size_problems
from est_cli.config.resolve import Resolved, depends_on_split
from est_cli.config.schema import leaves_of, plain
from est_cli.config.setting import refuse
from est_cli.data import Corpus
from est_cli.distributed import Group
from est_cli.distributed.hardware import require_gpus
from est_cli.storage.digest import fingerprint
from est_cli.storage.run_dir import RunDir
from est_cli.training.run import RunState


def check_processes(run: Resolved, rank: Rank) -> None:
    """Raise ConfigError where the run cannot be shared by so many processes, or there are too few GPUs for them."""
    config = run.config
    refuse(share_problems(config.train, rank.world_size))
    refuse(run.split_problems(rank.world_size))
    require_gpus(rank.local_world_size)
    if config.launch.strategy == "fsdp" and rank.world_size > 1:
        if config.sampling.ranks == "independent":
            raise ConfigError("sampling.ranks: independent needs launch.strategy=ddp")
        if None in run.micro_batches:
            raise ConfigError("train.micro_batch: auto cannot try what fits under launch.strategy=fsdp; give a number")
        refuse(shard_size_problems(config.launch, rank.world_size))


def require_same_run(group: Group, config: RunConfig, corpus: Corpus) -> None:
    """Raise PeerLostError unless all processes were given the same settings and found the same data."""
    leaves = {key: value for key, value in leaves_of(plain(config)).items() if key not in ("run_name", "resume")}
    digest = fingerprint(leaves, corpus.data_hash, corpus.tokenizer_hash)
    group.require_same(int(digest[:15], 16), "its settings, data or tokenizer are not")


def settle_processes(state: RunState, config: RunConfig, rank: Rank, run_dir: RunDir) -> None:
    """Note in `state` how many processes go on; raise ConfigError where another number would train something else."""
    if state.step and state.num_processes != rank.world_size:
        for reason in depends_on_split(config):
            raise ConfigError(
                f"launch.num_processes: {run_dir.root} was trained by {state.num_processes} processes, not "
                f"{rank.world_size}; under {reason} another number would train something else"
            )
    state.num_processes = rank.world_size
