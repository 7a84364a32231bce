"""The claim card of study a on a page: docs/results/claim-SIZE.md, from the report of its runs.

    python studies/claim.py s        # of the runs of size s, which studies/study.py left in outputs/study/

est-report makes the card; here it only becomes Markdown.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from study import DATA, cells_of, kept_of

from est_cli.storage.strict_json import read_file
from studies import STUDIES

PAGES = Path("docs/results")
LIMIT = 1 << 24
"""Bytes of a report.json."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=STUDIES["a"].sizes)
    size = parser.parse_args(argv).size
    runs = [kept_of(cell) for cell in cells_of("a") if cell.size == size]
    absent = [run for run in runs if not run.is_dir()]
    if absent:
        then = f"study.py a trains again what has no file in {DATA}/a"
        parser.error(f"{absent[0]} and {len(absent) - 1} others are not here, only their numbers; {then}")
    with TemporaryDirectory() as folder:
        out = Path(folder) / "report"
        shown = ["--out", str(out), "--title", f"Study a, size {size}"]
        subprocess.run([sys.executable, "-m", "est_cli.report", *map(str, runs), *shown], check=True)
        (card,) = read_file(out / "report.json", LIMIT)["claims"]
        shutil.copyfile(out / "loss-flops-total.png", PAGES / picture(size))
    (PAGES / f"claim-{size}.md").write_text("\n".join(page(card, size)) + "\n")


def picture(size: str) -> str:
    return f"claim-{size}-flops.png"


def page(card: Mapping[str, Any], size: str) -> Iterator[str]:
    """`card`: one of the claims in a report.json."""
    yield from (f"# Claim card: {card['group']} against {card['dense']} (size {size} of [study a](study-a.md))", "")
    yield from (
        "```sh",
        "EST_DATA=DIR OMP_NUM_THREADS=1 python studies/study.py a",
        f"python studies/claim.py {size}",
    )
    yield from ("```", "", f"Final validation loss in nats per token, seeds {', '.join(map(str, card['seeds']))}.", "")
    yield from ("| comparison | with | loss | dense loss | 95 % interval and verdict | |", "|---|---|---|---|---|---|")
    for row in card["comparisons"]:
        losses = " | ".join("" if row[key] is None else f"{row[key]:.4f}" for key in ("loss", "dense_loss"))
        yield f"| {row['measure']} | {row['against']} | {losses} | {row['verdict']} | {row['note']} |"
    yield from ("", *(f"- {caution}" for caution in card["cautions"]))
    for what, values in card["provenance"].items():
        yield f"- {what}: {', '.join(value[:60] for value in values)}"
    yield from ("", f"![validation loss against FLOPs]({picture(size)})")


if __name__ == "__main__":
    main()
