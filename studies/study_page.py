"""Make the pages of the studies from their result files: docs/results/study-LETTER.md and .png.

    python studies/study_page.py            # of every study that has results
    python studies/study_page.py a

Every number on a page comes from docs/results/data/. What the numbers say is written by hand in studies/readings/,
where {diff ARM - ARM @ SIZE} stands for a difference of final validation losses with its interval, {loss ARM @ SIZE}
for a mean and {saved ARM @ SIZE} for the share of the total FLOPs that an arm saves; {... @ SIZE of LETTER} is another
study's. The front page, docs/results/README.md, is readings/front.md filled in.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.axes import Axes
from study import DATA

from est_cli.config import RunConfig
from est_cli.config.compose import composed
from est_cli.est.flops import forward_flops
from est_cli.est.sizes import full_sizes
from est_cli.families import spec_of
from est_cli.models import hf_config
from est_cli.reporting.drawing import (
    AMBER,
    BLUE,
    DPI,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    labelled,
    legend_below,
    new_figure,
    tidy,
)
from est_cli.reporting.student_t import mean_interval
from est_cli.storage.strict_json import read_file
from studies import STUDIES

PAGES, READINGS = Path("docs/results"), Path(__file__).parent / "readings"
COLOURS = (GREY, BLUE, ORANGE, GREEN, PINK, SKY, AMBER)
STYLES = ("-", "--", ":", "-.")

Cell = dict[str, Any]
Runs = Mapping[str, Mapping[int, Cell]]
"""By arm and seed."""


def results_of(letter: str) -> dict[str, dict[str, dict[int, Cell]]]:
    """Size -> arm -> seed -> cell, in the order of the study; arms without a result are left out."""
    found = [read_file(path) for path in sorted((DATA / letter).glob("*.json"))]
    sizes: dict[str, dict[str, dict[int, Cell]]] = {}
    for size in STUDIES[letter].sizes:
        arms = {
            arm: {cell["seed"]: cell for cell in found if (cell["size"], cell["arm"]) == (size, arm)}
            for arm in STUDIES[letter].arms
        }
        if any(arms.values()):
            sizes[size] = {arm: cells for arm, cells in arms.items() if cells}
    return sizes


def page(letter: str) -> str:
    sizes = results_of(letter)
    cells = [cell for arms in sizes.values() for of in arms.values() for cell in of.values()]
    lines = [f"# Study {letter}: {STUDIES[letter].question}", "", "```sh"]
    lines += [f"EST_DATA=DIR OMP_NUM_THREADS=1 python studies/study.py {letter}"]
    lines += [f"python studies/study_page.py {letter}", "```", "", *_about(letter, cells), ""]
    for size, arms in sizes.items():
        lines += [f"## Size {size}: {_size(size, arms)}", "", *_table(letter, arms), ""]
        lines += [f"![validation loss](study-{letter}-{size}.png)", ""]
    reading = READINGS / f"{letter}.md"
    if reading.is_file():
        lines += ["## What this says, and what not", "", filled(reading.read_text(), letter).strip(), ""]
    return "\n".join(lines)


def _about(letter: str, cells: Sequence[Cell]) -> Iterator[str]:
    commits = sorted({str(cell["summary"]["git_commit"])[:8] for cell in cells})
    machines = sorted({cell["summary"]["hardware"] for cell in cells})
    torch = ", ".join(sorted({cell["summary"]["versions"]["torch"] for cell in cells}))
    yield f"Commit {', '.join(commits)}; {'; '.join(machines)}; torch {torch}; {len(cells)} runs, each a file"
    yield f"in [data/{letter}](data/{letter}). Differences are paired by seed, with 95 % intervals (Student's t)."
    yield "[Results](README.md) explains the words."


def _size(size: str, arms: Runs) -> str:
    config = composed("train", RunConfig, [f"experiment=study_{size}"], None)[0]
    spec = spec_of(hf_config(config.model))
    parameters = forward_flops(spec, full_sizes(spec), 1, 1).blocks // 2
    tokens = max(cell["summary"]["tokens"] for of in arms.values() for cell in of.values())
    return f"{parameters:,} parameters in the layers, {tokens:,} tokens ({tokens / parameters:.0f} for each of them)"


def _table(letter: str, arms: Runs) -> Iterator[str]:
    reference = STUDIES[letter].reference
    yield f"| arm | n | steps | final validation loss | minus {reference} | saved blocks | saved total | time saved |"
    yield "|---|---|---|---|---|---|---|---|"
    for arm, cells in arms.items():
        summaries = [cell["summary"] for cell in cells.values()]
        losses = [summary["final_val_loss"] for summary in summaries]
        spread = f" +- {stdev(losses):.4f}" if len(losses) > 1 else ""
        gap = "" if arm == reference or reference not in arms else _difference(cells, arms[reference])
        saved = [f"{fmean(s[f'flops_saved_pct_{c}'] for s in summaries):.2f} %" for c in ("blocks", "total")]
        times = [s["time_saved_pct"] for s in summaries if s["time_saved_pct"] is not None]
        time = f"{fmean(times):.1f} %" if times else ""
        yield (
            f"| {arm} | {len(losses)} | {summaries[0]['steps']} | {fmean(losses):.4f}{spread} | {gap} | {saved[0]} | "
            f"{saved[1]} | {time} |"
        )


def _difference(cells: Mapping[int, Cell], others: Mapping[int, Cell]) -> str:
    gaps = [
        cells[seed]["summary"]["final_val_loss"] - others[seed]["summary"]["final_val_loss"]
        for seed in sorted(cells.keys() & others.keys())
    ]
    if not gaps:
        return "no seed in common"
    interval = mean_interval(gaps)
    return f"{fmean(gaps):+.4f}" + ("" if interval is None else f" ({interval[0]:+.4f} .. {interval[1]:+.4f})")


def filled(text: str, letter: str) -> str:
    """`text` with the numbers that its braces ask for; KeyError where there is no such arm, size or study."""

    def value(match: re.Match[str]) -> str:
        kind, what, size, other = match[1], match[2].strip(), match[3], match[4]
        arms = results_of(other or letter)[size]
        if kind == "diff":
            one, against = (name.strip() for name in what.split(" - "))
            return _difference(arms[one], arms[against])
        summaries = [cell["summary"] for cell in arms[what].values()]
        if kind == "saved":
            return f"{fmean(summary['flops_saved_pct_total'] for summary in summaries):.1f} %"
        return f"{fmean(summary['final_val_loss'] for summary in summaries):.4f}"

    return re.sub(r"\{(diff|loss|saved) ([^@}]+) @ (\w+)(?: of (\w))?\}", value, text)


def draw(letter: str, size: str, arms: Runs) -> None:
    """Validation loss against steps and against FLOPs; means over seeds."""
    figure = new_figure(9.0, 4.4)
    left, right = figure.subplots(1, 2, sharey=True)
    for number, (arm, cells) in enumerate(arms.items()):
        look = {"color": COLOURS[number % len(COLOURS)], "linestyle": STYLES[number // len(COLOURS) % len(STYLES)]}
        _curve(left, cells, 0, label=arm, **look)
        _curve(right, cells, 1, **look)
    left.set(xlabel="optimizer step", ylabel="validation loss (nats per token)")
    right.set(xlabel="training FLOPs (total)")
    tops = [cell["validation"][1][2] for of in arms.values() for cell in of.values() if len(cell["validation"]) > 1]
    if tops:
        left.set_ylim(top=max(tops))
    for axes in (left, right):
        tidy(axes)
    legend_below(figure, labelled([left]), columns=4)
    figure.savefig(PAGES / f"study-{letter}-{size}.png", dpi=DPI)


def _curve(axes: Axes, cells: Mapping[int, Cell], along: int, **look: Any) -> None:
    shared = set.intersection(*({point[0] for point in cell["validation"]} for cell in cells.values()))
    points = [[point for point in cell["validation"] if point[0] in shared] for cell in cells.values()]
    x = [fmean(values) for values in zip(*([point[along] for point in of] for of in points), strict=True)]
    y = [fmean(values) for values in zip(*([point[2] for point in of] for of in points), strict=True)]
    axes.plot(x, y, marker="o", markersize=3, linewidth=1.4, **look)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", metavar=f"{{{','.join(STUDIES)}}}")
    letters = parser.parse_args(argv).studies
    unknown = sorted(set(letters) - set(STUDIES))
    if unknown:
        parser.error(f"{', '.join(unknown)}: no study of this name; there are {', '.join(STUDIES)}")
    for letter in letters or STUDIES:
        sizes = results_of(letter)
        if not sizes:
            continue
        (PAGES / f"study-{letter}.md").write_text(page(letter))
        for size, arms in sizes.items():
            draw(letter, size, arms)
    front = READINGS / "front.md"
    if front.is_file():
        (PAGES / "README.md").write_text(filled(front.read_text(), "a"))


if __name__ == "__main__":
    main()
