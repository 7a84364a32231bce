"""Several gloo processes train what one process trains: the same samples, subnetworks and losses, in every stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from est_cli.tracking import read_metrics
from tests.lab.lab import Lab, Plant, sha256_of, train_records

SHORT = ("train.max_steps=20", "stage.t1=6", "stage.t2=13", "train.tokens_per_step=256", "launch.check_every=1")
"""8 sequences a step, 20 steps in stages of 6, 7 and 7."""
STEPS, T1, T2 = 9, 3, 6
FEW = (*SHORT, f"train.max_steps={STEPS}", f"stage.t1={T1}", f"stage.t2={T2}", "train.checkpoint_every=0")
"""Where each of its steps counts: three in each stage, with a checkpoint at its end; an evaluation every 4."""

LLAMA = ("model=llama_tiny", "model.num_kv_heads=2", "model.mlp_size=88")
DOCUMENTS = ("dataset.packing=document",)
DOUBLE: tuple[Plant, ...] = (("double",),)
EXACT = ("optim.grad_clip=0",)
"""In double precision: torch's optimizer kernel takes the divisor of a clipped gradient in single precision only."""


def watched(count: int) -> dict[int, tuple[Plant, ...]]:
    return dict.fromkeys(range(count), (*DOUBLE, ("record_inputs", "inputs")))


def inputs(folder: Path, count: int) -> list[tuple[list[int], list[list[int]]]]:
    """For each step its samples over all ranks, sorted, and what each rank ran."""
    ranks = []
    for rank in range(count):
        path = folder / f"inputs-{rank}.jsonl"
        ranks.append([json.loads(line) for line in path.read_text().splitlines()])
        path.unlink()
    steps = []
    for lines in zip(*ranks, strict=True):
        assert len({step for step, _, _ in lines}) == 1
        steps.append(
            (sorted(sample for _, samples, _ in lines for sample in samples), [drawn for _, _, drawn in lines])
        )
    return steps


def values(run: Path, key: str) -> list[float]:
    return [record[key] for record in read_metrics(run / "metrics.jsonl") if record.get(key) is not None]


def assert_same_training(one: Path, several: Path, rel: float) -> None:
    for key in ("loss", "val_loss", "grad_norm", "loss_before", "loss_after"):
        assert values(several, key) == pytest.approx(values(one, key), rel=rel), key
    for key in ("draw_spread", "draw_range"):  # small differences of large numbers
        assert values(several, key) == pytest.approx(values(one, key), abs=10 * rel), key
    for key in ("step", "stage", "lr", "flops", "flops_dense", "p_h", "p_l"):
        assert values(several, key) == values(one, key), key


@dataclass(frozen=True)
class Alone:
    """A run in one process, and what each of its steps was given."""

    run: Path
    inputs: list[tuple[list[int], list[list[int]]]]


@pytest.fixture(scope="module")
def alone(shared: Lab) -> Callable[..., Alone]:
    """alone(*settings): the run with these settings in double precision, made once for all that compare with it."""

    @cache
    def run(*settings: str) -> Alone:
        name = f"alone-{run.cache_info().currsize}"
        ended = shared.tiny(name, *settings, plants=watched(1)[0])
        assert ended.code == 0, ended.err
        return Alone(shared.at(name), inputs(shared.folder, 1))

    return run


CASES = {
    "2 ddp gpt2": (2, "ddp", (), 2, "step"),
    "4 ddp gpt2 forward": (4, "ddp", (), 1, "forward"),
    "2 ddp llama forward": (2, "ddp", LLAMA, 1, "forward"),
    "4 ddp llama": (4, "ddp", LLAMA, 1, "step"),
    "2 fsdp gpt2": (2, "fsdp", (), 2, "step"),
    "4 fsdp gpt2 forward": (4, "fsdp", (), 1, "forward"),
    "2 fsdp llama forward": (2, "fsdp", LLAMA, 1, "forward"),
    "4 fsdp llama": (4, "fsdp launch.shard_size=2", LLAMA, 1, "step"),
    "2 ddp documents forward": (2, "ddp", DOCUMENTS, 1, "forward"),
    "2 fsdp documents": (2, "fsdp", DOCUMENTS, 2, "step"),
    "2 ddp gpt2 uneven": (2, "ddp", (), 3, "step"),
    "2 fsdp gpt2 uneven": (2, "fsdp launch.reshard_after_forward=false", (), 3, "forward"),
}
"""Processes, strategy, model, micro-batch of each process, redraw; with 8 sequences a step all accumulate."""


