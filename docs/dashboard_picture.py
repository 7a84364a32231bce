"""Draw what a tracker shows of a run, in the layout of examples/wandb_workspace.py: a picture for docs/tracking.md.

    python docs/dashboard_picture.py outputs/NAME docs/results/dashboard.png

Drawn from metrics.jsonl under the names that trackers get; it is no screenshot of W&B.
"""

from __future__ import annotations

import runpy
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from est_cli.reporting.drawing import BLUE, GREY, new_figure, save_pictures, tidy
from est_cli.tracking import read_metrics
from est_cli.tracking.names import named

LAYOUT = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "wandb_workspace.py"))
AXES, LOSSES, SECTIONS = (LAYOUT[name] for name in ("AXES", "LOSSES", "SECTIONS"))
COLUMNS = 3


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python docs/dashboard_picture.py RUN FILE.png")
    records = [named(record) for record in read_metrics(Path(sys.argv[1]) / "metrics.jsonl")]
    sections = {"Loss": [(key, x) for key in LOSSES for x in AXES]}
    sections |= {name: [(key, "step") for key in keys] for name, keys in SECTIONS.items()}
    shown = {
        name: found for name, charts in sections.items() if (found := [it for it in charts if _line(records, *it)])
    }
    rows = {name: -(-len(charts) // COLUMNS) for name, charts in shown.items()}
    figure = new_figure(10.0, 1.7 * sum(rows.values()))
    parts = figure.subfigures(len(rows), 1, height_ratios=[*rows.values()], squeeze=False)[:, 0]
    for part, (name, charts) in zip(parts, shown.items(), strict=True):
        part.suptitle(name, x=0.01, ha="left", fontsize=9, fontweight="bold")
        for axes, chart in zip(part.subplots(rows[name], COLUMNS, squeeze=False).flat, charts, strict=False):
            _draw(axes, records, *chart)
        for axes in part.axes[len(charts) :]:
            axes.remove()
    path = Path(sys.argv[2])
    save_pictures({path.name: figure}, path.parent)


def _line(records: list[dict[str, Any]], key: str, x: str) -> list[tuple[float, float]]:
    """The points of a chart: of records that have both numbers."""
    return [(record[x], record[key]) for record in records if None not in (record.get(x), record.get(key))]


def _draw(axes: Any, records: list[dict[str, Any]], key: str, x: str) -> None:
    axes.plot(
        *zip(*_line(records, key, x), strict=True), color=BLUE, linewidth=1.0, marker="." if key[:3] == "val" else ""
    )
    axes.set_title(f"{key} over {AXES[x]}" if x != "step" else key, fontsize=7)
    axes.tick_params(labelsize=6)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_fontsize(6)
    stages = [(record[x], record["est/stage"]) for record in records if "est/stage" in record and x in record]
    for (_, stage), (begin, after) in pairwise(stages):
        if stage != after:
            axes.axvline(begin, color=GREY, linewidth=0.6, linestyle=":")
    tidy(axes)


if __name__ == "__main__":
    main()
