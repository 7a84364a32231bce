"""K: many steps and saves: memory, open files and threads stay as they are, and nothing temporary is left."""

from __future__ import annotations

import json

import pytest

from est_cli.storage.store import verify_folder
from tests.faults.planted import planted
from tests.faults.size import SOAK, either
from tests.lab.lab import Lab

STEPS = 20_000 if SOAK else either(2_000, 300)
SAVES = STEPS // 50
GROWTH_BYTES = 5_000_000
LOOK_EVERY = STEPS // 100


@pytest.mark.row("K")
def test_nothing_grows(lab: Lab) -> None:
    usage = lab.folder / "usage"
    settings = (
        f"train.max_steps={STEPS}", f"stage.t1={STEPS // 4}", f"stage.t2={STEPS // 2}", "train.eval_every=100",
        f"train.checkpoint_every={STEPS // SAVES}", "train.micro_batch=4", "train.eval_tokens=128",
    )  # fmt: skip
    alarm = planted("no_alarm")
    ended = lab.tiny("x", *settings, plants=[alarm, planted("write_usage", str(usage), LOOK_EVERY)])
    assert ended.code == 0, ended.err
    looks = [json.loads(line) for line in usage.read_text().splitlines()]
    settled = [look for look in looks if look[0] > 0.6 * STEPS]  # the last stage, whose tensors are the largest
    memory, files, threads = ([look[place] for look in settled] for place in (1, 2, 3))
    assert memory[-1] - memory[0] < GROWTH_BYTES, (memory[0], memory[-1])
    assert max(files) == min(files) and max(threads) == min(threads), (files, threads)
    run = lab.at("x")
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert len(kept) == 5 and f"step-{STEPS:06d}" in kept, kept
    assert [path.name for path in run.rglob(".*")] == [".lock"]
    for name in kept:
        verify_folder(run / "checkpoints" / name)
