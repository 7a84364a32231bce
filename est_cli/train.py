"""est-train: pre-train a language model. `est-train --help` explains the settings."""

from __future__ import annotations

import os
from collections.abc import Sequence

from est_cli.compose import run_hydra
from est_cli.config import RunConfig
from est_cli.door import enter, leave
from est_cli.errors import ConfigError
from est_cli.resume import resolve_resume


def main(argv: Sequence[str]) -> None:
    _refuse_several_processes()
    run_hydra("train", RunConfig, argv, _train)


def _train(config: RunConfig, given: set[str]) -> None:
    start = resolve_resume(config, given)
    if start.finished:
        print(f"{start.folder}: this run is finished, nothing is left to do")
        return
    from est_cli.loop import build, train  # torch and transformers: only once the configuration is accepted

    with build(start) as run:
        train(run)


def _refuse_several_processes() -> None:
    world_size = os.environ.get("WORLD_SIZE", "1")
    if world_size != "1":
        raise ConfigError(f"WORLD_SIZE={world_size}: this version trains on one process; start it without a launcher")


def console() -> None:
    leave(enter("est-train", main))


if __name__ == "__main__":
    console()
