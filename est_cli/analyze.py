"""est-analyze: what the loss looks like around a checkpoint. `est-analyze --help` explains the settings."""

from __future__ import annotations

from collections.abc import Sequence

from est_cli.analysis.check_analysis import CONTINUES, preflight
from est_cli.cli.command import Command
from est_cli.cli.entry import enter, leave, run_command
from est_cli.config import AnalyzeConfig

USAGE = """\
est-analyze tells what the loss looks like around a checkpoint: how curved, how
flat, how far from another one, and what sampling subnetworks of it costs.
Checkpoints of est-train or any plain Hugging Face folder.

Usage: est-analyze checkpoint=FOLDER [analysis=NAME] [KEY=VALUE] ...

  est-analyze checkpoint=outputs/NAME
                                     trace of the Hessian with standard error
  est-analyze checkpoint=outputs/NAME analyze.transitions=true
                                     the same at every checkpoint that was kept
  est-analyze checkpoint=outputs/NAME analysis=flatness
                                     the loss along random directions
  est-analyze checkpoint=outputs/EST analysis=compare \\
    baseline=outputs/DENSE analyze.trace=true
  est-analyze checkpoint=outputs/NAME analysis=draws
                                     how far subnetworks lie apart, and why
  est-analyze checkpoint=outputs/NAME analysis=structural_dropout \\
    stage.p_h=0.5 stage.p_m=0.5 stage.p_l=0.5
  est-analyze checkpoint=outputs/NAME launch.num_processes=2
                                     two processes; under a launcher:
  accelerate launch --multi_gpu --num_processes 2 --num_machines 1 \\
    --mixed_precision no --dynamo_backend no \\
    -m est_cli.analyze checkpoint=outputs/NAME

The text is dataset=... as in est-train, by default what it holds out of the
standard library. Results go to a new folder, outputs/analyze-NAME-ANALYSIS/:
analysis.json and a picture. docs/analyze.md explains the numbers.
"""

COMMAND = Command(
    name="analyze",
    schema=AnalyzeConfig,
    usage=USAGE,
    accept=preflight,
    run="est_cli.analysis.run_analysis:analyse",
    continues="nothing was written; give the same command again",
    stopped=CONTINUES,
)


def main(argv: Sequence[str]) -> None:
    run_command(COMMAND, argv)


def console() -> None:
    leave(enter("est-analyze", main))


if __name__ == "__main__":
    console()
