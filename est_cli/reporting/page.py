"""The HTML page: one file with its style and pictures inside, no script, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from est_cli.reporting.cards import claim_cards
from est_cli.reporting.markup import table
from est_cli.reporting.style import STYLE
from est_cli.tracking.records import FIELDS

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
Row = Mapping[str, Any]

_SPREAD = {field.name: (field.report.heading, field.report.form) for field in FIELDS if field.report}
"""Key -> heading and form of what is measured; blank where a run does not know it."""
_ALIKE = 1e-4
"""A standard deviation of a smaller share of the mean is not shown: FLOPs are the same for all seeds as a rule."""


def page(numbers: Mapping[str, Any], figures: Sequence[tuple[str, bytes, str]], notes: Sequence[str]) -> str:
    """`numbers`: see numbers.all_numbers; `figures`: file name, PNG, caption; `notes`: how it was measured."""
    title = escape(numbers["title"])
    body = [
        f"<h1>{title}</h1>",
        f"<p class=meta>{escape(_summary(numbers))}</p>",
        "<h2>Groups</h2>" + _groups_table(numbers["groups"]),
        *(["<h2>Claims</h2>", *claim_cards(numbers["claims"])] if numbers["claims"] else []),
        "<h2>Curves</h2>",
        *(_figure(number, *figure) for number, figure in enumerate(figures, start=1)),
        "<h2>Runs</h2>" + _runs_table(numbers["runs"]),
        "<h2>How to read this</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>",
    ]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title><style>{STYLE}</style>'
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body><main>\n'
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def _summary(numbers: Mapping[str, Any]) -> str:
    runs, groups = len(numbers["runs"]), len(numbers["groups"])
    return f"{_count(runs, 'run')} in {_count(groups, 'group')}; made by est-report, {numbers['made']}"


def _groups_table(groups: Sequence[Row]) -> str:
    headings = ["group", "n", "seeds", "steps", "tokens", *(name for name, _ in _SPREAD.values())]
    rows = [
        [
            row["group"],
            str(row["n"]),
            ", ".join(map(str, row["seeds"])) or "-",
            f"{row['steps']:,}",
            f"{row['tokens']:,}",
            *(_with_spread(row, key, form) for key, (_, form) in _SPREAD.items()),
        ]
        for row in groups
    ]
    return table(headings, rows, words=1) + "<p class=caption>Mean ± standard deviation (n - 1) over the seeds.</p>"


def _with_spread(row: Row, key: str, form: str) -> str:
    value, sd = row[key], row.get(f"{key}_sd")
    if value is None:
        return "-"
    if sd is None or (key != "final_val_loss" and sd <= _ALIKE * abs(value)):
        return shown_number(value, form)
    return f"{shown_number(value, form)} ± {shown_number(sd, form)}"


def _runs_table(runs: Sequence[Row]) -> str:
    headings = ["run", "group", "status", "seed", "steps", *(name for name, _ in _SPREAD.values())]
    rows = [
        [
            row["run"],
            row["group"],
            row["status"],
            str(row["seed"]),
            f"{row['steps']:,}" + ("" if row["steps"] == row["planned_steps"] else f" of {row['planned_steps']:,}"),
            *("-" if row[key] is None else shown_number(row[key], form) for key, (_, form) in _SPREAD.items()),
        ]
        for row in runs
    ]
    return table(headings, rows, words=3)


def shown_number(value: float, form: str) -> str:
    """As the page shows it: FLOPs as 3.75 x 10^13, everything else by its form."""
    if not form.endswith("e"):
        return format(value, form)
    mantissa, exponent = format(value, form).split("e")
    return f"{mantissa}·10" + str(int(exponent)).translate(_RAISED)


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _figure(number: int, name: str, png: bytes, caption: str) -> str:
    source = "data:image/png;base64," + base64.b64encode(png).decode()
    told = f"<b>Figure {number}.</b> {escape(caption)} <span class=file>{escape(name)}</span>"
    return f'<figure><img alt="{escape(caption)}" src="{source}"><figcaption>{told}</figcaption></figure>'


def _count(number: int, name: str) -> str:
    return f"{number} {name}" + ("" if number == 1 else "s")
