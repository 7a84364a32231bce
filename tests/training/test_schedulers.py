"""Every scheduler through the real command: it trains, is killed around its transitions, and keeps to its plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from est_cli.config.method import options_of
from est_cli.config.resolve import resolve
from est_cli.est import SamplingOptions
from est_cli.est.flops import planned_ledger
from est_cli.families import spec_of
from est_cli.models import hf_config
from est_cli.storage.store import step_folders
from est_cli.tracking import read_metrics
from tests.lab.commands import accepted
from tests.lab.lab import Lab, Plant, cached_tokens, outcome, train_records

Golden = Callable[..., dict[str, Any]]

STEPS, FIRST, LAST = 12, 3, 8
"""Stages begin at FIRST, some at 5, and the last at LAST; an evaluation every 3 steps, a checkpoint every 5."""

COMMON = (f"train.max_steps={STEPS}", "stage.t1=null", "train.eval_every=3")
GROWN = ("stage.t2=null", f"stage.boundaries=[{FIRST},{LAST}]", "stage.depths=[1,0.5]")
SCHEDULERS = {
    "n_stage": (
        "stage.t2=null",
        f"stage.boundaries=[{FIRST},{LAST}]",
        "stage.rates=[[0.5,0.5,0.5],[1,0.25,1],[1,1,1]]",
    ),
    "linear": (f"stage.t2={LAST}", "stage.levels=3"),
    "cosine": (f"stage.t2={LAST}", "stage.levels=3"),
    "constant": ("stage.t2=null",),
    "raptr": ("stage.t2=null", f"stage.boundaries=[{FIRST},{LAST}]", "stage.depths=[2,3]"),
    "layer_dropout": ("stage.t2=null", "stage.p_l=0.6"),
    "pld": ("stage.t2=null",),
    "early_dropout": (f"stage.t2={FIRST}",),
    "gradual_stacking": GROWN,
    "g_stack": GROWN,
    "one_layer": GROWN,
}
GROWING = ("gradual_stacking", "g_stack", "one_layer")
MILESTONES = {"n_stage": {FIRST, LAST}, "linear": {LAST}, "cosine": {LAST}, "raptr": {FIRST, LAST}}
MILESTONES |= {"early_dropout": {FIRST}} | {name: {FIRST, LAST} for name in GROWING}


def settings(name: str) -> tuple[str, ...]:
    return (f"scheduler={name}", *COMMON, *SCHEDULERS[name])


def killed(target: str, step: int, when: str) -> Plant:
    return ("at_step", target, step, when, "SIGKILL")


@pytest.mark.some(2)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_it_survives_kills_around_its_transitions_and_keeps_to_its_plan(lab: Lab, golden: Golden, name: str) -> None:
    """Before the first step of a stage what it grows is still to come, after that step's update it is done."""
    whole = golden(*settings(name))
    for plant in (
        killed("est_cli.training.train.train_step", FIRST, "before"),
        killed("est_cli.training.step._update", LAST, "after"),
    ):
        assert lab.tiny("x", *settings(name), plants=[plant]).code == -9
    ended = lab.tiny("x", *settings(name))
    assert ended.code == 0, ended.err
    assert outcome(lab.at("x")) == whole
    kept = {int(folder.removeprefix("step-")) for folder in whole["checkpoints"]}
    assert kept == {10, STEPS} | MILESTONES.get(name, set())
    config = accepted(*lab.arguments(*settings(name)))
    spec, scheduler = spec_of(hf_config(config.model)), resolve(config).scheduler
    planned = planned_ledger(spec, scheduler, options_of(config.sampling), 4, 32, config.seed)
    summary = whole["summary"]
    assert (summary["flops"], summary["flops_dense"]) == (planned.used.total, planned.dense.total)
    assert summary["flops_saved_pct_blocks"] == planned.saved_pct("blocks")
    assert [change["step"] for change in summary["transitions"]] == [step + 1 for step in scheduler.transitions()]


PROTECTED = (
    *("sampling.protect=[layers:0,heads:1,columns:2]", "stage.layer_rates=[0.4,0.5,0.6,0.5]"),
    *("sampling.layer_scale=inverse", "optim.unsampled_rows=frozen"),
)


