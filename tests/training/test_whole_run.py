"""One tiny run from the first step to the last: what it leaves, and whether that is true."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from safetensors import safe_open
from transformers import AutoTokenizer

from est_cli.config import PlanConfig
from est_cli.config.schema import plain, typed
from est_cli.config.stored import stored_config
from est_cli.planning import Plan, make_plan
from est_cli.storage.store import verify_folder
from est_cli.tracking import read_metrics
from est_cli.tracking.records import In, fields_of
from tests.lab.lab import STEPS, T1, T2, Lab, cached_tokens, train_records

OF_A_GUARD = {"passed_samples", "skipped_steps", "rewinds", "flops_passed_over"}
"""Of train.on_spike, which is off."""
OF_A_GPU = {"mem_reserved_gb", "alloc_retries"}
STEP_KEYS, SUMMARY_KEYS = ([field.name for field in fields_of(record)] for record in (In.step, In.summary))
DECAY = 24
"""Where the learning rate begins to fall."""
MODEL_FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "MANIFEST.json"}


@pytest.fixture(scope="module")
def run(shared: Lab) -> Path:
    overrides = ("stage.p_h=0.6", "train.eval_every=2", "train.keep_every=10", "train.sample_every=15")
    ended = shared.ended(shared.start(*shared.arguments("run_name=whole", *overrides), plants=[]))
    assert ended.code == 0, ended.err
    return shared.at("whole")


@pytest.fixture(scope="module")
def metrics(run: Path) -> list[dict[str, Any]]:
    return read_metrics(run / "metrics.jsonl")


@pytest.fixture(scope="module")
def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


@pytest.fixture(scope="module")
def plan(run: Path) -> Plan:
    """est-plan's answer to the same settings."""
    return make_plan(typed(OmegaConf.create(plain(stored_config(run))), PlanConfig))


def test_every_file_of_a_run_is_there_and_nothing_else(run: Path) -> None:
    expected = {".lock", "config.yaml", "metrics.jsonl", "summary.json", "checkpoints", "model", "plots"}
    assert {path.name for path in run.iterdir()} == expected
    assert {path.name for path in (run / "plots").iterdir()} == {
        *("loss.png", "saving.png", "transitions.png", "coverage.png")
    }
    kept = {path.name for path in (run / "checkpoints").iterdir()}
    assert kept == {f"step-{step:06d}" for step in (T1, T2, DECAY, 10, 20, 25, 30)}, (
        "transitions, decay, by 10, the last 2"
    )
    for folder in (run / "checkpoints").iterdir():
        verify_folder(folder)
        names = {path.name for path in folder.iterdir()}
        assert names - {"generation_config.json"} == MODEL_FILES | {"optim.safetensors", "state.json"}
    model = {path.name for path in (run / "model").iterdir()} - {"generation_config.json"}
    assert model == MODEL_FILES | {"README.md", "loss.png"}, "the last checkpoint, and its card"


def test_nothing_but_the_optimizer_tells_the_model_from_the_last_checkpoint(run: Path) -> None:
    model, last = (verify_folder(folder)["files"] for folder in (run / "model", run / "checkpoints/step-000030"))
    assert model == {name: entry for name, entry in last.items() if name not in ("optim.safetensors", "state.json")}


def test_no_pickle_anywhere(run: Path) -> None:
    for path in run.rglob("*"):
        assert path.suffix in {"", ".yaml", ".json", ".jsonl", ".safetensors", ".png", ".md"} or path.name == ".lock"
    with safe_open(run / "checkpoints/step-000030/optim.safetensors", "numpy") as moments:
        assert {name.rpartition("/")[2] for name in moments.keys()} == {"step", "exp_avg", "exp_avg_sq"}  # noqa: SIM118


def test_one_record_a_step_with_the_promised_keys(metrics: list[dict[str, Any]]) -> None:
    steps = [record for record in metrics if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, STEPS + 1))
    # No text is waited for, and all predictions count.
    told = set(STEP_KEYS) - {"text_wait_s", "p_t"} - OF_A_GUARD - OF_A_GPU
    assert all(set(record) == told for record in steps)
    assert [record["tokens"] for record in steps] == [128 * step for step in range(1, STEPS + 1)]
    assert [record["stage"] for record in steps] == [1] * T1 + [2] * (T2 - T1) + [3] * (STEPS - T2)
    assert all(record["mfu"] is None and record["mem_gb"] > 0 and record["step_s"] > 0 for record in steps)
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5, "it learns"