LONG = ("4 ddp gpt2 forward", "2 ddp llama forward", "4 fsdp gpt2 forward", "2 fsdp documents", "2 ddp gpt2 uneven")
"""Each pairs what others have one by one."""


@pytest.mark.some(2)
@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.long] * (case in LONG)) for case in CASES])
def test_several_processes_train_what_one_trains(lab: Lab, alone: Callable[..., Alone], case: str) -> None:
    count, strategy, model, size, redraw = CASES[case]
    settings = (*FEW, *EXACT, *model, f"sampling.redraw={redraw}")
    one = alone(*settings, f"train.micro_batch={count * size}")
    settings = (*settings, f"train.micro_batch={size}", *f"launch.strategy={strategy}".split())
    ended = lab.tiny_ranks(count, "several", *settings, plants=watched(count))
    assert [rank.code for rank in ended] == [0] * count, ended[0].err + ended[-1].err
    assert_same_training(one.run, lab.at("several"), rel=1e-10)
    together = inputs(lab.folder, count)
    assert [samples for samples, _ in together] == [samples for samples, _ in one.inputs]
    assert [drawn for _, drawn in together] == [drawn * count for _, drawn in one.inputs]
    assert all(rank.out == "" and rank.last_words == [] for rank in ended[1:])


@pytest.mark.some(1)
@pytest.mark.parametrize(
    ("model", "strategy"),
    [
        pytest.param((), "ddp", id="gpt2-ddp"),
        pytest.param(LLAMA, "fsdp", id="llama-fsdp"),
        pytest.param((), "fsdp", id="gpt2-fsdp", marks=pytest.mark.long),
        pytest.param(LLAMA, "ddp", id="llama-ddp", marks=pytest.mark.long),
    ],
)
def test_in_single_precision_the_losses_agree_to_rounding(lab: Lab, model: Any, strategy: str) -> None:
    assert lab.tiny("one", *FEW, *model).code == 0
    ended = lab.tiny_ranks(2, "two", *FEW, *model, f"launch.strategy={strategy}")
    assert [rank.code for rank in ended] == [0, 0], ended[0].err
    assert_same_training(lab.at("one"), lab.at("two"), rel=1e-5)
    model_of = {name: AutoModelForCausalLM.from_pretrained(lab.at(name) / "model") for name in ("one", "two")}
    tokens = torch.arange(32).view(1, 32)
    with torch.no_grad():
        torch.testing.assert_close(model_of["two"](tokens).logits, model_of["one"](tokens).logits, rtol=1e-3, atol=1e-4)


def test_each_process_may_draw_its_own(lab: Lab) -> None:
    """The gradient is then that of the sum of the processes' losses: checked against one process that runs them all."""
    settings = (*FEW, *EXACT, "sampling.ranks=independent", "train.micro_batch=4")
    ended = lab.tiny_ranks(2, "own", *settings, plants=watched(2))
    assert [rank.code for rank in ended] == [0, 0], ended[0].err
    drawn = [each for _, each in inputs(lab.folder, 2)]
    assert all(first != second for first, second in drawn[:T2]) and all(first == second for first, second in drawn[T2:])
    one = lab.tiny("one", *settings, plants=[*DOUBLE, ("micro_batches_as_ranks",)])
    assert one.code == 0, one.err
    assert_same_training(lab.at("one"), lab.at("own"), rel=1e-10)


