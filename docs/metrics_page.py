"""docs/metrics.md, from where the records are declared: `python docs/metrics_page.py > docs/metrics.md`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from est_cli.evaluation.outcomes import Record
from est_cli.tracking.names import tracker_name
from est_cli.tracking.records import Field, In, fields_of

HEAD = """\
# What runs record

This page is made by `python docs/metrics_page.py` from `est_cli/tracking/records.py` and
`est_cli/evaluation/outcomes.py`. Change these, not this page. [method.md](method.md#flops) tells how FLOPs are counted,
and [what a realised rate is](method.md#how-it-is-built-here).
"""
IN_FILES = {
    In.step: "A line for each logged step (`train.log_every`, and around each transition); it has a `loss`.",
    In.validation: "A line for each evaluation (`train.eval_every`); it has a `val_loss`.",
    In.transition: "A line for the first step of each stage after the first one.",
    In.sample: "A line for each sample (`train.sample_every`); in W&B a row of the table `est/samples`.",
    In.not_finite: "A line for each step that was left out because its loss or gradient was not finite.",
    In.skipped: "A line for each step that was left out because it is a spike (`train.on_spike=skip`).",
    In.rewind: "A line where the run went back to a checkpoint (`train.on_spike=rewind`), of the first step after it; "
    "lines of the steps that it undid are gone.",
}


def page() -> Iterator[str]:
    yield HEAD
    yield "## metrics.jsonl\n\nEach line is one JSON object. W&B mirrors every line, without what is null.\n"
    for record, about in IN_FILES.items():
        yield f"### `{record.value}`\n\n{about}\n"
        declared = fields_of(record)
        rows = [[f"`{one.name}`", one.unit, f"`{tracker_name(one.name)}`", _meaning(one)] for one in declared]
        yield _table(["key", "unit", "in trackers", "meaning"], rows)
    about = "One JSON object for each step at which the layers' health was measured (`train.log_layers_every`)."
    lists = "Unless a row says otherwise, a list has an entry for each layer. In trackers it is `layers/KEY/03`. "
    yield f"## layers.jsonl\n\n{about} {lists}Lists of lists are not sent to trackers.\n"
    yield _plain(fields_of(In.layers))
    yield "## summary.json\n\nWritten last: a run that has it is done. W&B has its numbers as the run's summary.\n"
    yield _plain(fields_of(In.summary))
    yield "## report.json\n\nest-report's numbers of each run. Of `groups` they are means, and KEY_sd is the spread.\n"
    yield _plain(fields_of(In.report))
    yield "## results.json\n\nest-eval writes one of `records` for each fine-tuning (a checkpoint, a task, a seed).\n"
    results = [[f"`{field.name}`", field.metadata["unit"], field.metadata["meaning"]] for field in fields(Record)]
    yield _table(["key", "unit", "meaning"], results)


def _plain(declared: Sequence[Field]) -> str:
    return _table(["key", "unit", "meaning"], [[f"`{field.name}`", field.unit, _meaning(field)] for field in declared])


def _meaning(field: Field) -> str:
    return field.meaning + (f"; null: {field.null}" if field.null else "")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    print("\n".join(page()), end="")
