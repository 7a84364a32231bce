"""How steady are the stages that train subnetworks? A row for each folder, over the runs (seeds) in it.

python studies/quickstart.py outputs/plain outputs/forward

docs/results/quickstart.md has the commands that train them. The training loss jumps where a draw is trained that is far
off: counted are its spikes (reporting/spikes.py) and the steps whose gradient norm is above LARGE, after the warm-up.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from est_cli.reporting.records import Record, training_records, validation_records
from est_cli.reporting.spikes import loss_spikes
from est_cli.tracking import read_metrics

LARGE = 10.0
WARM_UP = 10
"""Steps whose gradients are not counted."""
HEADINGS = ("runs", "seeds", "loss spikes", "highest", f"gradient norm above {LARGE:g}", "largest norm",
            "largest draw range", "final validation loss")  # fmt: skip


def row(runs: Sequence[Sequence[Record]]) -> list[str]:
    """What is told of runs that differ in their seed."""
    spikes = [spike for metrics in runs for spike in loss_spikes(metrics)]
    norms = [r["grad_norm"] for metrics in runs for r in training_records(metrics) if r["step"] > WARM_UP]
    ranges = [r["draw_range"] for metrics in runs for r in validation_records(metrics) if r.get("draw_range")]
    final = [validation_records(metrics)[-1]["val_loss"] for metrics in runs]
    return [
        str(len(runs)),
        str(len(spikes)),
        f"{max((spike.loss for spike in spikes), default=0):.2f}" if spikes else "-",
        f"{sum(norm > LARGE for norm in norms)} of {len(norms)} steps",
        f"{max(norms):.1f}",
        f"{max(ranges):.2f}" if ranges else "-",
        f"{fmean(final):.4f}" + (f" (deviation {stdev(final):.4f})" if len(final) > 1 else ""),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    print("| " + " | ".join(HEADINGS) + " |\n" + "| --- " * len(HEADINGS) + "|")
    for folder in parser.parse_args().folders:
        runs = [read_metrics(path) for path in sorted(folder.rglob("metrics.jsonl"))]
        print("| " + " | ".join([folder.name, *row(runs)]) + " |")


if __name__ == "__main__":
    main()
