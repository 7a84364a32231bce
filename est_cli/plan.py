"""est-plan: what an est-train command would cost. `est-plan --help` explains the settings."""

from __future__ import annotations

from collections.abc import Sequence

from est_cli.cli.command import Command
from est_cli.cli.entry import enter, leave, run_command
from est_cli.common.errors import ConfigError
from est_cli.config import PlanConfig
from est_cli.config.resolve import check

USAGE = """\
est-plan tells what an est-train command would cost: per stage the steps,
tokens, FLOPs and memory, and what the run saves against dense training. Same
overrides as est-train; nothing is trained.

Usage: est-plan [GROUP=OPTION] [KEY=VALUE] ...
       est-plan -m [KEY=VALUE,VALUE,...] ...     combinations side by side

  est-plan experiment=paper_gpt2     the paper's GPT-2 run: 26.67 % of the block
                                     FLOPs saved
  est-plan model=gpt2 train.max_steps=10000 stage.t1=0.2 stage.t2=0.5
  est-plan target_saving=0.25        boundaries that save a quarter (ratio t1:t2
                                     kept)
  est-plan target_saving=0.2 target_convention=total target_keep=t1
  est-plan -m scheduler=three_stage,raptr,pld target_saving=0.25
                                     each at the same saving
  est-plan -m scheduler=dense,three_stage target_flops=1e12
                                     each with the steps that it affords
  est-plan prices=outputs/analyze-NAME-prices target_saving=0.25
                                     the schedule that is expected to lose least
  est-plan probe=true plot=plan.png  seconds of each stage, measured; a picture
"""


def _accept(config: PlanConfig, given: set[str]) -> PlanConfig:
    if config.resume is not None:
        raise ConfigError("resume: est-plan plans whole runs; leave it null")
    if config.prices is not None and config.target_saving is not None:
        for key in sorted(given):
            if key.partition(".")[0] in ("scheduler", "stage"):
                raise ConfigError(f"{key}: is what prices with target_saving find; leave it out")
    check(config)
    return config


COMMAND = Command(
    name="plan",
    schema=PlanConfig,
    usage=USAGE,
    accept=_accept,
    run="est_cli.planning.tables:show_plan",
    sweep="est_cli.cli.sweep.plans:compare_plans",
    launches=False,
)


def main(argv: Sequence[str]) -> None:
    run_command(COMMAND, argv)


def console() -> None:
    leave(enter("est-plan", main))


if __name__ == "__main__":
    console()
