"""est-report: run folders, compared on one HTML page with pictures. `est-report --help` explains it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from est_cli.cli.entry import enter, leave
from est_cli.common.errors import ConfigError
from est_cli.common.redact import one_line
from est_cli.common.signals import signals_deferred
from est_cli.config.paths import PathsConfig, paths_problems
from est_cli.config.setting import refuse

_USAGE = """\
est-report FOLDER [FOLDER ...] [--out DIR] [--title TEXT] [--prices DIR]
           [--version]
       est-report --watch FOLDER [FOLDER ...] [--port N] [--title TEXT]"""
_DESCRIPTION = """\
est-report compares runs of est-train on one self-contained HTML page: what was
saved at which loss, losses against steps, tokens, FLOPs and seconds, a sweep's
heat map over (t1, t2), a claim card for every group of runs against its dense
twin, and what is inside of each run. It is zoomed, hovered and switched.

  est-report outputs/A outputs/B           two runs
  est-report outputs/SWEEP outputs/DENSE   all runs of a sweep, and another
  est-report outputs                       everything there is
  est-report outputs/A outputs/B --out page --title 'EST at 124 M'
  est-report --watch outputs/A             while it goes on; prints where

FOLDER is a run's folder, or one that holds runs or sweeps of them. Runs that
differ only in their seed form a group. The dense twin is found by itself: the
finished runs with scheduler=dense and otherwise the same settings and data.
For what the claim card needs, give all of these, each with the same seeds:

  est-train -m seed=0,1,2                  the runs themselves
  est-train -m seed=0,1,2 scheduler=dense  equal steps
  est-train -m seed=0,1,2 scheduler=dense train.max_steps=N
                                           equal FLOPs; the card says which N
"""
_EPILOG = """\
Written: DIR/report.html (all pictures inside), report.json (every number) and a
PNG for each figure, for papers; by --watch nothing. Nothing is overwritten and
no run is changed. Exit codes: 0 done, 2 usage, 4 a configuration and 6 a file
that cannot be read, or no place to write.
"""


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, as every command does."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"command line: {message}; see --help")


def main(argv: Sequence[str]) -> None:
    arguments = _parser().parse_args(list(argv[1:]))
    folders = [Path(folder) for folder in arguments.folders]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: is no folder; give the folders of runs, or folders that hold runs")
    title = arguments.title or _title(folders)
    if arguments.watch:
        return _watch(arguments, folders, title)
    if arguments.port is not None:
        raise ConfigError("--port: goes with --watch")
    out = Path(arguments.out) if arguments.out else _new_folder()
    with signals_deferred():
        from est_cli.common.table import print_lines, table_console
        from est_cli.reporting.report import make_report  # matplotlib: only once there is something to show

    report = make_report(folders, out, title, arguments.prices)
    for card in report.numbers["claims"]:
        first = card["comparisons"][0]
        line = one_line(f"{card['group']}, {first['measure']}: {first['verdict']}")  # names from other people's runs
        print_lines(table_console(), line)
        if arguments.prices is not None:
            print_lines(table_console(), one_line(card["cautions"][0]))
    for command in report.commands:
        print("missing   " + (command if command.isprintable() else one_line(command)))
    print(f"report    {report.page}")


def _watch(arguments: argparse.Namespace, folders: Sequence[Path], title: str) -> None:
    if arguments.out:
        raise ConfigError("--out: --watch writes nothing; leave one of them out")
    if arguments.prices:
        raise ConfigError("--prices: --watch does not show them; leave one of them out")
    if not 0 <= (arguments.port or 0) < 1 << 16:
        raise ConfigError(f"--port: {arguments.port} is no port; it must be at most 65535, or 0 for a free one")
    with signals_deferred():
        from est_cli.reporting.watch import serve

    serve(folders, title, arguments.port or 0)


def _new_folder() -> Path:
    """reports/report-TIME where runs go."""
    paths = PathsConfig()
    refuse(paths_problems(paths))
    return paths.outputs_folder / "reports" / f"report-{datetime.now():%Y%m%d-%H%M%S}"


def _title(folders: Sequence[Path]) -> str:
    names = [folder.resolve().name for folder in folders]
    return " and ".join(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} others"


def _parser() -> _Parser:
    style = argparse.RawDescriptionHelpFormatter
    parser = _Parser("est-report", _USAGE, _DESCRIPTION, _EPILOG, formatter_class=style, allow_abbrev=False)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="run folders, or folders that hold runs")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="a new or empty folder (default: reports/report-TIME in $EST_OUTPUTS, or else outputs)",
    )
    parser.add_argument("--title", metavar="TEXT", help="heading of the page (default: made of the folders' names)")
    parser.add_argument(
        "--prices",
        metavar="DIR",
        help="of est-analyze analysis=prices: what was expected of the runs, beside what came",
    )
    parser.add_argument(
        "--watch", action="store_true", help="show the page on this machine, refreshed while runs go on"
    )
    parser.add_argument("--port", type=int, metavar="N", help="of --watch (default: one that is free)")
    parser.add_argument("--version", action="store_true", help="print est's version and end")  # answered by the door
    return parser


def console() -> None:
    leave(enter("est-report", main))


if __name__ == "__main__":
    console()
