"""docs/metrics.md, from where the records are declared: `python docs/metrics_page.py > docs/metrics.md`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from est_cli.evaluation.outcomes import Record
from est_cli.tracking.names import tracker_name
from est_cli.tracking.records import Field, In, fields_of

HEAD = """\
# What runs record

Made by `python docs/metrics_page.py` from `est_cli/tracking/records.py` and `est_cli/evaluation/outcomes.py`: change
these, not this page. Conventions of FLOPs: [performance.md](performance.md); realised sampling rates:
[schedulers.md](schedulers.md).
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
    yield "## metrics.jsonl\n\nOne JSON object a line. W&B mirrors every line, without what is null.\n"
    for record, about in IN_FILES.items():
        yield f"### `{record.value}`\n\n{about}\n"
        declared = fields_of(record)
        rows = [[f"`{one.name}`", one.unit, f"`{tracker_name(one.name)}`", _meaning(one)] for one in declared]
        yield _table(["key", "unit", "in trackers", "meaning"], rows)
    about = "One JSON object for each step at which the layers' health was measured (`train.log_layers_every`)."
    lists = "a list has an entry for each layer, in trackers as `layers/KEY/03`; lists of lists are not sent there"
    yield f"## layers.jsonl\n\n{about} Where nothing else is said, {lists}.\n"
    yield _plain(fields_of(In.layers))
    yield "## summary.json\n\nWritten last: a run that has it is done. Its numbers are the summary of the run in W&B.\n"
    yield _plain(fields_of(In.summary))
    yield "## report.json\n\nest-report's numbers of each run; of `groups` the mean, and as KEY_sd the spread.\n"
    yield _plain(fields_of(In.report))
    yield "## results.json\n\nest-eval's, one of `records` for each fine-tuning (a checkpoint, a task, a seed).\n"
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
