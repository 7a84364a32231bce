"""The HTML page of a report, from its numbers: page.html lays out what is put into words here."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from est_cli.tracking.records import FIELDS

_TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
"""Whatever comes in is text; nothing of it is taken for markup."""
_HTML: Any = _TEMPLATES.get_template("page.html").module
Row = Mapping[str, Any]
Table = tuple[list[str], list[list[str]]]
"""The headings and the rows; a second line of a cell is small."""

_MEASURED = {field.name: field.report for field in FIELDS if field.report}
_ALIKE = 1e-4
"""A standard deviation of a smaller share of the mean is not shown: FLOPs are the same for all seeds as a rule."""
MAX_CARDS = 4
"""Of more claims there is a table, and a card only for groups of several seeds: those of one seed show nothing."""
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def page(numbers: Mapping[str, Any], figures: Sequence[tuple[str, bytes, str]], notes: Sequence[str]) -> str:
    """`numbers`: see numbers.all_numbers; `figures`: file name, PNG, caption; `notes`: how it was measured."""
    runs, groups = _count(len(numbers["runs"]), "run"), _count(len(numbers["groups"]), "group")
    return str(
        _HTML.page(
            title=numbers["title"],
            about=f"{runs} in {groups}; made by est-report, {numbers['made']}",
            groups=_groups_table(numbers["groups"]),
            claims=claim_cards(numbers["claims"]),
            figures=[(name, base64.b64encode(png).decode(), caption) for name, png, caption in figures],
            runs=_runs_table(numbers["runs"]),
            tasks=_tasks_table(numbers["tasks"]),
            notes=notes,
        )
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> str:
    """HTML; the first `words` columns hold words, the others numbers."""
    return str(_HTML.table(headings, rows, words))


def _groups_table(groups: Sequence[Row]) -> Table:
    headings = ["group", "n", "seeds", "steps", "tokens", *(cell.heading for cell in _MEASURED.values())]
    rows = [
        [
            row["group"],
            str(row["n"]),
            ", ".join(map(str, row["seeds"])) or "-",
            f"{row['steps']:,}",
            f"{row['tokens']:,}",
            *(_with_spread(row, key, cell.form) for key, cell in _MEASURED.items()),
        ]
        for row in groups
    ]
    return headings, rows


def _with_spread(row: Row, key: str, form: str) -> str:
    value, sd = row[key], row.get(f"{key}_sd")
    if value is None or sd is None or (key != "final_val_loss" and sd <= _ALIKE * abs(value)):
        return shown_number(value, form)
    return f"{shown_number(value, form)} ± {shown_number(sd, form)}"


def _runs_table(runs: Sequence[Row]) -> Table:
    headings = ["run", "group", "status", "seed", "steps", *(cell.heading for cell in _MEASURED.values())]
    rows = [
        [
            row["run"],
            row["group"],
            row["status"],
            str(row["seed"]),
            f"{row['steps']:,}" + ("" if row["steps"] == row["planned_steps"] else f" of {row['planned_steps']:,}"),
            *(shown_number(row[key], cell.form) for key, cell in _MEASURED.items()),
        ]
        for row in runs
    ]
    return headings, rows


def _tasks_table(found: Sequence[Row]) -> Table | None:
    """The last evaluation of each run; None where there is none."""
    last = {row["run"]: row for row in found}
    names = sorted({name for row in last.values() for name in row["numbers"] if not name.endswith("_stderr")})
    rows = [
        [run, f"{row['step']:,}", *(shown_number(row["numbers"].get(name), ".4f") for name in names)]
        for run, row in last.items()
    ]
    return (["run", "step", *names], rows) if names else None


def shown_number(value: float | None, form: str) -> str:
    """As the page shows it: FLOPs as 3.75 x 10^13, everything else by its form."""
    if value is None:
        return "-"
    if not form.endswith("e"):
        return format(value, form)
    mantissa, exponent = format(value, form).split("e")
    return f"{mantissa}·10" + str(int(exponent)).translate(_RAISED)


def claim_cards(cards: Sequence[Row]) -> list[Markup]:
    """The claims, a group against its dense twin each. `cards`: see numbers.claim_card."""
    if len(cards) <= MAX_CARDS:
        return list(map(_card, cards))
    return [_overview(cards), *(_card(card) for card in cards if len(card["seeds"]) > 1)]


def _overview(cards: Sequence[Row]) -> Markup:
    """One line per group, and of each measure the best comparison there is."""
    measures = list(dict.fromkeys(row["measure"] for row in cards[0]["comparisons"]))
    rows = [
        [card["group"], str(len(card["seeds"])), *(_briefly(card["comparisons"], measure) for measure in measures)]
        for card in cards
    ]
    return _HTML.overview(["group", "n", *measures], rows)


def _briefly(comparisons: Sequence[Row], measure: str) -> str:
    """A dense run that ended there counts for more than one that was read on its way, and comes after it."""
    known = [row for row in comparisons if row["measure"] == measure and row["difference"] is not None]
    if not known:
        return "-"
    found = known[-1]["difference"]
    interval = "one seed" if found["low"] is None else f"{found['low']:+.4f} to {found['high']:+.4f}"
    return f"{found['mean']:+.4f}\n{interval}\n{known[-1]['against']}"


def _card(card: Row) -> Markup:
    seeds = f"seeds {', '.join(map(str, card['seeds']))}"
    if card["dense_seeds"] not in (None, card["seeds"]):
        seeds += f" against {', '.join(map(str, card['dense_seeds']))}"
    provenance = {
        name: "; ".join(map(_shortened, found)) or "not recorded" for name, found in card["provenance"].items()
    }
    return _HTML.card(
        card["group"],
        "no dense twin" if card["dense"] is None else card["dense"],
        f"Final validation loss (nats per token), {seeds}. {_saved(card['saved_pct'])}",
        [_comparison_row(row) for row in card["comparisons"]],
        card["cautions"],
        provenance,
    )


def _saved(saved: Mapping[str, Row]) -> str:
    """What the group saved of what its twin used."""
    names = {"dense_steps": "FLOPs (blocks)", "flops_total": "FLOPs (total)", "seconds": "time"}
    parts = [f"{_percent(saved[key])} of the {name}" for key, name in names.items() if key in saved]
    return f"Saved against the dense twin: {', '.join(parts)}." if parts else ""


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


def _shortened(value: str) -> str:
    """Hashes of 40 and 64 signs by their first twelve; report.json has all of them."""
    return value[:12] if len(value) in (40, 64) and set(value) <= set("0123456789abcdef") else value


def _count(number: int, name: str) -> str:
    return f"{number} {name}" + ("" if number == 1 else "s")
