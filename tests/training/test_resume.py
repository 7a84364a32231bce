"""Whatever kills a run and however often: it continues to the same last bit as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from est_cli.storage.store import step_folders
from tests.lab.lab import STEPS, T1, T2, Lab, Plant, cached_tokens, outcome

Golden = Callable[..., dict[str, Any]]

LOOP, KILL = "est_cli.training", "SIGKILL"


def before_step(step: int) -> Plant:
    return ("at_step", f"{LOOP}.train.train_step", step, "before", KILL)


def around_steps(boundary: int) -> list[Plant]:
    """The last step of one stage, the checkpoint between, and the first step of the next stage."""
    last, first, update = boundary - 1, boundary, f"{LOOP}.step._update"
    return [
        ("at_step", update, last, "before", KILL),
        ("at_step", update, last, "after", KILL),
        ("at_fault_point", f"rename .tmp-step-{boundary:06d}", KILL),
        before_step(first),
        ("at_step", update, first, "after", KILL),
        ("at_step", f"{LOOP}.train.train_step", first, "after", KILL),
    ]


POINTS = {
    "transition 1": around_steps(T1),
    "transition 2": around_steps(T2),
    "the first files": [
        ("at_fault_point", "write .tmp-config.yaml", KILL),
        ("at_fault_point", "replace config.yaml", KILL),
        ("at", f"{LOOP}.build._assemble", 1, "before", KILL),
        ("at_fault_point", "rename .tmp-step-000005", KILL),
    ],
    "inside a save and what it deletes": [
        before_step(10),
        ("at_fault_point", "mkdir .tmp-step-000015", KILL),
        ("at", "est_cli.storage.content.save_file", 1, "before", KILL),
        ("at_fault_point", "write state.json", KILL),
        ("at_fault_point", "fsync model.safetensors", KILL),
        ("at_fault_point", "write MANIFEST.json", KILL),
        ("at_fault_point", "rename .tmp-step-000015", KILL),
        ("at_fault_point", "fsync checkpoints/", KILL),
        ("at_fault_point", "rename step-0000", KILL),
        ("at_fault_point", "unlink", KILL),
        ("at_fault_point", "rmdir .trash", KILL),
    ],
    "in evaluation and between micro-batches": [
        ("at", "est_cli.training.validation.target_count", 1, "before", KILL),
        ("at", "est_cli.training.validation.target_count", 6, "after", KILL),
        ("at", f"{LOOP}.train.evaluate", 1, "after", KILL),
        ("at", f"{LOOP}.step.forward_backward", 2, "before", KILL),
        ("at", f"{LOOP}.step.forward_backward", 2, "after", KILL),
    ],
    "while it loads": [
        before_step(13),
        ("at", f"{LOOP}.parts.load_corpus", 1, "before", KILL),
        ("at", f"{LOOP}.folder.load_checkpoint", 1, "before", KILL),
        ("at", "est_cli.storage.tensors.load_weights", 1, "after", KILL),
        ("at", "est_cli.storage.tensors.load_optimizer", 1, "after", KILL),
        ("at_fault_point", "write .tmp-metrics.jsonl", KILL),
        ("at_fault_point", "replace metrics.jsonl", KILL),
        ("at_fault_point", "fsync x/", KILL),
    ],
    "in the last save and the end": [
        ("at_fault_point", f"rename .tmp-step-{STEPS:06d}", KILL),
        ("at", f"{LOOP}.train.finish", 1, "before", KILL),
        ("at_fault_point", "rename .tmp-model", KILL),
        ("at_fault_point", "write .tmp-summary.json", KILL),
        ("at_fault_point", "replace summary.json", KILL),
        ("at", f"{LOOP}.finish.write_json", 1, "after", KILL),
        ("at", f"{LOOP}.finish.plot_run", 1, "after", KILL),
    ],
}


@pytest.mark.some(1)
@pytest.mark.parametrize("where", POINTS)
def test_killed_at_one_point_after_the_other(lab: Lab, golden: Golden, where: str) -> None:
    for plant in POINTS[where]:
        assert lab.tiny("x", plants=[plant]).code == -9, plant
    ended = lab.tiny("x")
    assert ended.code == 0, ended.err
    assert outcome(lab.at("x")) == golden()


@pytest.mark.some(2)
@pytest.mark.parametrize(
    "overrides",
    [
        ["sampling.redraw=forward"],
        ["sampling.cover=balanced", "sampling.redraw=forward"],
        ["sampling.layers_by=sequence", "sampling.redraw=forward", "train.log_layers_every=3"],
        ["model.dropout=0.1"],
        ["model=llama_tiny", "model.mlp_size=64", "model.num_kv_heads=2"],
        ["train.precision=bf16"],
        ["dataset.packing=document", "sampling.redraw=forward"],
        ["train.activation_checkpointing=true", "model.dropout=0.1", "sampling.redraw=forward"],
        ["scheduler=dense", "stage.t1=null", "stage.t2=null"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_kind_of_run_survives_two_kills(lab: Lab, golden: Golden, overrides: list[str]) -> None:
    for step in (T1 - 1, T2 + 1):
        assert lab.tiny("x", *overrides, plants=[before_step(step)]).code == -9
    ended = lab.tiny("x", *overrides)
    assert ended.code == 0, ended.err
    assert outcome(lab.at("x")) == golden(*overrides)
    assert golden(*overrides)["records"] != golden()["records"], "these settings change nothing"


def test_the_time_of_a_run_is_that_of_all_its_processes(lab: Lab) -> None:
    pause = ("at_step", f"{LOOP}.train.train_step", T1 - 1, "after", "pause")
    assert lab.tiny("x", plants=[pause, before_step(T1 + 1)]).code == -9
    assert lab.tiny("x", "train.keep_last=99").code == 0
    states = [json.loads((path / "state.json").read_text()) for _, path in step_folders(lab.at("x") / "checkpoints")]
    times = [state["time_s"] for state in states if state["step"] >= T1]
    assert times == sorted(times) and times[0] > 0.5
    assert json.loads((lab.at("x") / "summary.json").read_text())["time_s"] == times[-1]


def test_the_tiny_run_passes_ends_of_epochs(lab: Lab) -> None:
    blocks = cached_tokens(lab.folder / "data")[0]["train_tokens"] // 32
    assert 2 * blocks < STEPS * 4, "two ends of epochs at least"
    assert blocks % 4, "and they fall inside of steps"


@pytest.mark.some(3)
@pytest.mark.parametrize(
    "mutant",
    ["drop_optimizer_state", "skip_a_batch", "reuse_the_last_draw", "shift_the_learning_rate", "forget_last_loss"],
)
def test_a_broken_resume_would_be_noticed(lab: Lab, golden: Golden, mutant: str) -> None:
    assert lab.tiny("x", plants=[before_step(T1)]).code == -9
    ended = lab.tiny("x", plants=[[mutant]])
    assert ended.code == 0, ended.err
    broken, right = outcome(lab.at("x"))["records"], golden()["records"]
    assert len(broken) == len(right) and broken != right
    assert [record for record in broken if record["step"] <= T1] == [r for r in right if r["step"] <= T1]
