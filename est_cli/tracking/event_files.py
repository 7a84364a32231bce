"""TensorBoard's event files, cut back: what a killed process wrote after its checkpoint must not stand there twice.

An event file is a row of records, each `length (8 bytes), checksum (4), data, checksum (4)`, in the order of steps; the
data is an Event of protocol buffers. Several files of one folder follow each other by the time in their names.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_HEAD, _TAIL = 12, 4
_LARGEST = 1 << 26
"""Bytes of an event; ours have some hundred."""


def events(path: Path) -> Iterator[tuple[int, Any]]:
    """(where it ends in the file, event) of each event, as far as the file is whole."""
    from tensorboardX.proto.event_pb2 import Event

    with path.open("rb") as file:
        while (data := _record(file)) is not None:
            yield file.tell(), Event.FromString(data)


def cut_back(folder: Path, step: int) -> int:
    """Cut the event files of `folder` so that they can go on after `step`, and return the first step to be written.

    That is `step + 1`, or the last step that is there, of which numbers may be missing, where it is an earlier one.
    """
    files = sorted(folder.glob("events.out.tfevents.*"))
    last = max((event.step for path in files for _, event in events(path) if event.HasField("summary")), default=0)
    first = min(last, step + 1)
    for path in files:
        kept = _kept(path, first)
        if kept:
            os.truncate(path, kept)
        else:
            path.unlink()
    return first


def _kept(path: Path, first: int) -> int:
    """How many bytes of a file are of steps before `first`; 0 where no number is."""
    kept = numbers = 0
    for end, event in events(path):
        if event.HasField("summary") and event.step >= first:
            break
        kept, numbers = end, numbers + event.HasField("summary")
    return kept if numbers else 0


def _record(file: BinaryIO) -> bytes | None:
    """The data of the next record; None at the end, or where the rest is torn."""
    head = file.read(_HEAD)
    if len(head) < _HEAD:
        return None
    (length,) = struct.unpack("<Q", head[:8])
    if length > _LARGEST:
        return None
    data = file.read(length + _TAIL)
    return data[:length] if len(data) == length + _TAIL else None