def test_rates_are_logged_as_realised(metrics: list[dict[str, Any]]) -> None:
    rates = {record["stage"]: (record["p_h"], record["p_m"], record["p_l"]) for record in metrics if "loss" in record}
    assert rates == {1: (0.5, 0.5, 0.5), 2: (0.5, 0.5, 1.0), 3: (1.0, 1.0, 1.0)}, "0.6 of 4 heads are 2"


def test_transitions_show_the_losses_around_them(metrics: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    loss = {record["step"]: record["loss"] for record in metrics if "loss" in record}
    expected = [
        {"event": "stage_transition", "step": step + 1, "from_stage": stage, "to_stage": stage + 1,
         "loss_before": loss[step], "loss_after": loss[step + 1]}
        for stage, step in ((1, T1), (2, T2))
    ]  # fmt: skip
    assert [record for record in metrics if record.get("event") == "stage_transition"] == expected
    assert [{key: told[key] for key in expected[0]} for told in summary["transitions"]] == expected
    val_loss = {record["step"]: record["val_loss"] for record in metrics if "val_loss" in record}
    assert [told["val_loss_before"] for told in summary["transitions"]] == [val_loss[T1], val_loss[T2]]
    assert [stage["val_loss"] for stage in summary["stages"]] == [val_loss[step] for step in (T1, T2, STEPS)]


def test_the_complete_model_is_validated_where_a_stage_ends(lab: Lab) -> None:
    """Also where the steps between validations do not end there; never under eval_every=0, but at the end."""
    for every, steps in ((7, {T1, 7, 14, T2, 21, 28, STEPS}), (0, {STEPS})):
        name = f"eval{every}"
        assert lab.tiny(name, f"train.eval_every={every}").code == 0
        records = read_metrics(lab.at(name) / "metrics.jsonl")
        assert {record["step"] for record in records if "val_loss" in record} == steps


def test_coverage_is_that_of_the_draws(summary: dict[str, Any]) -> None:
    """In stages 1 and 2 half of the heads run, in stage 1 half of the layers: in all of a layer's steps, on average."""
    share = (T1 * 0.25 + (T2 - T1) * 0.5 + STEPS - T2) / STEPS
    covered = summary["coverage"]
    assert covered["heads"]["mean"] == pytest.approx(share) and covered["columns"]["mean"] == pytest.approx(share)
    assert sum(covered["layers"]) / len(covered["layers"]) == pytest.approx((T1 * 0.5 + STEPS - T1) / STEPS)
    assert covered["heads"]["min"] < share < covered["heads"]["max"]


def test_summary(summary: dict[str, Any], metrics: list[dict[str, Any]]) -> None:
    assert set(summary) == set(SUMMARY_KEYS) - {"tasks", *OF_A_GUARD}, "none were asked for"
    assert summary["steps"] == STEPS and summary["tokens"] == 128 * STEPS
    last = [record for record in metrics if "val_loss" in record][-1]
    assert last["step"] == STEPS and last["val_loss"] == summary["final_val_loss"]
    assert last["perplexity"] == summary["perplexity"] == math.exp(summary["final_val_loss"])
    assert summary["time_s"] > 0 and summary["time_saved_pct"] < 100
    assert {"est-cli", "torch", "transformers", "python"} <= set(summary["versions"])


def test_bits_per_byte_are_of_the_text_behind_the_predictions(
    shared: Lab, run: Path, metrics: list[dict[str, Any]], summary: dict[str, Any]
) -> None:
    remembered, tokens = cached_tokens(shared.folder / "data")
    blocks = tokens[remembered["train_tokens"] :].astype(int)
    blocks = blocks[: len(blocks) // 32 * 32].reshape(-1, 32)
    words = AutoTokenizer.from_pretrained(run / "model")
    read = sum(len(words.decode(block[1:], skip_special_tokens=True).encode()) for block in blocks)
    for record in (record for record in metrics if "val_loss" in record):
        nats = record["val_loss"] * 31 * len(blocks)
        assert record["bits_per_byte"] == pytest.approx(nats / math.log(2) / read, rel=1e-12)
    assert summary["bits_per_byte"] == record["bits_per_byte"]


def test_flops_are_those_that_were_planned(summary: dict[str, Any], metrics: list[dict[str, Any]], plan: Plan) -> None:
    assert summary["flops_blocks"] == plan.ledger.used.blocks
    assert summary["flops"] == plan.ledger.used.total and summary["flops_dense"] == plan.ledger.dense.total
    for convention in ("blocks", "total"):
        assert summary[f"flops_saved_pct_{convention}"] == plan.ledger.saved_pct(convention)
    # heads 0.5, columns 0.5, layers 0.5: a quarter, then half, then all of the block FLOPs
    by_hand = 100 * (T1 * 0.75 + (T2 - T1) * 0.5) / STEPS
    assert summary["flops_saved_pct_blocks"] == pytest.approx(by_hand, rel=1e-12)
    steps = [record for record in metrics if "loss" in record]
    ends = [sum(stage.flops.total for stage in plan.stages[: number + 1]) for number in range(3)]
    assert [steps[step - 1]["flops"] for step in (T1, T2, STEPS)] == ends


def test_the_samples_are_printed(shared: Lab, run: Path) -> None:
    assert "sample at step 15: def " in (shared.folder / "err.txt").read_text()


PLAIN = """
import json, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "est_cli":
            raise ImportError("est_cli is blocked")

sys.meta_path.insert(0, Block())
import numpy, torch
from transformers import AutoModelForCausalLM, AutoTokenizer

blocks = torch.from_numpy(numpy.load(sys.argv[1]))
for folder in sys.argv[2:]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    with torch.no_grad():
        loss = model(input_ids=blocks, labels=blocks).loss.item()
    prompt = tokenizer("the quick", return_tensors="pt").input_ids
    made = model.generate(prompt, max_new_tokens=8, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    print(json.dumps([loss, tokenizer.decode(prompt[0]), tokenizer.decode(made[0])]))
"""


def test_plain_transformers_opens_every_folder_and_finds_the_same_loss(
    shared: Lab, run: Path, metrics: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Of the final model, and of checkpoints in stage 1 and 2: what is evaluated and saved is the complete model."""
    folders = {STEPS: run / "model", T1: run / "checkpoints/step-000008", T2: run / "checkpoints/step-000018"}
    np.save(tmp_path / "blocks.npy", _validation_blocks(shared))
    command = [sys.executable, "-c", PLAIN, str(tmp_path / "blocks.npy"), *map(str, folders.values())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    logged = {record["step"]: record["val_loss"] for record in metrics if "val_loss" in record}
    for step, line in zip(folders, done.stdout.splitlines(), strict=True):
        loss, prompt, text = json.loads(line)
        assert loss == pytest.approx(logged[step], abs=1e-4)
        assert prompt == "the quick" and text.startswith(prompt) and len(text) > len(prompt)


def _validation_blocks(shared: Lab) -> np.ndarray:
    remembered, tokens = cached_tokens(shared.folder / "data")
    tokens = tokens[remembered["train_tokens"] :]
    blocks = tokens[: len(tokens) // 32 * 32].reshape(-1, 32).astype(np.int64)
    assert len(blocks) > 4 and len(blocks) % 2, "several batches of 2, the last one smaller"
    return blocks


def test_a_dense_run_saves_nothing(golden: Callable[..., dict[str, Any]]) -> None:
    summary = golden("scheduler=dense", "stage.t1=null", "stage.t2=null")["summary"]
    assert summary["flops"] == summary["flops_dense"] and summary["transitions"] == []
    assert summary["flops_saved_pct_blocks"] == summary["flops_saved_pct_total"] == 0


def test_log_every_thins_the_records_but_keeps_the_ends_of_stages(lab: Lab) -> None:
    assert lab.tiny("x", "train.log_every=7", "train.eval_every=0", "train.checkpoint_every=0").code == 0
    assert [record["step"] for record in train_records(lab.at("x"))] == [7, T1, T1 + 1, 14, T2, T2 + 1, 21, 28, STEPS]
    validations = [record["step"] for record in read_metrics(lab.at("x") / "metrics.jsonl") if "val_loss" in record]
    assert validations == [STEPS]
    assert {path.name for path in (lab.at("x") / "checkpoints").iterdir()} == {
        f"step-{step:06d}" for step in (T1, T2, DECAY, STEPS)
    }
