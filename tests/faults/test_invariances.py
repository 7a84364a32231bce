"""B2 and B3: what must not change the training, to the last bit; and what may change it by rounding only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.faults.planted import planted
from tests.faults.size import either, only_full
from tests.faults.victims import Golden, finished
from tests.lab.lab import Lab, Plant, losses, sha256_of, train_records

LAST = 30
SAME: dict[str, tuple[str, ...]] = {
    **{f"evaluated every {steps}": (f"train.eval_every={steps}",) for steps in (0, 1, 5)},
    **{f"saved every {steps}": (f"train.checkpoint_every={steps}",) for steps in (1, 7, 0)},
    **{f"{workers} tokenizing processes": (f"dataset.num_workers={workers}",) for workers in (2, 3)},
    **{f"checkpoints beside it: {word}": (f"train.async_checkpoints={word}",) for word in ("true", "false")},
    **{f"keeps {name}": (f"train.keep_{name}",) for name in ("last=20", "every=1")},
    "W&B offline": ("tracking.wandb=offline",),
    "samples": ("train.sample_every=7", "train.sample_tokens=4"),
    "profiled": ("train.profile_step=3", "train.profile_steps=2"),
    "few evaluation tokens": ("train.eval_tokens=64",),
    "all at once": ("train.eval_every=1", "train.checkpoint_every=1", "train.sample_every=3", "train.keep_last=9"),
    "nothing at all": ("train.eval_every=0", "train.checkpoint_every=0", "train.log_every=1"),
}


@pytest.mark.row("B2")
@pytest.mark.parametrize("what", either(list(SAME), ["all at once"]))
def test_not_one_bit_of_the_training_changes(lab: Lab, shared: Lab, golden: Golden, what: str) -> None:
    golden()
    finished(lab, "x", *SAME[what])
    assert losses(lab.at("x")) == losses(shared.at("golden-0"))
    assert sha256_of(lab.at("x"), LAST) == sha256_of(shared.at("golden-0"), LAST)


@pytest.mark.row("B2")
@only_full
@pytest.mark.parametrize("debug", ["0", "1"])
def test_nor_does_what_the_user_is_told(lab: Lab, shared: Lab, golden: Golden, debug: str) -> None:
    golden()
    pid = lab.start(*lab.arguments("run_name=x", "train.log_every=5"), environment={"EST_DEBUG": debug})
    assert lab.ended(pid).code == 0
    every = {record["step"]: record["loss"] for record in train_records(shared.at("golden-0"))}
    told = {record["step"]: record["loss"] for record in train_records(lab.at("x"))}
    assert told.items() <= every.items() and set(told) >= {5, 10, 15, 20, 25, 30}
    assert sha256_of(lab.at("x"), LAST) == sha256_of(shared.at("golden-0"), LAST)


THREE = ("train.max_steps=3", "stage.t1=1", "stage.t2=2", "train.tokens_per_step=256", "optim.grad_clip=0")
"""8 sequences a step, one step in each stage."""
CUTS = {"8 x 1": (8, 1), "2 x 4": (2, 1), "1 x 8": (1, 1), "2 x 2 on 2 ranks": (2, 2), "3 + 3 + 2": (3, 1)}
"""Sequences of a micro-batch, and processes."""


def gradients(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(folder / f"{step}.safetensors") for step in range(3)]


def cut(lab: Lab, name: str, size: int, processes: int, plants: list[Plant]) -> list[float]:
    """Train three steps, their gradients written to the folder `name`; the learning rates."""
    settings, folder = (*THREE, f"train.micro_batch={size}"), str(lab.folder / name)
    every: list[Plant] = [*plants, planted("write_gradients", folder)]
    if processes == 1:
        finished(lab, name, *settings, plants=every)
    else:
        ended = lab.tiny_ranks(processes, name, *settings, plants=dict.fromkeys(range(processes), every))
        assert [rank.code for rank in ended] == [0] * processes, ended[0].err
    return [record["lr"] for record in train_records(lab.at(name))]


@pytest.mark.row("B3")
@pytest.mark.parametrize(("precision", "rel"), either([("fp64", 1e-12), ("fp32", 1e-5)], [("fp64", 1e-12)]))
def test_a_step_may_be_cut_in_any_way(lab: Lab, precision: str, rel: float) -> None:
    """Gradients by the largest entry of their tensor; the first step's weights are the same, later ones follow."""
    plants: list[Plant] = [("double",)] if precision == "fp64" else []
    rates = cut(lab, "whole", 8, 1, plants)
    whole = gradients(lab.folder / "whole")
    for name, (size, processes) in either(CUTS, {"3 + 3 + 2": CUTS["3 + 3 + 2"]}).items():
        assert cut(lab, f"x-{size}-{processes}", size, processes, plants) == rates
        for step, found in enumerate(gradients(lab.folder / f"x-{size}-{processes}")):
            assert found.keys() == whole[step].keys()
            for key, gradient in found.items():
                largest = float(whole[step][key].abs().max())
                assert float((gradient - whole[step][key]).abs().max()) <= rel * largest, (name, step, key)
