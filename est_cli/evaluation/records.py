"""The records of fine-tunings on the disk: results.json, results.csv and results.md, replaced whole or not at all.

results.json is what a restart reads. Records that belong to another evaluation in the same folder stay in it; the means
and the comparison are those of the last evaluation.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from est_cli.common.errors import DataError, StorageError
from est_cli.evaluation.outcomes import Difference, Record, Spread, Summary, compare, summarise
from est_cli.evaluation.table import differences_of, markdown, model_first, print_results
from est_cli.evaluation.tasks import TASKS
from est_cli.storage import disk, strict_json

__all__ = [
    "Difference",
    "Record",
    "Spread",
    "Summary",
    "compare",
    "print_results",
    "read_records",
    "require_room",
    "summarise",
    "write_results",
]

MAX_BYTES = 1 << 26
"""Of results.json, 64 MiB: some 40,000 records of three epochs."""
RECORD_BYTES, EPOCH_BYTES = 2000, 500
"""More than a record takes there, and each of its epochs."""
JSON_NAME, CSV_NAME, TABLE_NAME = "results.json", "results.csv", "results.md"
_KINDS = {field.name: field.type for field in fields(Record) if field.type in ("int", "str")}


def read_records(folder: Path) -> list[Record]:
    """All records that lie in the folder, none where there is no file. Raises DataError for one that is not ours."""
    path = folder / JSON_NAME
    if not path.exists():
        return []
    try:
        found = strict_json.read_file(path, MAX_BYTES)
        return [_record(values) for values in found["records"]]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: holds no records of est-eval ({error}); move it away to begin anew") from error


def require_room(folder: Path, count: int, epochs: float) -> None:
    """Raise StorageError where results.json could not hold `count` more records, before the first of them is made."""
    path = folder / JSON_NAME
    there = path.stat().st_size if path.exists() else 0
    if there + count * (RECORD_BYTES + math.ceil(epochs) * EPOCH_BYTES) > MAX_BYTES:
        raise StorageError(
            f"{path}: {count} more fine-tunings of {epochs:g} epochs could make it larger than {MAX_BYTES} bytes; "
            "use another run_name, or fewer eval.seeds"
        )


def write_results(
    folder: Path,
    records: Sequence[Record],
    model: str,
    baseline: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write results.json, results.csv and results.md. StorageError if the disk refuses, DataError as read_records.

    `records`: those of this evaluation so far, of `model` and `baseline`; what else lies in the folder is kept.
    `settings`: plain values, what the evaluation was asked for.
    """
    records = model_first(records, model)
    known = {record.identity for record in records}
    kept = [record for record in read_records(folder) if record.identity not in known]
    differences = differences_of(records, model, baseline)
    content = {
        "records": [asdict(record) for record in [*kept, *records]],
        "summaries": [asdict(summary) for summary in summarise(records)],
        "comparison": None if differences is None else [asdict(found) for found in differences],
        "checkpoint": model,
        "baseline": baseline,
        "settings": dict(settings or {}),
    }
    disk.replace_file(folder / JSON_NAME, _json(content, folder / JSON_NAME))
    disk.replace_file(folder / CSV_NAME, _csv([*kept, *records]))
    disk.replace_file(folder / TABLE_NAME, markdown(records, differences).encode())


def _json(content: dict[str, Any], path: Path) -> bytes:
    try:
        return strict_json.write_object(content, MAX_BYTES)
    except ValueError as error:
        raise StorageError(f"{path}: {error}; use another run_name for further evaluations") from error


def _record(values: dict[str, Any]) -> Record:
    """What asdict(record) was. ValueError, TypeError or AttributeError for anything else."""
    if set(values) != {field.name for field in fields(Record)}:
        raise ValueError("a record has other keys")
    if any(type(values[name]).__name__ != kind for name, kind in _KINDS.items()):
        raise ValueError("a record has values of another kind")
    if values["task"] not in TASKS:
        raise ValueError(f"there is no task {values['task']!r}")
    scores = {str(k): {str(name): float(value) for name, value in v.items()} for k, v in values["scores"].items()}
    dev = {str(split): int(count) for split, count in values["dev_examples"].items()}
    numbers = {name: float(values[name]) for name in ("score", "epoch", "seconds")}
    epochs = [dict(epoch) for epoch in values["epochs"]]
    return Record(**{**values, **numbers, "scores": scores, "dev_examples": dev, "epochs": epochs})


def _csv(records: Sequence[Record]) -> bytes:
    """A line per record; `split.metric` and `examples.split` are columns, empty where a task has none."""
    rows = [_flat(record) for record in records]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def _flat(record: Record) -> dict[str, Any]:
    row = {name: value for name, value in asdict(record).items() if name not in ("scores", "epochs", "dev_examples")}
    row |= {f"examples.{split}": count for split, count in record.dev_examples.items()}
    return row | {f"{split}.{name}": value for split, found in record.scores.items() for name, value in found.items()}
