"""est-eval: how good a checkpoint is, fine-tuned on GLUE or zero-shot. `est-eval --help` explains the settings."""

from __future__ import annotations

import re
from collections.abc import Sequence

from est_cli.cli.command import Command
from est_cli.cli.entry import enter, leave, run_command
from est_cli.config import EvalConfig
from est_cli.evaluation.check_evaluation import CONTINUES, preflight

_SEVERAL = re.compile(r"""task=([^][(){}'"]+,[^][(){}'"]*)""")

USAGE = """\
est-eval tells how good a checkpoint is: fine-tuned on GLUE with several seeds,
alone or against a baseline, or zero-shot (perplexity, lm-evaluation-harness).
Checkpoints of est-train or any plain Hugging Face folder.

Usage: est-eval checkpoint=FOLDER [KEY=VALUE] ...

  est-eval checkpoint=outputs/NAME task=sst2 eval.data_dir=glue
                                     fine-tune on SST-2 with seeds 0, 1 and 2
  est-eval checkpoint=outputs/NAME task=cola,sst2,mrpc \\
    eval.max_train_examples=2000
  est-eval checkpoint=outputs/EST task=glue baseline=outputs/DENSE
                                     side by side, with what is significant
  est-eval -m checkpoint=outputs/NAME task=sst2,mrpc \\
    eval.lr=1e-4,3e-4,1e-3 eval.epochs=2,3
                                     six settings, one table (docs/sweeps.md)
  est-eval checkpoint=outputs/NAME task=perplexity eval.files=[text/*.txt]
  est-eval checkpoint=outputs/NAME task=lm_eval:hellaswag,arc_easy
                                     needs the extra lm-eval (docs/glue.md)

Tasks: cola sst2 mrpc stsb qqp mnli qnli rte wnli, glue (all of them),
perplexity, lm_eval:NAME. task=A,B is one list of tasks, also under -m, where
task=choice(A,B) is a job for each; every other key takes its values as KEY=A,B
there. Results are kept in outputs/NAME/: results.json, results.csv, results.md.
The same command given again runs only what is not there yet.
"""

COMMAND = Command(
    name="eval",
    schema=EvalConfig,
    usage=USAGE,
    accept=preflight,
    run="est_cli.evaluation.run_evaluation:evaluate",
    sweep="est_cli.cli.sweep.evaluations:sweep",
    continues=CONTINUES,
    stopped="finished fine-tunings are kept; the same command goes on with the rest",
)


def main(argv: Sequence[str]) -> None:
    run_command(COMMAND, [_listed(arg) for arg in argv])


def _listed(arg: str) -> str:
    """`task=cola,sst2` is a list, also under -m: a bare comma would be Hydra's sweep."""
    found = _SEVERAL.fullmatch(arg)
    return f"task=[{found[1]}]" if found else arg


def console() -> None:
    leave(enter("est-eval", main))


if __name__ == "__main__":
    console()
