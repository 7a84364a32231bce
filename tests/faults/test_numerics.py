"""H: losses and gradients that are not finite: nothing of them reaches a weight or a checkpoint, on any rank."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from est_cli.storage.manifest import MANIFEST, render
from est_cli.storage.store import newest_valid, step_folders, verify_folder
from est_cli.tracking import read_metrics
from tests.distributed.test_training import SHORT
from tests.faults.conftest import Tally
from tests.faults.planted import planted
from tests.faults.size import either, only_full
from tests.faults.victims import finished
from tests.lab.lab import STEPS, T1, Lab, Plant, losses, sha256_of, tree_hash
from tests.storage.test_damage import entry

pytestmark = pytest.mark.row("H")

EACH = ("train.checkpoint_every=1", "train.keep_every=1", "train.eval_every=0")
"""A checkpoint after every step."""


def rejected(run: Path) -> list[int]:
    return [record["step"] for record in read_metrics(run / "metrics.jsonl") if record.get("event") == "not_finite"]


def test_twenty_overflows(lab: Lab, tally: Tally) -> None:
    """Two steps in three, for the whole run: each leaves the weights and the moments as they were."""
    bad = [step for step in range(1, STEPS + 1) if step % 3]
    finished(lab, "x", *EACH, plants=[("not_finite", [2 * step for step in bad])])
    assert rejected(lab.at("x")) == bad and len(bad) == 20
    assert [step for step, loss in enumerate(losses(lab.at("x")), 1) if loss is None] == bad
    for step in range(2, STEPS + 1):
        now, before = sha256_of(lab.at("x"), step), sha256_of(lab.at("x"), step - 1)
        assert (now["model.safetensors"] == before["model.safetensors"]) == (step in bad), step
        if step > T1 + 2:  # until all layers have run, each step may give some their first moments, zeros
            assert (now == before) == (step in bad), step
    tally(inputs=20)


@only_full
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("rank", [0, 1])
def test_an_infinite_gradient_on_one_rank_is_left_out_by_all(lab: Lab, tally: Tally, rank: int, strategy: str) -> None:
    plant = planted("infinite_gradient", 9)
    if strategy == "fsdp":
        plant = ("not_finite", [20])  # a shard has no gradient of its own to spoil
    settings = (*SHORT, *EACH, "train.micro_batch=2", f"launch.strategy={strategy}")
    ended = lab.tiny_ranks(2, "x", *settings, plants={rank: [plant]})
    assert [each.code for each in ended] == [0, 0], ended[0].err
    assert rejected(lab.at("x")) == [10], "and the ranks agree on the weights after each step (launch.check_every=1)"
    assert sha256_of(lab.at("x"), 10) == sha256_of(lab.at("x"), 9) != sha256_of(lab.at("x"), 11)
    tally(inputs=1)


def test_a_spike_is_clipped_and_trained_on(lab: Lab, tally: Tally) -> None:
    finished(lab, "x", plants=[planted("spike", 11, 100.0)])
    finished(lab, "plain")
    spiked, plain = losses(lab.at("x")), losses(lab.at("plain"))
    assert spiked[:11] == plain[:11] and spiked[11] == pytest.approx(100 * plain[11]) and rejected(lab.at("x")) == []
    assert spiked[-1] == pytest.approx(plain[-1], rel=0.05)
    tally(inputs=1)


@pytest.mark.parametrize("ahead", either([False, True], [True]))
def test_a_bad_sample_is_named_and_stops_the_run(lab: Lab, tally: Tally, ahead: bool) -> None:
    """Three steps in a row; the checkpoints from before stay as they are, and the run can go on."""
    plants: list[Plant] = [("device_works_on_its_own",)] if ahead else []
    ended = lab.tiny("x", plants=[*plants, ("not_finite", [25, 27, 29])])
    assert ended.code == 5 and len(ended.last_words) == 1 and "Traceback" not in ended.err
    assert "for 3 steps in a row, last at step 15 (samples 56 to 59); lower optim.lr" in ended.last_words[0]
    assert max(step for step, _ in step_folders(lab.at("x") / "checkpoints")) == 10
    finished(lab, "x")
    tally(inputs=1)


@only_full
def test_bad_steps_are_counted_on_after_a_stop(lab: Lab, tally: Tally) -> None:
    """Two of the three before it, and the third in the process that goes on."""
    stop: Plant = ("at_step", "est_cli.training.train.train_step", 13, "after", "SIGTERM")
    assert lab.tiny("x", plants=[("not_finite", [25, 27]), stop]).code == 143
    ended = lab.tiny("x", plants=[("not_finite", [1])])
    assert ended.code == 5 and "for 3 steps in a row, last at step 15 " in ended.last_words[0], ended.err
    finished(lab, "x")
    tally(inputs=3)


def spoil(checkpoint: Path, name: str) -> None:
    """A NaN in one of the files, under a manifest that agrees with it."""
    tensors = load_file(checkpoint / name)
    key = next(key for key, tensor in tensors.items() if tensor.ndim == 2)
    tensors[key][0, 0] = torch.nan
    save_file(tensors, checkpoint / name, metadata={"format": "pt"})
    found = json.loads((checkpoint / MANIFEST).read_text())
    files = found["files"] | {name: entry((checkpoint / name).read_bytes())}
    (checkpoint / MANIFEST).write_bytes(render(files, found["meta"]))
    verify_folder(checkpoint)


@pytest.mark.parametrize("name", either(["model.safetensors", "optim.safetensors"], ["model.safetensors"]))
def test_values_that_are_not_finite_in_a_checkpoint(lab: Lab, tally: Tally, name: str) -> None:
    """Nothing is trained from them and nothing is written over what is there."""
    assert lab.tiny("x", plants=[("at_step", "est_cli.training.train.train_step", 12, "before", "SIGKILL")]).code == -9
    found = newest_valid(lab.at("x") / "checkpoints", pytest.fail)
    assert found is not None
    spoil(found[0], name)
    before = tree_hash(lab.at("x") / "checkpoints")
    ended = lab.tiny("x")
    assert ended.code in (4, 5) and len(ended.last_words) == 1 and "Traceback" not in ended.err, ended.err
    assert tree_hash(lab.at("x") / "checkpoints") == before
    tally(inputs=1)
