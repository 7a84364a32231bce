import errno
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from est_cli.common.errors import StorageError
from est_cli.tracking import metrics
from est_cli.tracking.metrics import MetricsFile, MetricsTail, RunTail, read_metrics


def written(path, *records):
    metrics = MetricsFile(path)
    for record in records:
        metrics.append(record)
    return metrics


def test_floats_read_back_exactly(tmp_path):
    records = [{"step": 1, "loss": 0.1 + 0.2, "lr": 1e-300}, {"step": 2, "loss": math.pi, "lr": 5e-324}]
    written(tmp_path / "m.jsonl", *records)
    assert read_metrics(tmp_path / "m.jsonl") == records


def test_each_line_is_on_disk_at_once(tmp_path):
    metrics = written(tmp_path / "m.jsonl", {"step": 1})
    assert (tmp_path / "m.jsonl").read_bytes() == b'{"step": 1}\n'
    metrics.append({"step": 2})
    assert len((tmp_path / "m.jsonl").read_bytes().splitlines()) == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_becomes_null(tmp_path, value):
    written(tmp_path / "m.jsonl", {"step": 1, "loss": value})
    line = (tmp_path / "m.jsonl").read_text()
    assert json.loads(line, parse_constant=lambda name: pytest.fail(name)) == {"step": 1, "loss": None}


def test_truncate_keeps_lines_up_to_the_step_and_drops_the_torn_tail(tmp_path):
    path = tmp_path / "m.jsonl"
    metrics = written(path, *({"step": step, "loss": step / 3} for step in (1, 2, 2, 3, 4)))
    kept = path.read_bytes()[: sum(len(line) + 1 for line in path.read_bytes().split(b"\n")[:3])]
    with path.open("ab") as file:
        file.write(b'{"step": 5, "lo')
    metrics.truncate_after(2)
    assert path.read_bytes() == kept
    metrics.append({"step": 3})
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 2, 3]
    assert os.listdir(tmp_path) == ["m.jsonl"]


def test_every_torn_end_is_tolerated(tmp_path):
    path = tmp_path / "m.jsonl"
    written(path, {"step": 1}, {"step": 2, "loss": 1.5})
    whole = path.read_bytes()
    for cut in range(len(b'{"step": 1}\n'), len(whole) - 2):
        path.write_bytes(whole[:cut])
        MetricsFile(path).truncate_after(9)
        assert path.read_bytes() == b'{"step": 1}\n'


def test_truncate_without_a_file_makes_none(tmp_path):
    MetricsFile(tmp_path / "m.jsonl").truncate_after(5)
    assert os.listdir(tmp_path) == []


def test_damage_in_the_middle_is_told_and_nothing_is_changed(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(StorageError, match=r"m\.jsonl: line 2 is damaged"):
        MetricsFile(path).truncate_after(1)
    assert path.read_bytes() == b'{"step": 1}\n{"ste\n{"step": 3}\n'


def test_a_failing_disk_is_a_storage_error():
    with pytest.raises(StorageError, match="/dev/full: cannot be written"):
        written(Path("/dev/full"), {"step": 1})


def test_a_missing_file_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="cannot be read"):
        read_metrics(tmp_path / "none.jsonl")


class _Short(io.FileIO):
    """Takes three bytes at once, and after `room` of them what `refuse` does."""

    def __init__(self, path: Path, room: int, refuse: Callable[[], int | None]) -> None:
        super().__init__(path, "ab")
        self.left, self.refuse = room, refuse

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        if not self.left:
            return self.refuse()
        part = bytes(data)[: min(3, self.left)]
        self.left -= len(part)
        return super().write(part)


def _no_space() -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("refuse", "words"), [(_no_space, "No space left"), (lambda: None, "temporarily unavailable")])
def test_a_line_written_in_parts_is_whole_or_tells_why(tmp_path: Path, refuse: Any, words: str) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file._file = _Short(file.path, 24, refuse)
    file.append({"step": 1, "a": 12345})
    with pytest.raises(StorageError, match=words):
        file.append({"step": 2, "a": 1})
    file.close()
    assert read_metrics(file.path) == [{"step": 1, "a": 12345}]


def test_a_tail_reads_whole_lines_once_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail, late = MetricsTail(path), MetricsTail(path, after=2)
    assert tail.new() == []
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"st')
    assert tail.new() == [{"step": 1}, {"step": 2}] and tail.new() == []
    with path.open("ab") as file:
        file.write(b'ep": 3}\n{"ste\n{"step": 4}\n')
    assert tail.new() == [{"step": 3}, {"step": 4}], "what is damaged is passed over"
    assert late.new() == [{"step": 3}, {"step": 4}] and late.new() == []


def test_a_tail_takes_a_large_file_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "TAIL_BYTES", 100)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(b'{"step": %d}\n' % step for step in range(1, 101)))
    tail, pieces = MetricsTail(path), []
    while found := tail.new():
        pieces.append([record["step"] for record in found])
    assert len(pieces) > 5 and [step for piece in pieces for step in piece] == [*range(1, 101)]


def test_layers_come_between_the_metrics_of_their_steps(tmp_path: Path) -> None:
    """In the order of steps, whatever of the files is there at each look: trackers take no step that lies behind."""
    metrics, layers = MetricsFile(tmp_path / "metrics.jsonl"), MetricsFile(tmp_path / "layers.jsonl")
    tail = RunTail(metrics.path, layers.path)
    metrics.append({"step": 1, "loss": 5.0})
    layers.append({"step": 2, "activation_rms": [1.0, 2.0], "trained_heads": [[1.0]]})
    assert [record["step"] for record in tail.new()] == [1], "the metrics of step 2 come first"
    metrics.append({"step": 2, "loss": 4.0})
    metrics.append({"step": 3, "loss": 3.0})
    found = tail.new()
    assert [record["step"] for record in found] == [2, 2, 3] and "loss" in found[0]
    assert found[1] == {"step": 2, "layers/activation_rms/00": 1.0, "layers/activation_rms/01": 2.0}
    assert tail.new() == []
