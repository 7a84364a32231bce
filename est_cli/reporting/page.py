"""The HTML page of a report, from its numbers: page.html lays out what is put into words here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from est_cli.reporting.answer import MAX_ANSWERS
from est_cli.reporting.assets import page_json, read_assets
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
_SAVED = {"dense_steps": "FLOPs, blocks", "flops_total": "FLOPs, all", "seconds": "step time"}
_SHORT = {
    "steps": "steps",
    "tokens": "tokens",
    "flops_total": "FLOPs",
    "flops_blocks": "block FLOPs",
    "seconds": "time",
}
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Drawn:
    """What is drawn on the page."""

    curves: Mapping[str, Any] = field(default_factory=dict)
    """See curves.page_curves."""
    maps: Sequence[tuple[list[dict[str, Any]], str, str]] = ()
    """Panels (heat_map.page_panels), what they are, how far seeds differ."""
    inside: Sequence[Row] = ()
    """See inside.insides."""


def page(
    numbers: Mapping[str, Any],
    files: Sequence[tuple[str, str]],
    notes: Sequence[str],
    drawn: Drawn | None = None,
    live_ms: int = 0,
) -> str:
    """`numbers`: see numbers.all_numbers; `files`: name and caption of the pictures beside the page; `notes`: how it
    was measured; `drawn`: what the script draws; `live_ms`: how often the page asks its server for a new one, 0: never.
    """
    runs, groups = _count(len(numbers["runs"]), "run"), _count(len(numbers["groups"]), "group")
    drawn = drawn or Drawn()
    return str(
        _HTML.page(
            title=numbers["title"],
            about=f"{runs} in {groups}; made by est-report, {numbers['made']}",
            answer=answer_section(numbers["headline"], numbers["answers"]),
            curves=_curves_section(drawn.curves),
            maps=[_HTML.heat_map(*heat_map) for heat_map in drawn.maps],
            groups=_groups_table(numbers["groups"]),
            claims=claim_cards(numbers["claims"]),
            inside=[_HTML.inside(_inside(run), number) for number, run in enumerate(drawn.inside)],
            left_out=_left_out(len(drawn.inside), len(numbers["runs"])),
            runs=_runs_table(numbers["runs"]),
            tasks=_tasks_table(numbers["tasks"]),
            files=files,
            notes=notes,
            assets=read_assets(),
            data=page_json({**drawn.curves, "inside": [_pictures(run) for run in drawn.inside]}),
            live=live_ms,
        )
    )


def _curves_section(curves: Mapping[str, Any]) -> Markup | str:
    if not curves:
        return ""
    groups = [{**group, **_last_losses(group["curves"])} for group in curves["groups"]]
    axes = [{**axis, "short": _SHORT[axis["key"]]} for axis in curves["axes"]]
    return _HTML.curves(axes, groups, caller=lambda: _about_curves(curves))


def _last_losses(curves: Row) -> dict[str, str]:
    last = {kind: curves[kind]["y"][-1] if kind in curves else None for kind in ("train", "val")}
    return {f"last_{kind}": shown_number(value, ".4f") for kind, value in last.items()}


def _about_curves(curves: Mapping[str, Any]) -> str:
    seeds = max((group["n"] for group in curves["groups"]), default=0)
    lines = [
        "Strips above the pictures: each group's stages, fuller for larger subnetworks.",
        "Lines are means over seeds, bands the 95 % t interval of the mean, of two seeds their range."
        if seeds > 1
        else "One seed of each group.",
        f"Of curves longer than {curves['points']:,} points the lowest and highest of each stretch are kept, "
        "with seven digits.",
    ]
    if any(group["look"] == "rest" for group in curves["groups"]):
        lines.append("Groups beyond the first eight are off until they are chosen.")
    return " ".join(lines)


def _inside(run: Row) -> dict[str, Any]:
    """A run's parts with what its pictures say where no script runs: their last values."""
    lines = [{**line, "last": _last_of_line(line)} for line in run["lines"]]
    grids = [{**grid, "last": _last_of_grid(grid)} for grid in run["grids"]]
    return {**run, "lines": lines, "grids": grids}


