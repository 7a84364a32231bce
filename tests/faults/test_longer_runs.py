"""A8: killed wherever a run is made longer or begins from another's checkpoint: it is always one run or the other.

Without training: the folders alone, at every change of the disk. What is trained after such kills is compared in
tests/training/test_extend.py and test_branch.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from est_cli.config import RunConfig
from est_cli.config.setting import Given
from est_cli.config.stored import stored_config
from est_cli.storage.run_dir import RunDir
from est_cli.storage.store import clean_leftovers, newest_valid, step_folders
from est_cli.tracking import read_metrics
from est_cli.training.extend import set_back
from est_cli.training.fork import FORKED, begin_from_origin
from est_cli.training.start import resolve_resume
from tests.faults.conftest import Tally
from tests.faults.size import either
from tests.lab.commands import composed
from tests.lab.folders import killed_at
from tests.lab.lab import Lab

pytestmark = pytest.mark.row("A8")

LONGER, DECAY = 45, 24


@pytest.fixture(scope="module")
def finished(shared: Lab) -> Path:
    assert shared.tiny("a", "train.log_layers_every=7").code == 0
    (shared.at("a") / "plots").mkdir(exist_ok=True)
    return shared.at("a")


def settings(*arguments: str) -> RunConfig:
    """What est-train would be given to do."""
    config, given = composed(*arguments, "tracking.wandb=off")
    return resolve_resume(config, Given(given)).config


def each_point(work: Callable[[Path], object], make: Callable[[Path], object], folder: Path) -> list[Path]:
    """For every point at which `work(folder)` changes the disk, or of some of them: the folder that a kill there left.

    `make(folder)` makes what `work` begins with.
    """
    left, point = [], 1
    while True:
        place = folder / str(point)
        make(place)
        if not killed_at(point, lambda place=place: work(place)):  # type: ignore[misc]
            return left
        left.append(place)
        point += either(full=1, short=5)


def test_a_run_that_is_made_longer(finished: Path, tmp_path: Path, tally: Tally) -> None:
    def work(run: Path) -> None:
        set_back(RunDir(run), settings(f"resume={run}", f"train.max_steps={LONGER}"))

    left = each_point(work, lambda run: shutil.copytree(finished, run), tmp_path)
    assert len(left) > 4
    for run in left:
        steps = stored_config(run).train.max_steps
        clean_leftovers(run)
        clean_leftovers(run / "checkpoints")
        found = newest_valid(run / "checkpoints", pytest.fail)
        assert found is not None and int(found[0].name[5:]) >= DECAY
        if steps == LONGER:
            assert found[0].name == f"step-{DECAY:06d}" and not (run / "summary.json").exists()
        else:
            assert steps == 30
            work(run)
        assert stored_config(run).train.max_steps == LONGER
        assert [step for step, _ in step_folders(run / "checkpoints")][-1] == DECAY
        aside = {path.name for path in (run / "ended-000030").iterdir()}
        assert aside == {"summary.json", "model", "plots"}
    tally(kills=len(left))


def test_a_run_that_begins_from_another(finished: Path, tmp_path: Path, tally: Tally) -> None:
    config = settings(f"fork={finished}@{DECAY}", "run_name=b")

    def work(run: Path) -> None:
        if not step_folders(run / "checkpoints"):  # as owned_folder() asks
            begin_from_origin(RunDir(run), config)

    left = each_point(work, lambda run: run.mkdir(), tmp_path)
    assert len(left) > 2
    for run in left:
        clean_leftovers(run)
        clean_leftovers(run / "checkpoints")
        work(run)
        found = newest_valid(run / "checkpoints", pytest.fail)
        assert found is not None and found[0].name == f"step-{DECAY:06d}"
        assert (run / FORKED).exists() and read_metrics(run / "metrics.jsonl")[-1]["step"] == DECAY
        assert read_metrics(run / "layers.jsonl")[-1]["step"] == 21
    tally(kills=len(left))
