"""A whole three_stage run against its dense twin, on the clock: is the time saved what the FLOPs promise?

    python benchmarks/whole_run.py                      # CPU: GPT-2 d512 L8 V8k, about 6 minutes on two quiet cores
    python benchmarks/whole_run.py --gpu                # GPT-2 base in bf16
    python benchmarks/whole_run.py --steps 60 --json whole-run.json

Both are started as a user starts them, with est-train, on the same data and seed, in the order three_stage, dense,
dense, three_stage, so that a machine that slows down or speeds up hits both alike. The time of a run is the sum of its
steps' seconds, as metrics.jsonl has them: everything in a step counts, evaluation and saving do not. The first step
of each run is left out of both (its memory is fresh), and on a GPU the first step of each stage, which may compile.

Exits with 1 if less than 0.9 of the share of the FLOPs (convention `total`) is saved in time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measure import environment
from rich.console import Console

from est_cli.tracking import read_metrics

GOAL = 0.9
ORDER = ("three_stage", "dense", "dense", "three_stage")
COMMON = ["train.eval_every=0", "train.eval_tokens=2048", "train.checkpoint_every=0", "tracking.wandb=off"]
CPU = [
    "model.hidden_size=512", "model.num_layers=8", "model.num_heads=8", "model.vocab_size=8192",
    "train.tokens_per_step=2048", "train.micro_batch=8",
]  # fmt: skip
GPU = [
    "model=gpt2",
    "train.seq_len=1024",
    "train.tokens_per_step=131072",
    "train.micro_batch=32",
    "train.precision=bf16",
]


def train(scheduler: str, name: str, arguments: argparse.Namespace) -> Path:
    """Run est-train in the current folder; its run folder."""
    settings = [*(GPU if arguments.gpu else CPU), *COMMON, f"train.max_steps={arguments.steps}", *arguments.settings]
    command = [sys.executable, "-m", "est_cli.train", *settings, f"scheduler={scheduler}", f"run_name={name}"]
    subprocess.run(command, cwd=arguments.folder, check=True)
    return Path(arguments.folder) / "outputs" / name


def step_seconds(run: Path, gpu: bool) -> dict[int, float]:
    """Seconds by step number, without the steps that compile or touch fresh memory."""
    records = [record for record in read_metrics(run / "metrics.jsonl") if "step_s" in record]
    first = {record["step"]: record["stage"] for record in reversed(records)}
    begins = {stage: step for step, stage in first.items()}  # of the reversed steps the last one written is the first
    left_out = set(begins.values()) if gpu else {1}
    return {record["step"]: record["step_s"] for record in records if record["step"] not in left_out}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    seconds: dict[str, list[dict[int, float]]] = {"three_stage": [], "dense": []}
    saved_flops = 0.0
    for number, scheduler in enumerate(ORDER * arguments.rounds):
        run = train(scheduler, f"{scheduler}-{number}", arguments)
        seconds[scheduler].append(step_seconds(run, arguments.gpu))
        if scheduler == "three_stage":
            saved_flops = json.loads((run / "summary.json").read_text())["flops_saved_pct_total"]
    steps = set.intersection(*(set(times) for runs in seconds.values() for times in runs))
    totals = {name: [sum(times[step] for step in steps) for times in runs] for name, runs in seconds.items()}
    saved_time = 100.0 * (1.0 - sum(totals["three_stage"]) / sum(totals["dense"]))
    return {
        "steps": len(steps),
        "seconds": totals,
        "time_saved_pct": saved_time,
        "flops_saved_pct_total": saved_flops,
        "ratio": saved_time / saved_flops,
        "goal": GOAL,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=45, help="optimizer steps of each run (default 45)")
    parser.add_argument("--rounds", type=int, default=1, help="times four runs (default 1)")
    parser.add_argument("--gpu", action="store_true", help="GPT-2 base, bf16, 131,072 tokens a step")
    parser.add_argument("--folder", help="where the runs go (default: a temporary folder)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the figures there")
    parser.add_argument("settings", nargs="*", help="further settings for est-train, KEY=VALUE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        arguments.folder = arguments.folder or temporary
        found = measure(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    console = Console()
    for name, totals in found["seconds"].items():
        console.print(f"{name:12} {', '.join(f'{total:.1f}' for total in totals)} s in {found['steps']} steps")
    console.print(
        f"time saved {found['time_saved_pct']:.2f} % of {found['flops_saved_pct_total']:.2f} % total FLOPs: "
        f"{found['ratio']:.3f} (goal >= {GOAL})"
    )
    if arguments.json is not None:
        about = environment(device) | {"clock": "wall"}
        arguments.json.write_text(json.dumps({"environment": about, **found}, indent=2) + "\n", "utf-8")
    return 0 if found["ratio"] >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
