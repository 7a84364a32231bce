"""The picture of a comparison: tokens/s of every contender, and the time of our stages against their ideal."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from results import Ratio, Speed

OURS, RIVAL, IDEAL = "#0072B2", "#999999", "#D55E00"


def draw(path: Path, title: str, unit: str, speeds: list[Speed], stages: list[Ratio]) -> None:
    """Write a PNG; whiskers are 95 % intervals. `unit` says which second is meant."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=(3, 2), layout="constrained")
    _bars(left, speeds)
    left.set(xlabel=f"tokens per {unit}", title=title)
    _against_ideal(right, stages)
    right.set(ylabel="time of a step / dense", title="EST's stages", ylim=(0, 1.4))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _bars(axes: plt.Axes, speeds: list[Speed]) -> None:
    names, values = [s.name for s in speeds], [s.tokens_per_s for s in speeds]
    spread = [[s.tokens_per_s - s.low for s in speeds], [s.high - s.tokens_per_s for s in speeds]]
    colours = [OURS if name.startswith("ours") else RIVAL for name in names]
    axes.barh(names, values, xerr=spread, color=colours, capsize=3)
    axes.invert_yaxis()


def _against_ideal(axes: plt.Axes, stages: list[Ratio]) -> None:
    names, values = [s.name.removeprefix("ours-") for s in stages], [s.ratio for s in stages]
    spread = [[s.ratio - s.low for s in stages], [s.high - s.ratio for s in stages]]
    axes.bar(names, values, yerr=spread, color=OURS, capsize=3, label="measured")
    axes.plot(
        names, [s.ideal for s in stages], "_", color=IDEAL, markersize=40, markeredgewidth=3, label="ideal (FLOPs)"
    )
    axes.legend(frameon=False, markerscale=0.4)
