"""An evaluation's folder and its files: results.json, .csv and .md, zero_shot.json, and of a sweep's job summary.json.

Each is replaced whole or not at all. results.json is what a restart reads. Records that belong to another evaluation in
the same folder stay in it; the means and the comparison are those of the last evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from est_cli.common.errors import DataError, StorageError
from est_cli.common.table import csv_bytes
from est_cli.evaluation.glue import TASKS
from est_cli.evaluation.outcomes import Constant, Record, differences_of, model_first, summarise
from est_cli.evaluation.score_table import markdown
from est_cli.storage import disk, strict_json
from est_cli.storage.run_dir import RunDir, lock, write_json, write_result
from est_cli.storage.store import clean_leftovers

MAX_BYTES = 1 << 26
"""Of results.json, 64 MiB: some 40,000 records of three epochs."""
RECORD_BYTES, EPOCH_BYTES = 2000, 500
"""More than a record takes there, and each of its epochs."""
JSON_NAME, CSV_NAME, TABLE_NAME = "results.json", "results.csv", "results.md"
_KINDS = {field.name: field.type for field in fields(Record) if field.type in ("int", "str")}
ZERO_SHOT = "zero_shot.json"
IDENTITY = ("checkpoint", "task", "settings_digest")
"""What a result is known by in it."""


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Make the folder, lock it until the end of the block, and clear what killed commands left in it."""
    with disk.storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with lock(RunDir(folder)):
        clean_leftovers(folder)
        yield


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
    write_result(folder / JSON_NAME, content, MAX_BYTES, "; use another run_name for further evaluations")
    disk.replace_file(folder / CSV_NAME, csv_bytes([_flat(record) for record in [*kept, *records]]))
    disk.replace_file(folder / TABLE_NAME, markdown(records, differences).encode())


def zero_shot_results(folder: Path) -> list[dict[str, Any]]:
    """What is in zero_shot.json, none where it is not there. DataError for a file that is not ours."""
    path = folder / ZERO_SHOT
    try:
        found = list(strict_json.read_file(path)["records"]) if path.exists() else []
        for entry in found:
            _ = [entry[name] for name in IDENTITY]
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: holds no results of est-eval ({error}); move it away to begin anew") from error


def keep_zero_shot(folder: Path, result: dict[str, Any]) -> None:
    """Add a result to zero_shot.json, in place of one of the same checkpoint, task and settings."""

    def key(entry: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(entry[name] for name in IDENTITY)

    others = [entry for entry in zero_shot_results(folder) if key(entry) != key(result)]
    disk.replace_file(folder / ZERO_SHOT, strict_json.write_object({"records": [*others, result]}))


def keep_summary(folder: Path, request: str, numbers: Mapping[str, Any]) -> None:
    """Written last: its presence says that nothing is left to do of the request with this digest."""
    write_json(RunDir(folder).summary, {"asked": request, **numbers})


def _record(values: dict[str, Any]) -> Record:
    """What asdict(record) was. ValueError, TypeError or AttributeError for anything else."""
    values = {"constant": None, **values}  # records of earlier versions have none
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
    found = {**values, **numbers, "scores": scores, "dev_examples": dev, "epochs": epochs}
    if values["constant"] is not None:
        found["constant"] = {
            str(k): Constant(str(v["label"]), float(v["share_frac"])) for k, v in values["constant"].items()
        }
    return Record(**found)


def _flat(record: Record) -> dict[str, Any]:
    """A line of results.csv: `split.metric` and `examples.split` are columns."""
    row = {
        name: value
        for name, value in asdict(record).items()
        if name not in ("scores", "epochs", "dev_examples", "constant")
    }
    row |= {f"examples.{split}": count for split, count in record.dev_examples.items()}
    row |= {f"constant.{split}": constant.label for split, constant in (record.constant or {}).items()}
    return row | {f"{split}.{name}": value for split, found in record.scores.items() for name, value in found.items()}