def _last_of_line(line: Row) -> str:
    ends = ", ".join(f"{one['name']} {shown_number(one['y'][-1], '.4g')}" for one in line["series"])
    return f"{line['x_name']} {line['x'][-1]:g}: {ends}"


def _last_of_grid(grid: Row) -> str:
    values = ", ".join(shown_number(row[-1], ".3g") for row in grid["values"])
    return f"step {grid['steps'][-1]:,.0f}, from the first layer on: {values}"


def _pictures(run: Row) -> dict[str, Any]:
    return {"lines": run["lines"], "grids": run["grids"]}


def _left_out(shown: int, runs: int) -> str:
    return f"{runs - shown} more runs are not shown inside; give est-report fewer folders for them." * (shown < runs)


def answer_section(headline: str, answers: Sequence[Row]) -> Markup:
    """The sentence on top, and for each of the first groups its own, its picture and what is missing."""
    first = answers[:MAX_ANSWERS]
    width = max((_reach(one["difference"]) for one in first if one["difference"]), default=0) or 1
    parts = [
        {
            "sentence": one["sentence"],
            "drawn": {"bars": _bars(one["saved_pct"]), "interval": _interval(one["difference"], width)},
        }
        for one in first
    ]
    commands = list(dict.fromkeys(command for one in first for command in one["commands"]))
    return _HTML.answers(headline, parts, len(answers) - len(first), commands)


def _bars(saved: Mapping[str, Row]) -> list[dict[str, str]]:
    """Of each kind that is known: how much of the twin's was saved, or used beyond it."""
    return [
        {
            "name": name,
            "kind": "saved" if saved[key]["mean"] >= 0 else "spent",
            "width": f"{min(100.0, abs(saved[key]['mean'])):.2f}",
            "text": f"{saved[key]['mean']:.1f} %",
        }
        for key, name in _SAVED.items()
        if key in saved
    ]


def _reach(found: Row) -> float:
    known = (found[key] for key in ("mean", "low", "high"))
    return max(abs(value) for value in known if value is not None)


def _interval(found: Row | None, width: float) -> dict[str, Any] | None:
    """Places from -100 to 100, where 90 is a difference of `width`, the same for all groups of the page."""
    if found is None:
        return None
    places = {key: None if found[key] is None else f"{90 * found[key] / width:.2f}" for key in ("mean", "low", "high")}
    sure = "one seed" if found["low"] is None else f"95 %: {found['low']:+.4f} to {found['high']:+.4f}"
    ends = {"left": f"{-width / 0.9:+.3g}", "right": f"{width / 0.9:+.3g}"}
    return {**places, **ends, "words": f"{found['mean']:+.4f} ({sure})"}


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
    return _with_numbers(headings, rows)


def _with_numbers(headings: list[str], rows: list[list[str]]) -> Table:
    """Without the columns in which nothing is known."""
    known = [n for n in range(len(headings)) if any(row[n] != "-" for row in rows)]
    return [headings[n] for n in known], [[row[n] for n in known] for row in rows]


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
    return _with_numbers(headings, rows)


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
        [_comparison_row(row) for row in card["comparisons"] if row["difference"] is not None],
        _not_measured(card["comparisons"]),
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
    numbers = [f"{row['loss']:.4f}", f"{row['dense_loss']:.4f}", f"{found['mean']:+.4f}", str(found["n"])]
    against = row["against"] + (f": {note}" if note else "")
    return [f"{row['measure']}\n{against}", *numbers, row["verdict"]]


def _not_measured(comparisons: Sequence[Row]) -> list[str]:
    """What each comparison without a number needs, those that need the same in one line."""
    missing: dict[str, list[str]] = {}
    for row in comparisons:
        if row["difference"] is None:
            missing.setdefault(row["note"], []).append(f"{row['measure']} ({row['against']})")
    return [f"Not measured: {', '.join(names)}: {note}." for note, names in missing.items()]


def _shortened(value: str) -> str:
    """Hashes of 40 and 64 signs by their first twelve; report.json has all of them."""
    return value[:12] if len(value) in (40, 64) and set(value) <= set("0123456789abcdef") else value


def _count(number: int, name: str) -> str:
    return f"{number} {name}" + ("" if number == 1 else "s")