def test_layers_of_different_sizes_survive_a_kill_and_keep_to_their_plan(lab: Lab, golden: Golden) -> None:
    """What a step costs depends on which layers are drawn, beside the first."""
    args = (*PROTECTED, "train.eval_every=3")
    whole = golden(*args)
    assert lab.tiny("x", *args, plants=[killed("est_cli.training.train.train_step", 5, "before")]).code == -9
    ended = lab.tiny("x", *args)
    assert ended.code == 0, ended.err
    assert outcome(lab.at("x")) == whole
    config = accepted(*lab.arguments(*args))
    spec, scheduler = spec_of(hf_config(config.model)), resolve(config).scheduler
    planned = planned_ledger(spec, scheduler, options_of(config.sampling), 4, 32, config.seed)
    assert (whole["summary"]["flops"], whole["summary"]["flops_dense"]) == (planned.used.total, planned.dense.total)
    unprotected = planned_ledger(spec, scheduler, SamplingOptions(), 4, 32, config.seed)
    assert planned.used.total > unprotected.used.total
    of_stage_1 = [record for record in whole["records"] if record.get("stage") == 1 and "loss" in record]
    assert len({record["p_h"] for record in of_stage_1}) > 1


@pytest.mark.long
def test_they_are_different_trainings(golden: Golden) -> None:
    losses = {name: tuple(r["loss"] for r in golden(*settings(name))["records"] if "loss" in r) for name in SCHEDULERS}
    assert len(set(losses.values())) == len(SCHEDULERS)


def test_random_sizes_are_recorded_as_they_were_drawn(lab: Lab) -> None:
    assert lab.tiny("x", *settings("layer_dropout")).code == 0
    records = train_records(lab.at("x"))
    rates, flops = [record["p_l"] for record in records], [record["flops"] for record in records]
    assert set(rates) <= {0.0, 0.25, 0.5, 0.75, 1.0} and len(set(rates)) > 2
    costs = {rate: used - before for rate, used, before in zip(rates, flops, [0, *flops], strict=False)}
    per_layer = {
        (cost - costs[min(costs)]) / (4 * (rate - min(costs))) for rate, cost in costs.items() if rate > min(costs)
    }
    assert len(per_layer) == 1, "each layer costs the same"


@pytest.mark.parametrize("options", [("sampling.redraw=forward", "train.micro_batch=1"), ("sampling.keep_ends=true",)])
def test_random_sizes_keep_to_their_plan_however_they_are_drawn(lab: Lab, options: tuple[str, ...]) -> None:
    ended = lab.tiny("x", *settings("pld"), *options)
    assert ended.code == 0, ended.err
    told = next(line for line in ended.err.splitlines() if line.startswith("saving "))
    summary = json.loads((lab.at("x") / "summary.json").read_text())
    assert told.split()[1] == f"{summary['flops_saved_pct_blocks']:.2f}"


@pytest.mark.parametrize("name", GROWING)
def test_a_growing_model_is_evaluated_as_far_as_it_is(lab: Lab, name: str) -> None:
    """At FIRST, before anything is copied: the loss of a plain model of the first layer alone."""
    assert lab.tiny("x", *settings(name)).code == 0
    run = lab.at("x")
    found = next(r["val_loss"] for r in read_metrics(run / "metrics.jsonl") if r["step"] == FIRST and "val_loss" in r)
    model = AutoModelForCausalLM.from_pretrained(dict(step_folders(run / "checkpoints"))[FIRST])
    model.transformer.h = model.transformer.h[:1]
    remembered, tokens = cached_tokens(lab.folder / "data")
    held_out = torch.tensor(tokens[remembered["train_tokens"] :].astype("int64"))
    blocks = held_out[: len(held_out) // 32 * 32].view(-1, 32)
    with torch.no_grad():
        assert model.eval()(blocks, labels=blocks).loss.item() == pytest.approx(found, rel=1e-5)
    rates = [record["p_l"] for record in train_records(run)]
    assert rates == [0.25] * FIRST + [0.5] * (LAST - FIRST) + [1.0] * (STEPS - LAST)
