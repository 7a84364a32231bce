"""metrics.jsonl: one JSON object a line, the record of a run. Everything else is made from it or mirrors it.

layers.jsonl, of the layers' health, is a file of the same kind.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from io import FileIO
from operator import itemgetter
from pathlib import Path
from typing import Any

from est_cli.common.errors import StorageError
from est_cli.storage import disk
from est_cli.tracking.records import Record, flat

TAIL_BYTES = 2 << 20

_REFUSED = "cannot be written ({reason}); a writable disk with free space is needed"


class MetricsFile:
    """The record of one run, written by one process. Used after a crash only once `truncate_after` mended its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None

    def append(self, record: Record) -> None:
        """Write `record` as one line at once; floats read back exactly, NaN and infinities become null.

        Raises StorageError if the disk refuses it.
        """
        line = json.dumps({key: _finite(value) for key, value in record.items()}, allow_nan=False).encode() + b"\n"
        with disk.storage_errors(self.path, _REFUSED):
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
            while line:  # of a part that was taken nothing is known: the next call tells why, or goes on
                taken = self._file.write(line)
                if not taken:  # None: it would have had to wait
                    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                line = line[taken:]

    def sync(self) -> None:
        """Have the disk hold every line: call it before a checkpoint that counts on them. Raises StorageError."""
        with disk.storage_errors(self.path, _REFUSED):
            if self._file is not None:
                os.fsync(self._file.fileno())

    def truncate_after(self, step: int) -> None:
        """Keep only the lines of steps up to `step`, byte for byte; a torn last line goes. Old or new file, never half.

        Raises StorageError if the file is damaged elsewhere or the disk refuses the new one.
        """
        self.close()
        if not self.path.exists():
            return
        kept = b"".join(line + b"\n" for line, record in lines_of(self.path) if record["step"] <= step)
        disk.replace_file(self.path, kept, _REFUSED)

    def close(self) -> None:
        """Close the file; a later `append` opens it again."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


class MetricsTail:
    """Reads on in a metrics file that somebody else appends to: what follows step `after`."""

    def __init__(self, path: Path, after: int = 0) -> None:
        self._path, self._after = path, after
        self._position = 0

    def new(self) -> list[Record]:
        """The records of the lines that are whole by now and were not returned before, at most some megabytes of them.

        A line that is damaged is passed over: readers of the whole file tell of it.
        """
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._position)
            lines, found = file.readlines(TAIL_BYTES), []
        for line in lines:
            if not line.endswith(b"\n"):
                break
            self._position += len(line)
            record = _parse(line)
            if record is not None and record["step"] > self._after:
                found.append(record)
        return found


class RunTail:
    """The same of a run: its metrics file and, beside it, that of its layers, as trackers have both, step by step.

    A record of the layers is written before any metric of a later step: it is held back until that step is read.
    """

    def __init__(self, metrics: Path, layers: Path, after: int = 0) -> None:
        self._metrics, self._layers = MetricsTail(metrics, after), MetricsTail(layers, after)
        self._held: list[Record] = []
        self._step = after

    def new(self) -> list[Record]:
        """As MetricsTail.new(); of layers a number in the place of each list (see records.flat)."""
        metrics = self._metrics.new()
        self._held += map(flat, self._layers.new())
        self._step = max([self._step, *(record["step"] for record in metrics)])
        layers = [record for record in self._held if record["step"] <= self._step]
        self._held = self._held[len(layers) :]
        return sorted([*metrics, *layers], key=itemgetter("step"))


def read_metrics(path: Path) -> list[Record]:
    """All records of a metrics file, without a torn last line. Raises StorageError if it is missing or damaged."""
    return [record for _, record in lines_of(path)]


def lines_of(path: Path) -> Iterator[tuple[bytes, Record]]:
    """As read_metrics(), each record behind its line as it stands in the file, without the end of it."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as exc:
        raise StorageError(f"{path}: cannot be read ({exc.strerror})") from exc
    while lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is not None:
            yield line, record
        elif number < len(lines):
            raise StorageError(f"{path}: line {number} is damaged; each line should be one JSON object with a `step`")


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
