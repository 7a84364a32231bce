"""Processes that write their shares of checkpoints: the same training, whatever is killed or refused on the way."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from est_cli.storage.consolidate import consolidate
from est_cli.storage.store import newest_valid, step_folders, verify_folder
from tests.distributed.test_training import LLAMA, SHORT
from tests.lab.lab import Lab

STEPS = ("train.max_steps=8", "stage.t1=2", "stage.t2=5", "train.checkpoint_every=3", "train.eval_every=0")
FSDP = (*SHORT, *STEPS, "train.micro_batch=2", "launch.strategy=fsdp")
SHARES = "launch.sharded_checkpoints"
SHARDED = (*FSDP, f"{SHARES}=true")
WRITE = "est_cli.storage.together.write_shares"
TENSORS = ("model.safetensors", "optim.safetensors")


def assert_same_checkpoints(lab: Lab, name: str, whole: str) -> None:
    """Those of `name`, in shares, are those of `whole` to the last bit."""
    found, expected = (step_folders(lab.at(each) / "checkpoints") for each in (name, whole))
    assert [step for step, _ in found] == [step for step, _ in expected]
    for (step, path), (_, plain) in zip(found, expected, strict=True):
        consolidate(path, lab.folder / f"{name}-{step}")
        for file in TENSORS:
            assert (lab.folder / f"{name}-{step}" / file).read_bytes() == (plain / file).read_bytes()


def shares_in(run: Path) -> int:
    """In the newest checkpoint."""
    names = verify_folder(step_folders(run / "checkpoints")[-1][1])["files"]
    assert "model.safetensors" not in names
    return len([name for name in names if name.startswith("weights-")])


@pytest.mark.parametrize(
    "options", [(), pytest.param((*LLAMA, "train.async_checkpoints=true"), marks=pytest.mark.long)]
)
def test_a_killed_run_goes_on_from_shares_bit_for_bit(lab: Lab, options: tuple[str, ...]) -> None:
    """One process is killed when both have written their second checkpoint, which is not yet one."""
    whole = lab.tiny_ranks(2, "whole", *FSDP, *options)
    killed = lab.tiny_ranks(2, "x", *SHARDED, *options, plants={1: [("at", WRITE, 2, "after", "SIGKILL")]})
    again = lab.tiny_ranks(2, "x", *SHARDED, *options)
    assert [rank.code for rank in (*whole, *killed, *again)] == [0, 0, 7, -signal.SIGKILL, 0, 0], again[0].err
    assert_same_checkpoints(lab, "x", "whole")
    assert (lab.at("x") / "model" / "model.safetensors").exists()
    newest = step_folders(lab.at("x") / "checkpoints")[-1][1]
    text = (f"eval.files=[{lab.corpus}]", "task=perplexity")
    forked = lab.train(f"fork={lab.at('x')}@5", "run_name=forked", "launch.strategy=ddp", f"{SHARES}=false")
    assert forked.code == 0, forked.err
    evaluated = lab.tool("eval", f"checkpoint={newest}", *text, plants=[])
    assert evaluated.code == 0, evaluated.err


def test_what_one_process_cannot_write_all_know(lab: Lab) -> None:
    """The second save is refused by the records, the third and the fourth by the disk of the other process."""
    refused = ("disk_full", "write weights-00002-of-00002.safetensors", 2, 1)
    ended = lab.tiny_ranks(2, "x", *SHARDED, plants={0: [("records_not_synced", 3)], 1: [refused]})
    assert [rank.code for rank in ended] == [6, 6], ended[1].err
    warnings = [line for line in ended[0].err.splitlines() if "warning: no checkpoint at step" in line]
    assert [line.partition("step ")[2][:1] for line in warnings] == ["3", "5"] and "No space left" in warnings[1]
    assert "weights-00002" in ended[0].last_words[0] and "weights-00002" in ended[1].last_words[0]
    assert newest_valid(lab.at("x") / "checkpoints", pytest.fail) is not None
    assert [step for step, _ in step_folders(lab.at("x") / "checkpoints")] == [2]
    assert not list(lab.at("x").rglob(".tmp-*"))
