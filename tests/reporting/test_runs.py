import json
from pathlib import Path

import numpy as np
import pytest

from est_cli.common.errors import CheckpointError, ConfigError, StorageError
from est_cli.reporting.runs import Axis, find_runs, read_run
from tests.lab.made_runs import make_run


def test_runs_are_found_in_runs_sweeps_and_outputs(tmp_path: Path) -> None:
    single = make_run(tmp_path / "outputs" / "single")
    jobs = [make_run(tmp_path / "outputs" / "sweep" / f"seed={seed}") for seed in (10, 2)]
    (tmp_path / "outputs" / "reports" / "old").mkdir(parents=True)
    (jobs[0] / "checkpoints" / "step-000001").mkdir(parents=True)
    make_run(tmp_path / "outputs" / ".trash" / "hidden")
    assert find_runs([single]) == [single]
    assert find_runs([tmp_path / "outputs" / "sweep"]) == [jobs[1], jobs[0]]
    assert find_runs([tmp_path / "outputs"]) == [single, jobs[1], jobs[0]]
    assert find_runs([jobs[0], tmp_path / "outputs" / "sweep", jobs[0] / ".." / "seed=10"]) == [jobs[0], jobs[1]]


def test_a_folder_without_runs_is_named(tmp_path: Path) -> None:
    single = make_run(tmp_path / "single")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: holds no run .* and no sweep"):
        find_runs([single, tmp_path / "empty"])


@pytest.mark.parametrize("log_every", [1, 5])
def test_positions_by_hand(tmp_path: Path, log_every: int) -> None:
    """Half of the steps at 40 FLOPs, a quarter of a dense step and half a second each."""
    run = read_run(make_run(tmp_path / "run", log_every=log_every, summary={"flops_blocks": 62.5 * 80}))
    steps = np.array([10, 50, 60, 100])
    expected = {
        Axis.steps: [10, 50, 60, 100],
        Axis.tokens: [40960, 204800, 245760, 409600],
        Axis.flops_total: [400, 2000, 3000, 7000],
        Axis.dense_steps: [2.5, 12.5, 22.5, 62.5],
        Axis.flops_blocks: [200, 1000, 1800, 5000],
        Axis.seconds: [5, 25, 35, 75],
    }
    for axis, values in expected.items():
        assert run.position(axis, steps) == pytest.approx(values), axis
        assert run.end(axis) == pytest.approx(values[-1])
    assert np.isnan(run.position(Axis.seconds, np.array([101]))).all(), "nobody knows yet"
    assert run.transitions == [51]


def test_the_blocks_flops_come_from_a_checkpoint_where_the_summary_has_none(tmp_path: Path) -> None:
    state = {"step": 60, "flops_blocks": 22.5 * 80, "data_hash": "d"}
    run = read_run(make_run(tmp_path / "run", state=state))
    assert run.end(Axis.flops_blocks) == pytest.approx(5000)
    assert run.recorded("data_hash") == "d" and run.recorded("git_commit") == "a" * 40
    (tmp_path / "run" / "checkpoints" / "step-000090").mkdir()  # a checkpoint that lost its state
    assert read_run(tmp_path / "run").recorded("data_hash") == "d"
    without = read_run(make_run(tmp_path / "without"))
    assert np.isnan(without.end(Axis.flops_blocks)) and without.end(Axis.dense_steps) == pytest.approx(62.5)
    assert without.recorded("data_hash") is None


def test_of_repeated_steps_the_last_counts(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    slow = [json.dumps(json.loads(line) | {"step_s": 1000.0}) + "\n" for line in lines if '"loss"' in line][:10]
    (folder / "metrics.jsonl").write_text("".join([*slow, *lines]))
    assert read_run(folder).end(Axis.seconds) == pytest.approx(75)


def test_an_unfinished_run(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", done=30))
    assert (run.finished, run.steps, run.planned_steps, run.final_loss) == (False, 30, 100, None)
    assert run.end(Axis.seconds) == pytest.approx(15)


def test_a_run_that_has_recorded_nothing(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", done=0)
    (folder / "metrics.jsonl").unlink()
    run = read_run(folder)
    assert (run.steps, run.train, run.validation) == (0, [], [])
    assert np.isnan(run.end(Axis.flops_total)) and run.end(Axis.steps) == 0


def test_a_run_without_training_records(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(line for line in lines if "val_loss" in line))
    run = read_run(folder)
    assert np.isnan(run.position(Axis.seconds, np.array([10, 20]))).all() and run.end(Axis.tokens) == 409600


def test_damaged_files_are_named(tmp_path: Path) -> None:
    def damaged(name: str, old: str, new: str) -> Path:
        folder = make_run(tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}")
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))
        return folder

    with pytest.raises(StorageError, match=r"metrics\.jsonl: line 3 is damaged"):
        read_run(damaged("metrics.jsonl", '{"step": 3,', '{"st'))
    with pytest.raises(StorageError, match=r"metrics\.jsonl: the record of step 1 has no number as `step_s`"):
        read_run(damaged("metrics.jsonl", '"step_s": 0.5,', ""))
    with pytest.raises(StorageError, match=r"metrics\.jsonl: the record of step 1 has no number as `loss`"):
        read_run(damaged("metrics.jsonl", '"loss": 10.49', '"loss": "low"'))
    with pytest.raises(StorageError, match=r"summary\.json: cannot be read"):
        read_run(damaged("summary.json", "{", ""))
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        read_run(damaged("config.yaml", "seed: 0", "seed: many"))
