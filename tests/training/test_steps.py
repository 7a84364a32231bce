"""What a step computes does not depend on how it is cut, watched or saved, and a bad one changes nothing."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from est_cli.storage.store import step_folders
from est_cli.tracking import read_metrics
from tests.lab.lab import Lab, losses, outcome, sha256_of, train_records

SHORT = ("train.max_steps=12", "stage.t1=4", "stage.t2=8")


def test_micro_batches_are_only_a_way_to_save_memory(lab: Lab) -> None:
    """4 sequences a step as 4 = 2 + 2 = 1 + 1 + 1 + 1, and unevenly as 3 + 1."""
    for size in (1, 2, 3, 4):
        assert lab.tiny(str(size), *SHORT, f"train.micro_batch={size}", "train.eval_every=1").code == 0
    whole = train_records(lab.at("4"))
    for size in ("1", "2", "3"):
        cut = train_records(lab.at(size))
        for key in ("loss", "grad_norm"):
            assert [record[key] for record in cut] == pytest.approx([record[key] for record in whole], rel=1e-5)
        assert [record["lr"] for record in cut] == [record["lr"] for record in whole]
        assert [record["flops"] for record in cut] == [record["flops"] for record in whole]
        validation = [[r["val_loss"] for r in read_metrics(lab.at(name) / "metrics.jsonl") if "val_loss" in r]
                      for name in (size, "4")]  # fmt: skip
        assert validation[0] == pytest.approx(validation[1], rel=1e-5)


@pytest.mark.some(2)
@pytest.mark.parametrize(
    "settings",
    [("train.lm_loss=whole",), ("train.lm_loss=torch",), ("train.lm_chunk=7",), ("train.pad_vocab_to=128",)],
    ids=lambda settings: settings[0],
)
def test_the_way_of_the_loss_is_only_a_way_to_save_time(lab: Lab, settings: tuple[str, ...]) -> None:
    if settings[0].endswith("torch") and not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        pytest.skip("this torch has no linear_cross_entropy")
    assert lab.tiny("plain", *SHORT).code == 0
    ended = lab.tiny("x", *SHORT, *settings)
    assert ended.code == 0, ended.err
    for key in ("loss", "grad_norm"):
        expected = [record[key] for record in train_records(lab.at("plain"))]
        assert [record[key] for record in train_records(lab.at("x"))] == pytest.approx(expected, rel=1e-5)
    config = json.loads((lab.at("x") / "model" / "config.json").read_text())
    with safe_open(lab.at("x") / "model" / "model.safetensors", "pt") as weights:
        rows = weights.get_slice("transformer.wte.weight").get_shape()[0]
    assert (config["vocab_size"], rows) == (300, 300), "padding is no part of the model"


def test_a_draw_for_each_micro_batch_is_another_training(lab: Lab) -> None:
    assert lab.tiny("step", *SHORT).code == lab.tiny("forward", *SHORT, "sampling.redraw=forward").code == 0
    step, forward = losses(lab.at("step")), losses(lab.at("forward"))
    assert step[0] != forward[0] and [record["flops"] for record in train_records(lab.at("forward"))] == [
        record["flops"] for record in train_records(lab.at("step"))
    ]


@pytest.mark.some(4)
@pytest.mark.parametrize(
    "setting",
    [
        "train.eval_every=1",
        "train.eval_every=0",
        "train.eval_tokens=64",
        "train.spread_draws=0",
        "train.checkpoint_every=1",
        "train.checkpoint_every=0",
        "train.sample_every=1",
        "train.log_every=3",
        "train.keep_every=1",
    ],
)
def test_watching_does_not_change_the_training(lab: Lab, plain_run: dict, setting: str) -> None:
    """To the last bit, with dropout, whose random numbers would tell."""
    assert lab.tiny("x", *SHORT, "model.dropout=0.1", setting).code == 0
    records = {record["step"]: record for record in train_records(lab.at("x"))}
    assert 12 in records and len(records) == (7 if "log_every" in setting else 12)
    for step, record in records.items():
        assert (record["loss"], record["grad_norm"]) == plain_run["losses"][step]
    assert sha256_of(lab.at("x"), 12) == plain_run["sha256"]
    assert outcome(lab.at("x"))["sha256"] == plain_run["all"], "also what is saved beside the weights"


@pytest.fixture(scope="module")
def plain_run(shared: Lab) -> dict:
    assert shared.tiny("plain", *SHORT, "model.dropout=0.1").code == 0
    run = shared.at("plain")
    seen = {record["step"]: (record["loss"], record["grad_norm"]) for record in train_records(run)}
    return {"losses": seen, "sha256": sha256_of(run, 12), "all": outcome(run)["sha256"]}


def test_a_step_that_is_not_finite_changes_no_weight(lab: Lab) -> None:
    """NaN in the second micro-batch of steps 6 and 7, and again of step 9: never three in a row."""
    settings = (*SHORT, "train.checkpoint_every=1", "train.keep_every=1")
    ended = lab.tiny("x", *settings, plants=[("not_finite", [12, 14, 18])])
    assert ended.code == 0, ended.err
    assert sha256_of(lab.at("x"), 5) == sha256_of(lab.at("x"), 6) == sha256_of(lab.at("x"), 7)
    assert sha256_of(lab.at("x"), 8) == sha256_of(lab.at("x"), 9)
    assert len({sha256_of(lab.at("x"), step)["model.safetensors"] for step in (5, 8, 10, 11, 12)}) == 5
    seen = losses(lab.at("x"))
    assert [step for step, loss in enumerate(seen, 1) if loss is None] == [6, 7, 9]
    transition = [r for r in read_metrics(lab.at("x") / "metrics.jsonl") if r.get("event") == "stage_transition"][1]
    assert (transition["loss_before"], transition["loss_after"]) == (seen[7], None), "step 9 is the first of stage 3"
    rejected = [r for r in read_metrics(lab.at("x") / "metrics.jsonl") if r.get("event") == "not_finite"]
    assert rejected == [
        {"event": "not_finite", "step": step, "first_sample": 4 * (step - 1), "samples": 4} for step in (6, 7, 9)
    ]


def test_three_in_a_row_stop_the_run_and_it_can_go_on(lab: Lab) -> None:
    assert lab.tiny("whole", *SHORT).code == 0
    ended = lab.tiny("x", *SHORT, plants=[("not_finite", [13, 15, 17])])
    assert ended.code == 5 and len(ended.last_words) == 1 and "Traceback" not in ended.err
    assert "for 3 steps in a row, last at step 9 (samples 32 to 35)" in ended.last_words[0]
    assert [step for step, _ in step_folders(lab.at("x") / "checkpoints")] == [4, 5, 8]
    ended = lab.tiny("x", *SHORT, plants=[("not_finite", [1])])
    assert ended.code == 5, "the two before the checkpoint at step 8 are not forgotten"
    assert lab.tiny("x", *SHORT).code == 0
    assert [step for step, loss in enumerate(losses(lab.at("x")), 1) if loss is None] == [7, 8]


def test_a_learning_rate_that_is_far_too_high(lab: Lab) -> None:
    ended = lab.tiny("x", *SHORT, "optim.lr=1e30")
    assert ended.code == 5 and "optim.lr" in ended.last_words[0] and "Traceback" not in ended.err


def test_out_of_memory_names_the_key_that_helps(lab: Lab) -> None:
    plant = ("at", "est_cli.training.step.forward_backward", 13, "before", "out of memory")
    ended = lab.tiny("x", *SHORT, plants=[plant])
    assert ended.code == 9 and "Traceback" not in ended.err
    assert ended.last_words[0].startswith("est-train: error: train.micro_batch: out of memory; use a smaller one")
    assert lab.tiny("x", *SHORT, "train.micro_batch=1").code == 0


def test_a_full_disk_is_a_warning_while_an_older_checkpoint_is_there(lab: Lab) -> None:
    assert lab.tiny("whole", *SHORT).code == 0
    settings = (*SHORT, "train.checkpoint_every=2")
    assert lab.tiny("x", *settings, plants=[("disk_full", "mkdir .tmp-step-000004", 9), STOP_AT_9]).code == 143
    ended = lab.tiny("x", *settings, plants=[("disk_full", "mkdir .tmp-step-000010", 1)])
    assert ended.code == 0 and "warning: no checkpoint at step 10: " in ended.err
    assert losses(lab.at("x")) == losses(lab.at("whole"))


STOP_AT_9 = ("at_step", "est_cli.training.train.train_step", 8, "after", "SIGTERM")


def test_stopped_by_a_signal_while_the_disk_is_full(lab: Lab) -> None:
    ended = lab.tiny("x", *SHORT, plants=[("disk_full", "mkdir .tmp-step-000009", 9), STOP_AT_9])
    assert ended.code == 143
    assert ended.last_words == [
        "est-train: stopped: outputs/x: no checkpoint could be saved at step 9; resume=outputs/x continues"
    ]
    assert lab.tiny("x", *SHORT).code == 0


@pytest.mark.parametrize(("fails", "saved"), [("mkdir .tmp-step-", []), ("mkdir .tmp-step-00001", [8, 9])])
def test_storage_that_fails_for_good_is_an_error(lab: Lab, fails: str, saved: list[int]) -> None:
    """At once where no checkpoint is there, at the third failure in a row where an older one is."""
    settings = ("train.max_steps=20", "stage.t1=0", "stage.t2=0", "train.checkpoint_every=1")
    ended = lab.tiny("x", *settings, plants=[("disk_full", fails, 99)])
    assert ended.code == 6 and len(ended.last_words) == 1 and "No space left on device" in ended.last_words[0]
    assert [step for step, _ in step_folders(lab.at("x") / "checkpoints")] == saved
    assert len(train_records(lab.at("x"))) == (12 if saved else 1)


@pytest.mark.parametrize(
    "setting", ["train.sample_tokens=500", 'train.sample_prompt=""', f"train.sample_prompt={'a' * 99}"]
)
def test_samples_fit_the_model(lab: Lab, setting: str) -> None:
    ended = lab.tiny("x", "train.max_steps=1", "stage.t1=0", "stage.t2=0", "train.sample_every=1", setting)
    assert ended.code == 0 and "sample at step 1: " in ended.err
