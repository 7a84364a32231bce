"""Made-up run folders whose numbers can be worked out by hand.

A dense step costs 100 FLOPs (total), 80 of them in the blocks, and one second. A three-stage run has the first half of
its steps in stage 1, at 40 FLOPs (total), a quarter of the blocks' and half a second, and the rest at the full stage.
The validation loss falls by 0.01 a step from 10, plus `shift`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from est_cli.config import RunConfig
from est_cli.config.schema import plain
from est_cli.reporting.groups import Group, group_runs
from est_cli.reporting.runs import read_run

TOKENS = 4096


def make_run(
    folder: Path,
    scheduler: str = "three_stage",
    seed: int = 0,
    steps: int = 100,
    shift: float = 0.0,
    done: int | None = None,
    eval_every: int = 10,
    log_every: int = 1,
    summary: dict[str, Any] | None = None,
    state: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """A run of which `done` steps are done (None: all, with its summary). Settings: dots of a key as `__`."""
    folder.mkdir(parents=True)
    write_config(folder, scheduler, seed, steps, settings)
    lines = records(scheduler, steps, shift, eval_every, log_every)
    lines = [line for line in lines if done is None or line["step"] <= done]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if done is None:
        write_summary(folder, lines, summary or {})
    if state is not None:
        checkpoint = folder / "checkpoints" / f"step-{state['step']:06d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "state.json").write_text(json.dumps(state))
    return folder


def write_config(folder: Path, scheduler: str, seed: int, steps: int, settings: dict[str, Any]) -> None:
    config = OmegaConf.create(plain(RunConfig()))
    stages = {"stage__t1": 0.25, "stage__t2": 0.5, "stage__p_h": 0.5} if scheduler == "three_stage" else {}
    values = {"scheduler__name": scheduler, "seed": seed, "run_name": folder.name, "train__max_steps": steps}
    for key, value in (values | stages | settings).items():
        OmegaConf.update(config, key.replace("__", "."), value)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))


def records(scheduler: str, steps: int, shift: float, eval_every: int, log_every: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    half = steps // 2 if scheduler != "dense" else 0
    for step in range(1, steps + 1):
        stage = 1 if step <= half or scheduler == "dense" else 2
        if step == half + 1 and half:
            losses = {"loss_before": 9.0, "loss_after": 8.9}
            lines.append({"event": "stage_transition", "step": step, "from_stage": 1, "to_stage": 2} | losses)
        if step % log_every == 0 or step in (half, half + 1, steps):
            lines.append(train_record(step, stage, half, shift))
        if step % eval_every == 0 or step == steps:
            lines.append({"step": step, "tokens": step * TOKENS, "val_loss": val_loss(step, shift), "perplexity": 1.0})
    return lines


def val_loss(step: float, shift: float = 0.0) -> float:
    return 10 - 0.01 * step + shift


def train_record(step: int, stage: int, half: int, shift: float) -> dict[str, Any]:
    small = min(step, half)
    rate = 0.5 if step <= half else 1.0
    total, dense_steps = 40 * small + 100 * (step - small), 0.25 * small + (step - small)
    return {
        "step": step, "tokens": step * TOKENS, "stage": stage, "p_h": rate, "p_m": rate, "p_l": rate,
        "loss": 10.5 - 0.01 * step + shift, "lr": 1e-3, "grad_norm": 1.0, "flops": total, "flops_dense": 100 * step,
        "flops_saved_pct_blocks": 100 * (1 - dense_steps / step), "flops_saved_pct_total": 100 - total / step,
        "tokens_per_s": 1.0, "step_s": rate, "mfu": None, "mem_gb": 1.0,
    }  # fmt: skip


def write_summary(folder: Path, lines: Sequence[dict[str, Any]], more: dict[str, Any]) -> None:
    last = [line for line in lines if "loss" in line][-1]
    told = {key: last[key] for key in ("tokens", "flops", "flops_dense")}
    told |= {key: last[key] for key in ("flops_saved_pct_blocks", "flops_saved_pct_total")}
    told |= {
        "steps": last["step"],
        "final_val_loss": [line for line in lines if "val_loss" in line][-1]["val_loss"],
        "time_s": 1000.0,
        "time_saved_pct": 25.0,
        "transitions": [],
        "git_commit": "a" * 40,
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
    }
    (folder / "summary.json").write_text(json.dumps(told | more))


def groups_in(root: Path) -> dict[str, Group]:
    """The groups of all runs in `root`, by their labels."""
    folders = sorted(path.parent for path in root.rglob("config.yaml"))
    return {group.label: group for group in group_runs(map(read_run, folders))}


def make_seeds(root: Path, scheduler: str, shifts: Sequence[float], steps: int = 100, **settings: Any) -> None:
    """One run for each shift, with the seeds 0, 1, ..."""
    for seed, shift in enumerate(shifts):
        name = f"{scheduler}-{steps}-{seed}"
        make_run(root / name, scheduler, seed, steps, shift, **settings)
