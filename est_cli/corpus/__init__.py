"""est-data: what an est-train command would read. `est-data --help` explains the settings."""

from __future__ import annotations

from collections.abc import Sequence

from est_cli.cli.command import Command
from est_cli.cli.entry import enter, leave, run_command
from est_cli.config import SurveyConfig
from est_cli.config.resolve import check
from est_cli.config.setting import refuse
from est_cli.config.survey import survey_problems

USAGE = """\
est-data tokenises what an est-train command would read, into the same cache,
and tells what is in it: documents, tokens, what was left out, duplicates, what
the tokenizer does not know. Same overrides as est-train; nothing is trained.

Usage: est-data [GROUP=OPTION] [KEY=VALUE] ...

  est-data dataset=text dataset.files=[corpus/*.jsonl.xz]
                                     before the first run on new text
  est-data dataset=fineweb_edu dataset.max_tokens=10_000_000
                                     the beginning of a large data set
  est-data dataset=text dataset.files=[corpus/*.txt] model=gpt2 \\
    tokenizer=gpt2 samples=10 json=c.json
  est-data dataset=c4 paths.data=/scratch/team/tokens
                                     made once, for everyone who can read it

Counted are the tokens that a run reads, those held out included. A duplicate is
a document to train on whose tokens are those of an earlier one.
"""


def _accept(config: SurveyConfig, given: set[str]) -> SurveyConfig:
    refuse(survey_problems(config))
    check(config)
    return config


COMMAND = Command(
    name="data",
    schema=SurveyConfig,
    usage=USAGE,
    accept=_accept,
    run="est_cli.corpus.show:show_data",
    launches=False,
    stopped="what was tokenised is kept; the same command goes on with the rest",
)


def main(argv: Sequence[str]) -> None:
    run_command(COMMAND, argv)


def console() -> None:
    leave(enter("est-data", main))
