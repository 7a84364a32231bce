"""Reads what W&B really wrote: a log of blocks as in LevelDB, each record a protobuf message."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def payloads(data: bytes) -> Iterator[bytes]:
    """The messages of a `.wandb` file, up to a torn end."""
    position, message = 7, b""  # the file begins with `:W&B` and three bytes more
    while position + HEADER.size <= len(data):
        left_in_block = BLOCK - position % BLOCK
        if left_in_block < HEADER.size:
            position += left_in_block
            continue
        _, size, kind = HEADER.unpack_from(data, position)
        position += HEADER.size
        message = message * (kind in (MIDDLE, LAST)) + data[position : position + size]
        position += size
        if kind in (FULL, LAST):
            yield message


def records(path: Path) -> list[Any]:
    """All protobuf records of the file."""
    from wandb.proto.wandb_internal_pb2 import Record

    return [Record.FromString(payload) for payload in payloads(path.read_bytes())]


def history(path: Path) -> list[dict[str, Any]]:
    """The logged rows, each a dict of key to value."""
    return [_items(record.history) for record in records(path) if record.WhichOneof("record_type") == "history"]


def config(path: Path) -> dict[str, Any]:
    """The configuration that was sent with the run."""
    sent = [record.run.config for record in records(path) if record.WhichOneof("record_type") == "run"]
    return {item.key: json.loads(item.value_json) for part in sent for item in part.update}


def _items(message: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in message.item}
