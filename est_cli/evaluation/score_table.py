"""The table of an evaluation, for a terminal and in Markdown: scores times 100, as GLUE shows them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from est_cli.common.counts import counted
from est_cli.common.table import UNLIMITED, print_lines, print_whole, table, table_console
from est_cli.evaluation.glue import TASKS
from est_cli.evaluation.outcomes import (
    AVERAGE_PRESENT,
    GLUE_AVERAGE,
    Difference,
    Record,
    Spread,
    Summary,
    differences_of,
    is_glue,
    model_first,
    summarise,
)

_FOLDED = 12
"""Width at which headings are folded on a narrow terminal."""
_DETAILS = ("metrics", "train", "dev")
_COMPARED = ("difference", "95 % interval", "significant", "pairs")
_BRIEFLY_COMPARED = ("diff.", "95 % interval", "sign.")


def cells(
    records: Sequence[Record], differences: Sequence[Difference] | None, brief: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row per task and one for the average; the last columns only where `differences` are given.

    `brief`: without the counts of examples and pairs and the single metrics, for a narrow terminal.
    """
    summaries = summarise(records)
    tasks = [task for task in TASKS if any(task in summary.tasks for summary in summaries)]
    compared = {found.task: found for found in differences or ()}
    headings = ["task", *(() if brief else _DETAILS), "seeds", *(summary.checkpoint for summary in summaries)]
    rows = [_task_row(task, records, summaries, brief) for task in tasks]
    if len(tasks) > 1:
        rows.append(_average_row(tasks, records, summaries, brief))
    if differences is None:
        return headings, rows
    added = _BRIEFLY_COMPARED if brief else _COMPARED
    return [*headings, *added], [[*row, *_compared(compared, row[0])[: len(added)]] for row in rows]


def markdown(records: Sequence[Record], differences: Sequence[Difference] | None) -> str:
    """The table with its notes, as a Markdown document."""
    headings, rows = cells(records, differences)
    lines = [headings, ["---"] * len(headings), *rows]
    grid = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join(["# GLUE", "", *grid, "", *(f"- {note}" for note in notes(records, differences))]) + "\n"


def print_results(
    records: Sequence[Record], model: str, baseline: str | None = None, console: Console | None = None
) -> None:
    """Write the table to stdout. Where that is no terminal it has no frames and is as wide as it needs."""
    console = console or table_console()
    records = model_first(records, model)
    differences = differences_of(records, model, baseline)
    columns = {model: "checkpoint"} | ({} if baseline is None else {baseline: "baseline"})
    shown = _table(*_renamed(columns, cells(records, differences)), console, brief=False)
    if Measurement.get(console, console.options.update(max_width=UNLIMITED), shown).maximum > console.width:
        shown = _table(*_renamed(columns, cells(records, differences, brief=True)), console, brief=True)
    print_whole(console, shown)
    print_lines(console, *(f"{key}: {name}" for name, key in columns.items()), *notes(records, differences, columns))


def notes(
    records: Sequence[Record], differences: Sequence[Difference] | None, names: Mapping[str, str] | None = None
) -> list[str]:
    """What the table's numbers are, and what was not as it should be. `names`: what models are called, if not so."""
    records = [
        replace(record, checkpoint=(names or {}).get(record.checkpoint, record.checkpoint)) for record in records
    ]
    lines = ["dev scores x 100: mean ± standard deviation (n - 1) over the seeds; a task's score is its metrics' mean"]
    if any("dev_mismatched" not in record.scores for record in records if record.task == "mnli"):
        lines.append("mnli: dev_matched alone, so this is not the official score")
    truncated = {f"{record.checkpoint}, {record.task}": record.truncated for record in records if record.truncated}
    lines += [f"{name}: {counted(count, 'example')} too long and truncated" for name, count in truncated.items()]
    lines += _constants(records)
    if differences is not None:
        tested = sum(found.significant is not None for found in differences)
        lines.append("difference: model minus baseline, paired over seeds; interval: Student's t, 95 %")
        lines += [f"of {tested} such tests 1 in 20 is significant by chance"] if tested > 1 else []
    return lines


