"""E1: a checkpoint with any byte lost, changed or swapped is refused by the file's name; the one before it is taken.

The files are those of a real checkpoint: model, optimizer, state, configuration, tokenizer, manifest.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from est_cli.common.errors import CheckpointError
from est_cli.storage import content, store
from est_cli.storage.manifest import MANIFEST
from tests.faults.conftest import Tally
from tests.faults.refused import check_ended, check_line, told_as, unchanged
from tests.faults.size import either
from tests.faults.victims import Golden, copied
from tests.lab.checkpoint_models import adamw, assert_same, everything, gpt2, save, silent, tokenizer, train
from tests.lab.lab import Lab, outcome
from tests.training.test_start import SHORT

pytestmark = pytest.mark.row("E1")

NEWEST, OLDER = "step-000003", "step-000002"


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 2 and 3; every test leaves them as they were."""
    folder = tmp_path_factory.mktemp("damaged") / "checkpoints"
    model = gpt2(0)
    optimizer = adamw(model)
    for step in (2, 3):
        train(model, optimizer, range(step - 1, step))
        save(folder, step, model, optimizer, tokenizer())
    return folder


def files(series: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((series / NEWEST).iterdir())}


def test_there_are_all_the_files_of_a_checkpoint(series: Path) -> None:
    assert set(files(series)) == {
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
        *(content.WEIGHTS, content.OPTIMIZER, content.STATE, MANIFEST),
    }
    found = store.newest_valid(series, silent)
    assert found is not None and found[0].name == NEWEST


class Damage:
    """Damages one file of the newest checkpoint after the other, and mends it again."""

    def __init__(self, series: Path) -> None:
        self.series, self.whole, self.count = series, files(series), 0

    def refused(self, name: str, data: bytes) -> None:
        path = self.series / NEWEST / name
        path.write_bytes(data)
        check_line(told_as(CheckpointError, lambda: store.verify_folder(path.parent)), name)
        path.write_bytes(self.whole[name])
        self.count += 1

    def fallen_back(self, name: str, data: bytes | None) -> None:
        """As auto-resume meets it: one warning, and the checkpoint before."""
        path = self.series / NEWEST / name
        path.unlink() if data is None else path.write_bytes(data)
        warnings: list[str] = []
        found = store.newest_valid(self.series, warnings.append)
        assert found is not None and found[0].name == OLDER, name
        assert len(warnings) == 1, warnings
        check_line(warnings[0], NEWEST, name, "this checkpoint is skipped")
        path.write_bytes(self.whole[name])
        self.count += 1


@pytest.fixture
def damage(series: Path, tally: Tally) -> Damage:
    return Damage(series)


