"""The first runs on real text: GPT-2 and Llama of 5-10 M parameters, three_stage and dense, the same seed and data.

    EST_DATA=DIR python studies/first_run.py            # four runs, about half an hour on two cores
    EST_DATA=DIR python studies/first_run.py --report   # only the tables and plots of runs that are there

$EST_DATA/corpus holds train-*.jsonl.xz (170 MB of English Wikipedia articles and public-domain books, one document a
line) and validation.jsonl.xz. Runs go to outputs/first-run-*, figures to docs/results/, the tables to stdout.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from shared_data import shared

from est_cli.reporting.stages import stage_summaries
from est_cli.storage.strict_json import read_file
from est_cli.tracking import read_metrics

SIZES = ["model.hidden_size=256", "model.num_layers=6", "model.num_heads=8"]
FAMILIES = {
    "gpt2": ["model=gpt2_tiny", *SIZES],
    "llama": ["model=llama_tiny", *SIZES, "model.num_kv_heads=4", "model.mlp_size=688"],
}
SCHEDULERS = ("three_stage", "dense")
COMMON = ["dataset=text", "train.max_steps=300", "train.eval_tokens=65536", "train.eval_every=20", "tracking.wandb=off"]
RESULTS = Path("docs/results")
COLOURS = {"three_stage": "#0072B2", "dense": "#D55E00"}


def run_of(family: str, scheduler: str) -> Path:
    return Path("outputs") / f"first-run-{family}-{scheduler}"


def overrides(family: str, scheduler: str, corpus: str) -> list[str]:
    files = [f"dataset.files=[{corpus}/train-*.jsonl.xz]", f"dataset.validation_files=[{corpus}/validation.jsonl.xz]"]
    name = run_of(family, scheduler).name
    return [*FAMILIES[family], f"scheduler={scheduler}", *COMMON, *files, f"run_name={name}", "resume=auto"]


def train(family: str, scheduler: str, corpus: str) -> None:
    subprocess.run([sys.executable, "-m", "est_cli.train", *overrides(family, scheduler, corpus)], check=True)


def report() -> None:
    for family in FAMILIES:
        runs = {scheduler: run_of(family, scheduler) for scheduler in SCHEDULERS}
        metrics = {scheduler: read_metrics(run / "metrics.jsonl") for scheduler, run in runs.items()}
        summaries = {scheduler: read_file(run / "summary.json") for scheduler, run in runs.items()}
        print(f"\n### {family}\n")
        _print_runs(summaries)
        _print_stages(metrics["three_stage"], metrics["dense"])
        _plot(family, metrics)


def _print_runs(summaries: dict[str, dict[str, Any]]) -> None:
    print(
        "| run | final validation loss | FLOPs total | saved blocks | saved total | time saved (step time) | time_s |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, summary in summaries.items():
        print(
            f"| {name} | {summary['final_val_loss']:.4f} | {summary['flops']:.3e} | "
            f"{summary['flops_saved_pct_blocks']:.2f} % | {summary['flops_saved_pct_total']:.2f} % | "
            f"{summary['time_saved_pct']:.1f} % | {summary['time_s']:.0f} |"
        )


def _print_stages(three_stage: list[dict[str, Any]], dense: list[dict[str, Any]]) -> None:
    transitions = {r["from_stage"]: r for r in three_stage if r.get("event") == "stage_transition"}
    print("\n| stage | steps | median step | loss at its end | loss before -> after the next transition |")
    print("|---|---|---|---|---|")
    for stage in stage_summaries(three_stage):
        change = transitions.get(stage.number)
        told = f"{change['loss_before']:.4f} -> {change['loss_after']:.4f}" if change else ""
        print(f"| {stage.number} | {stage.steps} | {1e3 * stage.median_step_s:.0f} ms | {stage.loss:.4f} | {told} |")
    (only,) = stage_summaries(dense)
    print(f"| dense | {only.steps} | {1e3 * only.median_step_s:.0f} ms | {only.loss:.4f} | |")


def _plot(family: str, metrics: dict[str, list[dict[str, Any]]]) -> None:
    """Validation loss of the complete model at equal steps and at equal FLOPs."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for name, records in metrics.items():
        points = [r for r in records if "val_loss" in r]
        flops = {r["step"]: r["flops"] for r in records if "flops" in r}
        losses = [r["val_loss"] for r in points]
        axes[0].plot([r["step"] for r in points], losses, "o-", markersize=3, color=COLOURS[name], label=name)
        axes[1].plot([flops[r["step"]] for r in points], losses, "o-", markersize=3, color=COLOURS[name], label=name)
    for record in metrics["three_stage"]:
        if record.get("event") == "stage_transition":
            axes[0].axvline(record["step"], color="grey", linestyle="--", linewidth=1)
    axes[0].set(xlabel="optimizer step (dashed: stage transitions)", ylabel="validation loss (nats per token)")
    axes[1].set(xlabel="FLOPs used (total)")
    axes[0].legend(frameon=False)
    figure.suptitle(f"{family}: validation loss of the complete model")
    RESULTS.mkdir(parents=True, exist_ok=True)
    figure.savefig(RESULTS / f"first-run-{family}.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true")
    if not parser.parse_args().report:
        corpus = str(shared("corpus"))
        for family in FAMILIES:
            for scheduler in SCHEDULERS:
                train(family, scheduler, corpus)
    report()


if __name__ == "__main__":
    main()