def _constants(records: Sequence[Record]) -> Iterator[str]:
    """A line for each model, task and class that all examples were given, with the seeds of which that is so."""
    seeds: dict[tuple[str, str, str], list[int]] = {}
    for record in records:
        for split, one in (record.constant or {}).items():
            told = f"every example of {split} was called {one.label}, as {100 * one.share_frac:.1f} % are"
            seeds.setdefault((record.checkpoint, record.task, told), []).append(record.seed)
    for (checkpoint, task, told), found in seeds.items():
        which = f"seed{'s'[: len(found) > 1]} {', '.join(map(str, found))}"
        yield f"{checkpoint}, {task}, {which}: {told}: the scores of one class for all"


def _renamed(names: Mapping[str, str], table: tuple[list[str], list[list[str]]]) -> tuple[list[str], list[list[str]]]:
    """Headings that are paths would take all the room; what they stand for is told below."""
    headings, rows = table
    return [names.get(heading, heading) for heading in headings], rows


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], console: Console, brief: bool) -> Table:
    """`brief`: numbers never fold; headings and names of tasks may."""
    widths = {}
    for number, heading in enumerate(headings):
        if brief and number:
            widths[heading] = max([min(len(heading), _FOLDED), *(len(row[number]) for row in rows)])
    plain = not console.is_terminal
    return table(headings, rows, title="GLUE", words=["task", "metrics"], plain=plain, widths=widths)


def _task_row(task: str, records: Sequence[Record], summaries: Sequence[Summary], brief: bool) -> list[str]:
    seeds = _alike(str(summary.tasks[task].n) for summary in summaries if task in summary.tasks)
    details = [] if brief else _details(task, [record for record in records if record.task == task])
    return [task, *details, seeds, *(_score(summary, task, brief) for summary in summaries)]


def _details(task: str, records: Sequence[Record]) -> list[str]:
    splits = [split for split in TASKS[task].dev_splits if split in records[0].scores]
    metrics = [*TASKS[task].metrics] if len(splits) == 1 else [split.removeprefix("dev_") for split in splits]
    dev = " / ".join(str(records[0].dev_examples[split]) for split in splits)
    return [" / ".join(metrics), _alike(str(record.train_examples) for record in records), dev]


def _average_row(
    tasks: Sequence[str], records: Sequence[Record], summaries: Sequence[Summary], brief: bool
) -> list[str]:
    """The average of each checkpoint that has all the tasks; that of fewer tasks could not stand beside it."""
    averages = [summary.average_over_tasks_present for summary in summaries]
    complete = [list(summary.tasks) == list(tasks) for summary in summaries]
    shown = [_spread(average) if all_there else "-" for average, all_there in zip(averages, complete, strict=True)]
    details = [""] * (0 if brief else len(_DETAILS))
    name = GLUE_AVERAGE if is_glue(records) else AVERAGE_PRESENT
    return [name, *details, _alike(str(average.n) for average in averages), *shown]


def _score(summary: Summary, task: str, brief: bool) -> str:
    if task not in summary.tasks:
        return "-"
    parts = [f"{100 * metric.mean:.1f}" for metric in summary.metrics[task].values()]
    return _spread(summary.tasks[task]) + (f" ({' / '.join(parts)})" if len(parts) > 1 and not brief else "")


def _spread(value: Spread) -> str:
    return f"{100 * value.mean:.1f}" + ("" if value.sd is None else f" ± {100 * value.sd:.1f}")


def _compared(differences: Mapping[str, Difference], task: str) -> list[str]:
    found = differences.get(task)
    if found is None:
        return ["-", "-", "no pair", "0"]
    mean = f"{100 * found.mean:+.1f}"
    if found.low is None or found.high is None:
        return [mean, "-", "n=1", "1"]
    interval = f"{100 * found.low:+.1f} .. {100 * found.high:+.1f}"
    return [mean, interval, "yes" if found.significant else "no", str(found.n)]


def _alike(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
