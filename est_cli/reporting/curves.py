"""The curves of a report as the page's script draws them: each group's losses, along every axis that is known.

Numbers have seven digits, curves at most MAX_POINTS points and all of them together about MAX_ALL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from est_cli.reporting.compare_figures import BASELINE, LOOKS, NAMES, OTHERS, Look, looks_of, placed_stages, unit_of
from est_cli.reporting.groups import Curve, Group, logged_curve, training_curve, validation_curve
from est_cli.reporting.runs import Axis

MAX_POINTS, MAX_ALL, LEAST_POINTS = 2000, 60_000, 50
_CURVES = {"train": training_curve, "logged": logged_curve, "val": validation_curve}
"""Kind -> curve; `train` is the running mean of `logged`."""


def page_curves(groups: Sequence[Group]) -> dict[str, Any]:
    """What the script reads: `axes` and `groups`, both in the order of the page."""
    looks = looks_of(groups)
    points = max(LEAST_POINTS, min(MAX_POINTS, MAX_ALL // (3 * max(1, len(groups)))))
    found = [_group(group, looks[group.label], points) for group in groups]
    return {"axes": [_axis(axis, groups) for axis in NAMES], "groups": found, "points": points}


def _axis(axis: Axis, groups: Sequence[Group]) -> dict[str, Any]:
    ends = [end for group in groups for run in group.drawn if np.isfinite(end := run.end(axis))]
    size, unit = unit_of(axis, max(ends, default=0.0))
    return {"key": axis.value, "name": NAMES[axis], "unit": unit, "size": size, "known": bool(ends)}


def _group(group: Group, look: Look, points: int) -> dict[str, Any]:
    name = "base" if look is BASELINE else "rest" if look is OTHERS else str(LOOKS.index(look))
    curves = {kind: curve_of(group, Axis.steps) for kind, curve_of in _CURVES.items()}
    return {
        "label": group.label,
        "n": len(group.drawn),
        "finished": bool(group.counted),
        "look": name,
        "dash": [] if look.line == "-" else [3 * part for part in look.line[1]],
        "stages": {axis.value: _stages(group, axis) for axis in NAMES},
        "curves": {kind: _points(group, curve, points) for kind, curve in curves.items() if curve is not None},
    }


def _points(group: Group, curve: Curve, points: int) -> dict[str, Any]:
    kept = thinned(curve.mean, points)
    steps = curve.x[kept]
    x = {axis.value: np.mean([run.position(axis, steps) for run in group.drawn], axis=0) for axis in NAMES}
    found: dict[str, Any] = {"x": {name: plain(values) for name, values in x.items()}, "y": plain(curve.mean[kept])}
    if curve.seeds > 1:
        found |= {"low": plain(curve.low[kept]), "high": plain(curve.high[kept])}
    return found


def thinned(values: np.ndarray, points: int) -> np.ndarray:
    """Which of `values` to keep: all of a short curve, else of each stretch the lowest and the highest, and both ends.

    (up to about `points`,) int64 indices in order; a spike of one step is still there.
    """
    count = len(values)
    if count <= points:
        return np.arange(count)
    kept = {0, count - 1}
    for part in np.array_split(np.arange(count), points // 2):
        known = part[np.isfinite(values[part])]
        if len(known):
            kept |= {int(known[values[known].argmin()]), int(known[values[known].argmax()])}
    return np.array(sorted(kept))


def plain(values: np.ndarray) -> list[float | None]:
    """Numbers of seven digits, what is not finite as null."""
    return [float(f"{value:.7g}") if np.isfinite(value) else None for value in values]


def _stages(group: Group, axis: Axis) -> list[list[float]]:
    """Begin, end and the share of the model's rows that runs (0-1), of each of several stages."""
    spans = placed_stages(group, axis)
    shares = [span.rates[2] * (span.rates[0] + span.rates[1]) / 2 for _, _, span in spans]
    found = [[float(f"{x:.7g}") for x in (*ends, share)] for (*ends, _), share in zip(spans, shares, strict=True)]
    return found if len(found) > 1 else []
