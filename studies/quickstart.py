"""How steady are the stages that train subnetworks? A row for each folder, over the runs (seeds) in it.

python studies/quickstart.py --until 100 outputs/plain outputs/forward

docs/results/quickstart.md has the commands that train them. The training loss jumps where a draw is trained that is far
off: counted are its spikes (reporting/spikes.py) and the steps whose gradient norm is above LARGE, after the warm-up.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from est_cli.reporting.records import Record, training_records, validation_records
from est_cli.reporting.spikes import loss_spikes
from est_cli.tracking import read_metrics

LARGE = 10.0
WARM_UP = 10
"""Steps whose gradients are not counted."""
LAST = 10
"""Steps whose training loss is told."""
HEADINGS = ("runs", "seeds", "with loss spikes", "highest", f"steps with a norm above {LARGE:g}", "largest norm",
            "largest draw range", f"loss of the last {LAST} steps")  # fmt: skip


def row(runs: Sequence[Sequence[Record]]) -> list[str]:
    """What is told of runs that differ in their seed."""
    spikes = [loss_spikes(metrics) for metrics in runs]
    norms = [r["grad_norm"] for metrics in runs for r in training_records(metrics) if r["step"] > WARM_UP]
    ranges = [r["draw_range"] for metrics in runs for r in validation_records(metrics) if r.get("draw_range")]
    losses = [record["loss"] for metrics in runs for record in training_records(metrics)[-LAST:]]
    return [
        str(len(runs)),
        str(sum(map(bool, spikes))),
        f"{max(spike.loss for found in spikes for spike in found):.2f}" if any(spikes) else "-",
        f"{sum(norm > LARGE for norm in norms)} of {len(norms)}",
        f"{max(norms):.1f}",
        f"{max(ranges):.2f}" if ranges else "-",
        f"{fmean(losses):.3f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--until", type=int, required=True, help="the last step that is looked at")
    parser.add_argument("folders", type=Path, nargs="+")
    args = parser.parse_args()
    print("| " + " | ".join(HEADINGS) + " |\n" + "| --- " * len(HEADINGS) + "|")
    for folder in args.folders:
        paths = sorted(folder.rglob("metrics.jsonl"))
        runs = [[record for record in read_metrics(path) if record["step"] <= args.until] for path in paths]
        print("| " + " | ".join([folder.name, *row(runs)]) + " |")


if __name__ == "__main__":
    main()
