"""stage.p_t in a run: what it trains on, its record and its ledger; kills, processes and longer runs change nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from est_cli.config.method import options_of
from est_cli.config.resolve import resolve
from est_cli.data import BlockOrder
from est_cli.est import IndexGenerator, apply_est, draw_positions, planned_ledger
from est_cli.est.schedule import common_steps
from est_cli.families import spec_of
from est_cli.models import hf_config
from est_cli.tracking import read_metrics
from tests.lab.commands import accepted
from tests.lab.lab import Lab, cached_tokens, losses, outcome, train_records

STEPS, T1, T2 = 9, 3, 6
RUN = (f"train.max_steps={STEPS}", f"stage.t1={T1}", f"stage.t2={T2}", "stage.p_t=0.4", "train.eval_every=4")
SEQUENCES, T, K = 4, 32, 12
"""12 of 31 predictions: 12.4."""


@pytest.fixture(scope="module")
def run(shared: Lab) -> Path:
    ended = shared.tiny("positions", *RUN, "train.checkpoint_every=1", "train.keep_every=1")
    assert ended.code == 0, ended.err
    return shared.at("positions")


def test_a_loss_is_the_mean_over_the_drawn_predictions_of_its_step(run: Path, shared: Lab) -> None:
    """Of every step: the checkpoint before it, its subnetwork, plain logits and the positions picked by hand."""
    remembered, ids = cached_tokens(shared.folder / "data")
    blocks = torch.from_numpy(ids[: remembered["train_tokens"]].astype("int64"))
    blocks = blocks[: len(blocks) // T * T].view(-1, T)
    config, found = accepted(*shared.arguments(*RUN)), losses(run)
    scheduler, order = resolve(config).scheduler, BlockOrder(len(blocks), config.seed)
    for step in range(1, STEPS):
        tokens = blocks[order.blocks(step * SEQUENCES, SEQUENCES)]
        model = AutoModelForCausalLM.from_pretrained(run / f"checkpoints/step-{step:06d}")
        generator = IndexGenerator(spec_of(model), config.seed, options_of(config.sampling))
        apply_est(model, generator.spec).activate(generator.draw(step, scheduler.rates_at(step)))
        with torch.no_grad():
            log_p = model(tokens).logits[:, :-1].log_softmax(2).gather(2, tokens[:, 1:, None])[:, :, 0]
        if step < T2:
            drawn = draw_positions(config.seed, step, torch.arange(SEQUENCES), T, 0.4)
            assert drawn is not None and drawn.shape == (SEQUENCES, K)
            assert -log_p.mean().item() != pytest.approx(found[step], rel=1e-4), "not the mean over all"
            log_p = log_p.gather(1, drawn)
        assert -log_p.mean().item() == pytest.approx(found[step], rel=1e-5), step


def test_its_records_and_its_ledger(run: Path, shared: Lab) -> None:
    records = train_records(run)
    assert [record["p_t"] for record in records] == [K / (T - 1)] * T2 + [1.0] * (STEPS - T2)
    costs = [after["flops"] - before["flops"] for before, after in pairwise(records)]
    layers, head = 4 * (12 * 32 * 32 + 2 * T * 32), 32 * 300
    full = 6 * SEQUENCES * T * (layers + head)
    assert costs[-1] == full
    assert costs[T2 - 2] == 6 * SEQUENCES * (T * layers // 2 + K * head)
    config = accepted(*shared.arguments(*RUN))
    spec, scheduler = spec_of(hf_config(config.model)), resolve(config).scheduler
    planned = planned_ledger(spec, scheduler, options_of(config.sampling), SEQUENCES, T, config.seed)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["flops"], summary["flops_dense"]) == (planned.used.total, planned.dense.total)
    assert summary["flops_dense"] == STEPS * full
    assert [stage["p_t"] for stage in summary["stages"]] == pytest.approx([K / (T - 1)] * 2 + [1.0])


def test_runs_without_it_have_no_such_key(golden: Callable[..., dict[str, Any]]) -> None:
    whole = golden()
    assert not any("p_t" in record for record in [*whole["records"], *whole["summary"]["stages"]])


def test_killed_in_the_stage_it_goes_on_to_the_last_bit(lab: Lab, golden: Callable[..., dict[str, Any]]) -> None:
    for step in (T1 + 1, T2):
        plant = ("at_step", "est_cli.training.train.train_step", step, "before", "SIGKILL")
        assert lab.tiny("x", *RUN, plants=[plant]).code == -9
    ended = lab.tiny("x", *RUN)
    assert ended.code == 0, ended.err
    assert outcome(lab.at("x")) == golden(*RUN)


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.long)])
def test_two_processes_train_what_one_trains(lab: Lab, run: Path, strategy: str) -> None:
    """With micro-batches of other sequences, too: a draw belongs to a sequence of the step."""
    settings = (*RUN, "train.micro_batch=1", f"launch.strategy={strategy}")
    ended = lab.tiny_ranks(2, "several", *settings)
    assert [rank.code for rank in ended] == [0, 0], ended[0].err
    assert losses(lab.at("several")) == pytest.approx(losses(run), rel=1e-5)
    norms = [[record["grad_norm"] for record in train_records(one)] for one in (lab.at("several"), run)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    validated = [
        [record["val_loss"] for record in read_metrics(one / "metrics.jsonl") if "val_loss" in record and one]
        for one in (lab.at("several"), run)
    ]
    assert validated[0][-1] == pytest.approx(validated[1][-1], rel=1e-5)


def test_another_share_is_another_run(lab: Lab) -> None:
    plant = ("at_step", "est_cli.training.train.train_step", 2, "before", "SIGKILL")
    assert lab.tiny("x", *RUN, "train.checkpoint_every=1", plants=[plant]).code == -9
    ended = lab.tiny("x", *RUN, "stage.p_t=0.5")
    assert ended.code == 2 and "stage.p_t" in ended.last_words[-1]


def test_a_longer_run_keeps_no_step_of_another_share() -> None:
    one, other = (resolve(accepted("train.max_steps=100", f"stage.p_t={p_t}")).scheduler for p_t in (0.5, 0.6))
    assert common_steps(one, other) == 0 and common_steps(one, one) == 100
