import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from est_cli.common.errors import DataError, StorageError
from est_cli.evaluation.outcomes import Constant
from est_cli.evaluation.results import read_records, require_room, write_results
from est_cli.storage import disk
from tests.lab.glue_files import nine, record


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


def test_a_single_class_comes_back_and_old_records_know_nothing_of_it(tmp_path: Path) -> None:
    found = replace(record("m", "rte", 0, 0.5), constant={"dev": Constant("entailment", 0.5)})
    write_results(tmp_path, [found], "m")
    assert read_records(tmp_path) == [found]
    assert "constant.dev" in (tmp_path / "results.csv").read_text()
    path = tmp_path / "results.json"
    content = json.loads(path.read_bytes())
    del content["records"][0]["constant"]
    path.write_text(json.dumps(content))
    assert read_records(tmp_path)[0].constant is None


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


def test_nine_tasks_two_checkpoints_and_many_seeds_of_several_settings_fit(tmp_path: Path) -> None:
    """More than the megabyte that other files of JSON may have."""
    for settings in "abcde":
        records = [
            replace(one, settings_digest=settings * 64, data_digest="d" * 64)
            for name in "mb"
            for one in nine(name * 60, range(20))
        ]
        write_results(tmp_path, records, "m" * 60, "b" * 60)
    assert len(read_records(tmp_path)) == 5 * 360 and (tmp_path / "results.json").stat().st_size > 1 << 20
    require_room(tmp_path, 360, 3.0)


def test_what_would_not_fit_is_refused_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = [{"epoch": 1.0, "loss": 1 / 3, "score": 1 / 3, "scores": {"dev_matched": {"accuracy": 1 / 3}}}] * 12
    records = [replace(one, epochs=longest) for one in nine("m" * 200, range(3))]
    write_results(tmp_path, records, "m" * 200)
    size = (tmp_path / "results.json").stat().st_size
    monkeypatch.setattr("est_cli.evaluation.results.MAX_BYTES", size + 10 * (2000 + 12 * 500))
    require_room(tmp_path, 10, 11.5)
    told = "11 more fine-tunings of 11.5 epochs could make it larger than .* bytes; use another run_name, or fewer"
    with pytest.raises(StorageError, match=told):
        require_room(tmp_path, 11, 11.5)
    more = [replace(one, epochs=longest, seed=one.seed + 10) for one in records[:10]]
    write_results(tmp_path, more, "m" * 200)
    assert len(read_records(tmp_path)) == 37, "what there is room for is written"
    monkeypatch.setattr("est_cli.evaluation.results.MAX_BYTES", (tmp_path / "results.json").stat().st_size)
    with pytest.raises(StorageError, match=r"larger than .* bytes; use another run_name for further evaluations"):
        write_results(tmp_path, [replace(more[0], seed=99)], "m" * 200)


def test_a_thousand_epochs_are_refused_by_the_evaluation_itself(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="400 more fine-tunings of 1000 epochs"):
        require_room(tmp_path, 400, 1000)
