"""est-push: the model of a finished run, with its card, to the Hugging Face hub. `est-push --help` explains it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from est_cli.cli.entry import enter, leave
from est_cli.common.errors import ConfigError
from est_cli.common.signals import signals_deferred
from est_cli.config.run import license_problem

_USAGE = """\
est-push FOLDER USER/NAME [--license ID] [--public] [--replace]
                [--dry-run] [--version]"""
_DESCRIPTION = """\
est-push sends the final model of a finished run, its tokenizer and a model card
to the Hugging Face hub, in one commit.

  est-push outputs/NAME user/name --dry-run
                                     what would be sent; the card is shown
  est-push outputs/NAME user/name --license apache-2.0
                                     a private repository
  est-push outputs/NAME user/name --public

The card is made anew from the run's files and from what est-eval has found, and
kept as model/README.md. One that you have edited goes as it is. No local path
is in it.
"""
_EPILOG = """\
The login is that of `hf auth login`, or HF_TOKEN. A repository that is there
keeps its visibility; one that holds another model is refused without --replace.
What breaks is tried again; the same command may be given again. Exit codes: 0
done, 2 usage, login and names, 3 results of est-eval, 4 a run that is not
finished or a damaged model, 6 a disk or the hub, 8 the folder is in use.
"""


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, as every command does."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"command line: {message}; see --help")


def main(argv: Sequence[str]) -> None:
    arguments = _parser().parse_args(list(argv[1:]))
    folder, chosen = Path(arguments.folder), arguments.license
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is no folder; give that of a run, such as outputs/NAME")
    if chosen is not None and (problem := license_problem("--license", chosen)):
        raise ConfigError(problem)
    with signals_deferred():
        from est_cli.push.publish import Order, publish  # torch, transformers, matplotlib

    publish(Order(folder, arguments.repo, chosen, arguments.public, arguments.replace, arguments.dry_run))


def _parser() -> _Parser:
    style = argparse.RawDescriptionHelpFormatter
    parser = _Parser("est-push", _USAGE, _DESCRIPTION, _EPILOG, formatter_class=style, allow_abbrev=False)
    parser.add_argument("folder", metavar="FOLDER", help="a finished run's folder")
    parser.add_argument("repo", metavar="USER/NAME", help="the repository on the hub")
    parser.add_argument(
        "--license", metavar="ID", help="the model's licence, such as apache-2.0 (default: the run's own `license`)"
    )
    parser.add_argument("--public", action="store_true", help="a repository that is made is public, and not private")
    parser.add_argument("--replace", action="store_true", help="put this model in the place of what is there")
    parser.add_argument("--dry-run", action="store_true", help="send nothing; show the files and the card")
    parser.add_argument("--version", action="store_true", help="print est's version and end")  # answered by the door
    return parser


def console() -> None:
    leave(enter("est-push", main))
