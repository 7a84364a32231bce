"""Batches by stage: what a step reads and counts, against plain Hugging Face; kills, ranks and longer runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from est_cli.data import BlockOrder
from tests.lab.lab import Lab, cached_tokens, losses, outcome, train_records

RAMP = ("train.seq_len=[8,16,32]", "train.tokens_per_step=[64,64,128]", "optim.batch_lr=sqrt", "train.max_steps=12",
        "stage.t1=3", "stage.t2=7", "optim.warmup_tokens=200")  # fmt: skip
DENSE = ("scheduler=dense", "stage.t1=null", "stage.t2=null", "stage.boundaries=[3,7]", "model.dropout=0.0")
STEPS = [(8, 8)] * 3 + [(4, 16)] * 4 + [(4, 32)] * 5
"""Sequences and their length."""


@pytest.fixture(scope="module")
def dense(shared: Lab) -> Path:
    every = ("train.checkpoint_every=1", "train.keep_every=1")
    ended = shared.train(*shared.arguments("run_name=ramp", *every, *RAMP, *DENSE))
    assert ended.code == 0, ended.err
    return shared.at("ramp")


def test_each_step_reads_the_next_blocks_cut_into_its_sequences(dense: Path, shared: Lab) -> None:
    remembered, ids = cached_tokens(shared.folder / "data")
    train = ids[: remembered["train_tokens"]].astype(np.int64)
    blocks = train[: len(train) // 32 * 32].reshape(-1, 32)
    order = BlockOrder(len(blocks), yaml.safe_load((dense / "config.yaml").read_text())["seed"])
    found, read = losses(dense), 0
    for step, (sequences, length) in enumerate(STEPS):
        count = sequences * length // 32
        tokens = torch.from_numpy(blocks[order.blocks(read, count)].reshape(sequences, length))
        read += count
        if step:
            model = AutoModelForCausalLM.from_pretrained(dense / f"checkpoints/step-{step:06d}")
            with torch.no_grad():
                assert model(tokens, labels=tokens).loss.item() == pytest.approx(found[step], rel=1e-5)


def test_what_a_step_counts(dense: Path) -> None:
    """GPT-2 of 4 layers, width 32 and 300 words: 12 w^2 entries in a layer, pairs of all positions, the LM head."""
    tokens = flops = 0
    for record, (sequences, length) in zip(train_records(dense), STEPS, strict=True):
        read, pairs = sequences * length, sequences * length * length
        tokens += read
        flops += 3 * (4 * (2 * read * 12 * 32 * 32 + 4 * pairs * 32) + 2 * read * 32 * 300)
        assert (record["tokens"], record["flops"], record["flops_dense"]) == (tokens, flops, flops)
    summary = json.loads((dense / "summary.json").read_text())
    assert (summary["tokens"], summary["flops"]) == (tokens, flops)


@pytest.mark.parametrize(
    "killed", [2, pytest.param(6, marks=pytest.mark.long), pytest.param(9, marks=pytest.mark.long)]
)
def test_resumed_in_any_stage_it_is_the_same_run(lab: Lab, killed: int) -> None:
    plant = ("at_step", "est_cli.training.train.train_step", killed, "after", "SIGKILL")
    every = ("train.checkpoint_every=2",)
    assert lab.tiny("x", *RAMP, *every, plants=[plant]).code == -9
    assert lab.tiny("x", *RAMP, *every).code == 0
    assert outcome(lab.at("x")) == lab.golden(*RAMP, *every)


@pytest.mark.long
def test_two_processes_read_what_one_does(lab: Lab) -> None:
    assert [rank.code for rank in lab.tiny_ranks(2, "two", *RAMP)] == [0, 0]
    assert lab.tiny("one", *RAMP).code == 0
    assert losses(lab.at("two")) == pytest.approx(losses(lab.at("one")), rel=1e-5)
    keys = ("tokens", "flops", "flops_dense")
    told: list[list[Any]] = [
        [[record[key] for key in keys] for record in train_records(lab.at(name))] for name in ("one", "two")
    ]
    assert told[0] == told[1]


@pytest.mark.long
def test_text_that_is_tokenised_ahead_gives_the_same_samples(lab: Lab) -> None:
    ahead = ("dataset.tokenize=ahead", "dataset.num_workers=1")
    assert lab.tiny("ahead", *RAMP, *ahead).code == 0
    assert lab.tiny("again", *RAMP, *ahead).code == 0, "of a ready cache"
    assert outcome(lab.at("ahead")) == outcome(lab.at("again"))


@pytest.mark.parametrize(
    "length", ["train.max_flops=6e8", pytest.param("train.max_tokens=2000", marks=pytest.mark.long)]
)
def test_made_longer_by_a_budget(lab: Lab, length: str) -> None:
    assert lab.tiny("x", *RAMP).code == 0
    ended = lab.train("resume=outputs/x", length)
    assert ended.code == 0, ended.err
    train = yaml.safe_load((lab.at("x") / "config.yaml").read_text())["train"]
    summary = json.loads((lab.at("x") / "summary.json").read_text())
    key, budget = length.removeprefix("train.").split("=")
    assert train[key] == float(budget) and summary["steps"] > 12
    if key == "max_flops":
        assert train["max_steps"] == summary["steps"] and 0.95 * float(budget) < summary["flops"] <= float(budget)
    else:
        assert 0 <= summary["tokens"] - int(budget) < 128
    steps = f"train.max_steps={summary['steps']}"
    assert outcome(lab.at("x")) == lab.golden(*(steps if key == "train.max_steps=12" else key for key in RAMP))


@pytest.mark.long
def test_gradients_are_clipped_by_stage(lab: Lab) -> None:
    """In stage 2 to nearly nothing: its first loss is that of the usual clipping, and the next ones are not."""
    short = ("train.max_steps=6", "stage.t1=2", "stage.t2=4")
    assert lab.tiny("usual", *short).code == 0
    assert lab.tiny("same", *short, "optim.stage_clip=[1.0,1.0,1.0]").code == 0
    assert lab.tiny("tiny", *short, "optim.stage_clip=[1.0,1e-12,1.0]").code == 0
    usual, same, tiny = (losses(lab.at(name)) for name in ("usual", "same", "tiny"))
    assert usual == same and usual[:3] == tiny[:3] and usual[3] != tiny[3]
