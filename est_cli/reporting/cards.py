"""The claim cards: a group against its dense twin, what was measured and with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from est_cli.reporting.markup import table

Row = Mapping[str, Any]
MAX_CARDS = 4
"""Of more claims there is a table, and a card only for groups of several seeds: those of one seed show nothing."""


def claim_cards(cards: Sequence[Row]) -> list[str]:
    """`cards`: see numbers.claim_card."""
    if len(cards) <= MAX_CARDS:
        return list(map(_card, cards))
    return [_overview(cards), *(_card(card) for card in cards if len(card["seeds"]) > 1)]


def _overview(cards: Sequence[Row]) -> str:
    """One line per group, and of each measure the best comparison there is."""
    measures = list(dict.fromkeys(row["measure"] for row in cards[0]["comparisons"]))
    rows = [
        [card["group"], str(len(card["seeds"])), *(_briefly(card["comparisons"], measure) for measure in measures)]
        for card in cards
    ]
    told = "Final validation loss minus the dense one (nats per token), with its 95 % interval."
    return f"<p class=meta>{escape(told)}</p>" + table(["group", "n", *measures], rows, words=1)


def _briefly(comparisons: Sequence[Row], measure: str) -> str:
    """A dense run that ended there counts for more than one that was read on its way, and comes after it."""
    known = [row for row in comparisons if row["measure"] == measure and row["difference"] is not None]
    if not known:
        return "-"
    found = known[-1]["difference"]
    interval = "one seed" if found["low"] is None else f"{found['low']:+.4f} to {found['high']:+.4f}"
    return f"{found['mean']:+.4f}\n{interval}\n{known[-1]['against']}"


def _card(card: Row) -> str:
    against = "no dense twin" if card["dense"] is None else card["dense"]
    seeds = f"seeds {', '.join(map(str, card['seeds']))}"
    if card["dense_seeds"] not in (None, card["seeds"]):
        seeds += f" against {', '.join(map(str, card['dense_seeds']))}"
    about = f"Final validation loss (nats per token), {seeds}. {_saved(card['saved_pct'])}"
    headings = ["comparison", "loss", "dense loss", "difference", "n", "verdict (95 % interval)"]
    rows = [_comparison_row(row) for row in card["comparisons"]]
    cautions = "".join(f"<li>{escape(caution)}</li>" for caution in card["cautions"])
    return (
        f"<section class=card><h3>{escape(card['group'])} <small>against</small> {escape(against)}</h3>"
        f"<p class=meta>{escape(about)}</p>"
        + table(headings, rows, words=1, last_words=True)
        + (f"<ul class=cautions>{cautions}</ul>" if cautions else "")
        + _provenance(card["provenance"])
        + "</section>"
    )


def _saved(saved: Mapping[str, Row]) -> str:
    """What the group saved of what its twin used."""
    names = {"dense_steps": "FLOPs (blocks)", "flops_total": "FLOPs (total)", "seconds": "time"}
    told = [f"{_percent(saved[key])} of the {name}" for key, name in names.items() if key in saved]
    return f"Saved against the dense twin: {', '.join(told)}." if told else ""


def _percent(found: Row) -> str:
    """The mean, and the interval where it says more than the mean."""
    mean = f"{found['mean']:.2f} %"
    if found["low"] is None or found["high"] - found["low"] < 0.005:
        return mean
    return f"{mean} ({found['low']:.2f} to {found['high']:.2f})"


def _comparison_row(row: Row) -> list[str]:
    note, found = row["note"], row["difference"]
    if found is None:
        return [f"{row['measure']}\n{row['against']}", "-", "-", "-", "-", f"\nnot measured: {note}"]
    numbers = [f"{row['loss']:.4f}", f"{row['dense_loss']:.4f}", f"{found['mean']:+.4f}", str(found["n"])]
    against = row["against"] + (f": {note}" if note else "")
    return [f"{row['measure']}\n{against}", *numbers, row["verdict"]]


def _provenance(found: Mapping[str, Sequence[str]]) -> str:
    parts = [
        f"<div><dt>{escape(name)}</dt><dd>{escape('; '.join(map(_shortened, values)) or 'not recorded')}</dd></div>"
        for name, values in found.items()
    ]
    return f"<dl>{''.join(parts)}</dl>"


def _shortened(value: str) -> str:
    """Hashes of 40 and 64 signs by their first twelve; report.json has all of them."""
    return value[:12] if len(value) in (40, 64) and set(value) <= set("0123456789abcdef") else value
