"""est-train: pre-train a language model. `est-train --help` explains the settings."""

from __future__ import annotations

import os
from collections.abc import Sequence

from est_cli.cli.agent import agent_arguments
from est_cli.cli.command import Command
from est_cli.cli.entry import enter, leave, run_command
from est_cli.common.rank import rank_of_environment
from est_cli.config import RunConfig
from est_cli.config.setting import Given
from est_cli.training.extend import how_to_lengthen
from est_cli.training.start import Start, clean_finished, refuse_lost, resolve_resume

USAGE = """\
est-train pre-trains a language model with Evolving Subnetwork Training: each
step runs a random subnetwork (some attention heads, MLP columns and layers)
that grows in stages to the full model.

Usage: est-train [GROUP=OPTION] [KEY=VALUE] ...

  est-train                          a tiny GPT-2 on Python's own source text,
                                     a minute or two on a CPU
  est-train scheduler=dense          the same model trained in the ordinary way
  est-train model=llama_tiny stage.t1=0.1 stage.t2=0.4
  est-train dataset=text dataset.files=[corpus/*.jsonl.xz] \\
    train.max_tokens=50_000_000      your own text
  est-train model=hf model.name_or_path=gpt2
                                     continue from pre-trained weights
  est-train resume=outputs/NAME      continue exactly where a run stopped
  est-train resume=outputs/NAME train.max_steps=600
                                     make a run longer, from before its decay
  est-train fork=outputs/NAME@240 optim.lr=3e-4
                                     a new run from a checkpoint
  est-train -m stage.t1=0.1,0.2 stage.t2=0.4,0.5
                                     all four runs, and one table
  est-train launch.num_processes=4   four processes, on as many GPUs or the CPU
  est-train experiment=paper_gpt2    a whole recipe; est-plan tells its cost

Stage boundaries: a float is a fraction of the run, an int a step. Rates are
what is kept, in (0, 1]. Everything is written to outputs/RUN_NAME/:
metrics.jsonl, checkpoints/, model/ (opens in plain transformers), plots/,
summary.json. Tokens are cached in data/. paths.outputs=DIR and paths.data=DIR
name other places.
"""


def _accept(config: RunConfig, given: Given) -> Start | None:
    start = resolve_resume(config, given)
    if start.folder is None or not start.finished:
        return start
    refuse_lost(start.folder)
    if not start.drawn:
        return start
    if rank_of_environment().first:
        clean_finished(start.folder)
        more = how_to_lengthen(start.folder, start.config)
        print(f"{start.folder}: this run is finished, nothing is left to do; {more}")
    return None


COMMAND = Command(
    name="train",
    schema=RunConfig,
    usage=USAGE,
    accept=_accept,
    run="est_cli.training.train:run",
    sweep="est_cli.cli.sweep.trainings:sweep",
    config_of=lambda start: start.config,
    folder_of=lambda start: start.folder,
    job_of=Start.of,
)


def main(argv: Sequence[str]) -> None:
    run_command(COMMAND, agent_arguments(argv, os.environ))


def console() -> None:
    leave(enter("est-train", main))


if __name__ == "__main__":
    console()
