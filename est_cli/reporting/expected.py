"""What prices (est-analyze analysis=prices) say that a run ends with, and what it did end with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from est_cli.common.errors import ConfigError
from est_cli.config.prices import between, predicted, read_prices
from est_cli.config.resolve import resolve
from est_cli.reporting.claim import Claim


def with_predictions(claims: Sequence[Claim], place: str) -> list[Claim]:
    """The claims, each with what was expected of its group as the first of its cautions, or why nothing was."""
    read_prices(place)  # which is told at once where it is none
    return [_with_prediction(claim, place) for claim in claims]


def _with_prediction(claim: Claim, place: str) -> Claim:
    run = claim.group.counted[0]
    try:
        found = predicted(resolve(run.config), place)
    except ConfigError as error:
        return replace(claim, cautions=[f"Nothing was expected of it ({error}).", *claim.cautions])
    told = f"Expected by prices: {found.loss.mean:+.4f} ({between(found.loss, '+.4f')}); {_seen(claim)}."
    return replace(claim, expected=found.loss, cautions=[told, *claim.cautions])


def _seen(claim: Claim) -> str:
    difference = claim.comparisons[0].difference
    if difference is None:
        return "seen: no dense twin yet"
    low_high = "" if difference.interval is None else " ({:+.4f} to {:+.4f})".format(*difference.interval)
    return f"seen: {difference.mean:+.4f}{low_high} with {difference.n} seed{'s'[: difference.n > 1]}"
