import csv
import json
from pathlib import Path
from typing import Any

import pytest

from est_cli.checkpoint import disk
from est_cli.errors import DataError, StorageError
from est_cli.glue.records import read_records, write_results
from tests.glue.made import nine, record


def test_no_file_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path) == []


def test_records_come_back(tmp_path: Path) -> None:
    records = [*nine("m", [0, 1]), *nine("b", [0, 1])]
    write_results(tmp_path, records, "m", "b", {"lr": 1e-4})
    assert read_records(tmp_path) == records
    found = json.loads((tmp_path / "results.json").read_bytes())
    assert [one["checkpoint"] for one in found["summaries"]] == ["m", "b"]
    assert found["summaries"][0]["glue_average"]["mean"] == pytest.approx(0.5)
    assert [one["task"] for one in found["comparison"]][-2:] == ["wnli", "GLUE average"]
    assert (found["checkpoint"], found["baseline"], found["settings"]) == ("m", "b", {"lr": 1e-4})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.json", "results.md"]


def test_another_evaluation_keeps_what_is_there(tmp_path: Path) -> None:
    """The same checkpoint, task and seed with other settings is another record; with equal ones it is replaced."""
    first, second = record("m", "rte", 0, 0.5), record("m", "rte", 0, 0.7, settings="other")
    write_results(tmp_path, [first], "m")
    write_results(tmp_path, [second], "m")
    assert read_records(tmp_path) == [first, second]
    better = record("m", "rte", 0, 0.9)
    write_results(tmp_path, [better], "m")
    assert read_records(tmp_path) == [second, better]
    (summary,) = json.loads((tmp_path / "results.json").read_bytes())["summaries"]
    assert summary["tasks"]["rte"]["mean"] == 0.9
    assert json.loads((tmp_path / "results.json").read_bytes())["comparison"] is None


def test_the_csv_has_a_line_per_record(tmp_path: Path) -> None:
    write_results(tmp_path, [record("a,b", "mrpc", 0, 0.9, 0.7), record("a,b", "mnli", 1, 0.5, 0.6)], "a,b")
    mrpc, mnli = csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
    assert (mrpc["checkpoint"], mrpc["task"], mrpc["seed"], mrpc["score"]) == ("a,b", "mrpc", "0", "0.8")
    assert (mrpc["dev.f1"], mrpc["dev.accuracy"], mrpc["dev_matched.accuracy"]) == ("0.9", "0.7", "")
    assert (mnli["dev_matched.accuracy"], mnli["dev_mismatched.accuracy"], mnli["dev.f1"]) == ("0.5", "0.6", "")
    assert mnli["examples.dev_matched"] == "100"


def test_the_model_comes_before_its_baseline(tmp_path: Path) -> None:
    """Also where the baseline's records were there first."""
    write_results(tmp_path, [record("b", "rte", 0, 0.5), record("m", "rte", 0, 0.75)], "m", "b")
    assert [found.checkpoint for found in read_records(tmp_path)] == ["m", "b"]
    assert "| rte | accuracy | 2000 | 100 | 1 | 75.0 | 50.0 | +25.0 |" in (tmp_path / "results.md").read_text()


def changed(**changes: Any) -> dict[str, Any]:
    write = json.loads(json.dumps(record("m", "rte", 0, 0.5).__dict__))
    return {**write, **changes}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"records": 3}',
        b'{"records": [3]}',
        b'{"records": [{}]}',
        b'{"records": [], "records": []}',
        b'{"records": [NaN]}',
        b"\xff",
        *(
            json.dumps({"records": [changed(**changes)]}).encode()
            for changes in (
                *({"more": 1}, {"seed": "0"}, {"seed": True}, {"task": "no"}, {"checkpoint": None}, {"score": "x"}),
                *({"scores": 1}, {"scores": {"dev": {"accuracy": "x"}}}, {"epochs": [1]}, {"dev_examples": []}),
            )
        ),
    ],
)
def test_a_file_that_is_not_ours(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "results.json").write_bytes(data)
    for use in (lambda: read_records(tmp_path), lambda: write_results(tmp_path, [record("m", "rte", 0, 0.5)], "m")):
        with pytest.raises(DataError) as error:
            use()
        assert str(error.value).startswith(f"{tmp_path}/results.json: holds no records of est-eval (")
        assert "\n" not in str(error.value)
    assert (tmp_path / "results.json").read_bytes() == data


def test_the_untouched_record_is_read(tmp_path: Path) -> None:
    """The counterpart of the cases above: it is not the helper that is refused."""
    (tmp_path / "results.json").write_text(json.dumps({"records": [changed()]}))
    assert read_records(tmp_path) == [record("m", "rte", 0, 0.5)]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(tmp_path, [record("m", "rte", 0, 0.5)], "m")

    def full(name: str) -> None:
        if name.startswith("fsync .tmp-results.json"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "fault_point", full)
    with pytest.raises(StorageError, match=r"results\.json: No space left"):
        write_results(tmp_path, [record("m", "rte", 1, 0.5)], "m")
    assert read_records(tmp_path) == [record("m", "rte", 0, 0.5)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.json", "results.md"]


def test_too_many_records(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="larger than 1048576 bytes; use another run_name"):
        write_results(tmp_path, [record("m" * 200, "rte", seed, 0.5) for seed in range(2000)], "m" * 200)