def test_truncated_at_any_point(damage: Damage, tally: Tally) -> None:
    points = either(200, 15)
    for name, data in damage.whole.items():
        for size in sorted({len(data) * at // points for at in range(points)}):
            damage.fallen_back(name, data[:size])
    tally(inputs=damage.count)
    assert damage.count >= either(1000, 80)


def test_random_bits_flipped(damage: Damage, tally: Tally) -> None:
    rng = random.Random(0)
    names = list(damage.whole)
    for _ in range(either(2000, 150)):
        name = rng.choice(names)
        data = bytearray(damage.whole[name])
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        damage.fallen_back(name, bytes(data))
    tally(inputs=damage.count)


def test_every_bit_of_a_header(damage: Damage, tally: Tally) -> None:
    """The length and the JSON header of the weights, and the whole manifest."""
    length = 8 + int.from_bytes(damage.whole[content.WEIGHTS][:8], "little")
    spans = {content.WEIGHTS: length, MANIFEST: len(damage.whole[MANIFEST])}
    for name, end in spans.items():
        for bit in range(0, 8 * end, either(1, 101)):
            data = bytearray(damage.whole[name])
            data[bit // 8] ^= 1 << bit % 8
            damage.refused(name, bytes(data))
    tally(inputs=damage.count)
    assert damage.count >= either(8 * sum(spans.values()), 300)


def test_missing_empty_longer_and_of_another_step(damage: Damage, tally: Tally) -> None:
    for name, data in damage.whole.items():
        for wrong in (None, b"", data + b"\0", b"\0" + data, b"\0" * len(data), data[1:] + data[:1], data * 2):
            damage.fallen_back(name, wrong)
        other = (damage.series / OLDER / name).read_bytes()
        if other != data and name != MANIFEST:
            damage.fallen_back(name, other)
    tally(inputs=damage.count)


def test_two_files_of_one_checkpoint_exchanged(damage: Damage, tally: Tally) -> None:
    for name in damage.whole:
        for other, data in damage.whole.items():
            if name != other:
                damage.fallen_back(name, data)
    tally(inputs=damage.count)


VERSIONS = (b"0", b"2", b"-1", b"1.0", b'"1"', b"null", b"true", b"[1]", b"{}", b"1e0", b"1" + b"0" * 400)


def test_another_version_of_the_format(damage: Damage, tally: Tally) -> None:
    whole = damage.whole[MANIFEST]
    for version in VERSIONS:
        damage.refused(MANIFEST, whole.replace(b'"format_version": 1', b'"format_version": ' + version))
    tally(inputs=damage.count)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.rename(path.parent.parent / "real")
    path.symlink_to(path.parent.parent / "real")


def _sparse(path: Path) -> None:
    os.truncate(path, 1 << 40)


INSTEAD: dict[str, Callable[[Path], None]] = {"folder": _folder, "fifo": _fifo, "link": _link, "sparse": _sparse}


@pytest.mark.parametrize("kind", INSTEAD)
def test_something_else_in_place_of_a_file(series: Path, tmp_path: Path, tally: Tally, kind: str) -> None:
    for name in files(series):
        folder = tmp_path / name
        shutil.copytree(series, folder)
        INSTEAD[kind](folder / NEWEST / name)
        warnings: list[str] = []
        found = store.newest_valid(folder, warnings.append)
        assert found is not None and found[0].name == OLDER
        (line,) = warnings
        check_line(line, NEWEST, name)
    tally(inputs=len(files(series)))


def test_what_is_refused_changes_nothing_in_memory(damage: Damage, tally: Tally) -> None:
    """Weights and moments are as they were after each load that failed."""
    model = gpt2(1)
    optimizer = adamw(model)
    train(model, optimizer, range(1))
    before, rng = everything(model, optimizer), random.Random(1)
    for _ in range(either(100, 10)):
        name = rng.choice(list(damage.whole))
        path, data = damage.series / NEWEST / name, bytearray(damage.whole[name])
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        told_as(CheckpointError, lambda: content.load_checkpoint(damage.series / NEWEST, model, optimizer, silent))
        path.write_bytes(damage.whole[name])
        assert_same(everything(model, optimizer), before)
        damage.count += 1
    tally(inputs=damage.count)


RUNS = [(name, how) for name in (content.WEIGHTS, content.OPTIMIZER, content.STATE, MANIFEST, "config.json")
        for how in ("flip", "cut", "gone")]  # fmt: skip


@pytest.mark.parametrize(("name", "how"), either(RUNS, RUNS[3:5]))
def test_a_whole_run_goes_on_from_the_one_before(
    stopped: Lab, golden: Golden, tmp_path: Path, tally: Tally, name: str, how: str
) -> None:
    """And ends with the same bytes as a run that nothing happened to."""
    lab = copied(stopped, tmp_path)
    hurt(lab.at("x") / "checkpoints/step-000005" / name, how)
    ended = lab.train("resume=outputs/x")
    assert ended.code == 0 and "resumed   after step 4" in ended.err, ended.err
    (warning,) = (line for line in ended.err.splitlines() if "is skipped" in line)
    check_line(warning, f"step-000005/{name}" if how != "gone" else name)
    assert outcome(lab.at("x")) == golden(*SHORT)
    tally(inputs=1)


@pytest.mark.parametrize("how", either(["flip", "cut", "gone"], ["flip"]))
def test_a_run_without_any_intact_checkpoint_never_starts_afresh(
    stopped: Lab, tmp_path: Path, tally: Tally, how: str
) -> None:
    lab = copied(stopped, tmp_path)
    damaged = list((lab.at("x") / "checkpoints").glob(f"*/{content.OPTIMIZER}"))
    for path in damaged:
        hurt(path, how)
    with unchanged(lab.at("x")):
        check_ended(lab.train("resume=outputs/x"), 4, f"none of its {len(damaged)} checkpoints is intact")
        check_ended(lab.tiny("x", *SHORT), 4, "is intact")
    tally(inputs=2 * len(damaged))


def hurt(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.unlink()
    if how != "gone":
        path.write_bytes(data if how == "flip" else data[: len(data) // 2])