@pytest.mark.some(1)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_sequences_leave_out_layers_of_their_own_in_every_process(lab: Lab, strategy: str) -> None:
    """All micro-batches of a step have one plan of layers, whoever runs them: two processes do what one does."""
    settings = (*FEW, *EXACT, "sampling.layers_by=sequence", "train.micro_batch=2")
    one = lab.tiny("one", *settings, plants=DOUBLE)
    assert one.code == 0, one.err
    ended = lab.tiny_ranks(2, "two", *settings, f"launch.strategy={strategy}", plants=dict.fromkeys((0, 1), DOUBLE))
    assert [rank.code for rank in ended] == [0, 0], ended[0].err
    assert_same_training(lab.at("one"), lab.at("two"), rel=1e-10)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_only_a_replica_is_whole_on_its_device(lab: Lab, strategy: str) -> None:
    settings = ("train.max_steps=1", "stage.t1=0", "stage.t2=0", f"launch.strategy={strategy}")
    plants = dict.fromkeys((0, 1), (("never_whole_on_the_device",),))
    ended = lab.tiny_ranks(2, "x", *settings, plants=plants)
    assert [rank.code == 0 for rank in ended] == [strategy == "fsdp"] * 2, ended[0].err


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_killed_run_of_two_continues_bit_for_bit(lab: Lab, strategy: str) -> None:
    settings = (*FEW, f"launch.strategy={strategy}", "train.micro_batch=2")
    assert [rank.code for rank in lab.tiny_ranks(2, "whole", *settings)] == [0, 0]
    kill = dict.fromkeys((0, 1), (("at_step", "est_cli.training.train.train_step", T2 + 2, "before", "SIGKILL"),))
    assert [rank.code for rank in lab.tiny_ranks(2, "killed", *settings, plants=kill)] == [-9, -9]
    assert [rank.code for rank in lab.tiny_ranks(2, "killed", *settings)] == [0, 0]
    assert train_records(lab.at("killed"))[-1]["loss"] == train_records(lab.at("whole"))[-1]["loss"]
    assert sha256_of(lab.at("killed"), STEPS) == sha256_of(lab.at("whole"), STEPS)


OPTIONS = ("train.activation_checkpointing=true", "train.lm_loss=whole", "train.async_checkpoints=true")
OPTIONS = (*OPTIONS, "train.sample_every=5", "train.sample_tokens=4", "sampling.layer_scale=inverse")
NARROW = {
    ("ddp", "bf16"): ("launch.reduce_dtype=bf16",),
    ("fsdp", "bf16"): ("launch.gather_dtype=bf16", "launch.reduce_dtype=bf16"),
}
"""What may be sent in bf16 where the passes compute in it."""


@pytest.mark.some(1)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_with_every_option_on(lab: Lab, strategy: str, precision: str) -> None:
    """bf16 agrees to its own rounding: sums of other parts of a batch are other sums."""
    settings = (*FEW, *LLAMA, *OPTIONS, f"train.precision={precision}", "train.micro_batch=2")
    one = lab.tiny("one", *settings)
    sent = NARROW.get((strategy, precision), ())
    ended = lab.tiny_ranks(2, "two", *settings, f"launch.strategy={strategy}", *sent)
    assert [one.code, *(rank.code for rank in ended)] == [0, 0, 0], ended[0].err
    assert_same_training(lab.at("one"), lab.at("two"), rel=1e-5 if precision == "fp32" else 2e-2)
    samples = [[line for line in each.err.splitlines() if line.startswith("sample")] for each in (one, ended[0])]
    assert len(samples[1]) == 2 and (samples[0] == samples[1] or precision == "bf16")


WIDTH, LAYERS, VOCAB, POSITIONS = 32, 4, 300, 32


def layer_entries(share: float) -> int:
    """Of the gradients of a GPT-2 layer: projections and inner biases by their `share`, all else whole."""
    attention = share * (3 * WIDTH * WIDTH + 3 * WIDTH + WIDTH * WIDTH) + WIDTH
    mlp = share * (4 * WIDTH * WIDTH + 4 * WIDTH + 4 * WIDTH * WIDTH) + WIDTH
    return round(attention + mlp + 4 * WIDTH)


def test_only_gradients_that_exist_are_sent(lab: Lab) -> None:
    """Bytes of each stage as the sizes say; torch's DistributedDataParallel sends those of stage 3 in all of them."""
    ended = lab.tiny_ranks(2, "x", *FEW, plants={0: [("write_reduced_bytes", "bytes")]})
    assert [rank.code for rank in ended] == [0, 0], ended[0].err
    outside = (VOCAB + POSITIONS + 2) * WIDTH
    stages = [4 * (outside + layers * layer_entries(share)) for layers, share in ((2, 0.5), (4, 0.5), (4, 1.0))]
    sent = [int(line) for line in (lab.folder / "bytes").read_text().splitlines()]
    assert sent == [stages[0]] * T1 + [stages[1]] * (T2 - T1) + [stages[2]] * (STEPS - T2)
    assert stages[0] - 4 * outside < 0.27 * (stages[2] - 4 * outside)
