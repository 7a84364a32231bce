"""Whether the seconds of two groups can be compared: the same work must have taken the same time in all their runs.

The work that an EST run and its dense twin have in common is a step of the complete model.
"""

from __future__ import annotations

from collections.abc import Sequence

from est_cli.reporting.runs import RunRecord

SAME_SPEED = 0.10
"""How much longer than in the fastest run a step of the complete model may take; an idle machine varies by less."""


def why_not_in_seconds(runs: Sequence[RunRecord]) -> str:
    """Why the seconds of these runs say nothing about what they saved; empty where they do."""
    known = {run.name: seconds for run in runs if (seconds := run.full_step_s) is not None}
    without = [run.name for run in runs if run.name not in known]
    if without:
        return f"{without[0]} has no step of the complete model, which would tell whether the machine was as fast"
    fast, slow = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    if known[slow] <= known[fast] * (1 + SAME_SPEED):
        return ""
    return (
        f"a step of the complete model took {known[slow]:.3g} s in {slow} and {known[fast]:.3g} s in {fast}, over "
        f"{100 * SAME_SPEED:.0f} % apart: the machine was not as fast in both"
    )
