"""Mamba trained with EST and in the ordinary way, at equal steps and at equal FLOPs, three seeds each.

    EST_DATA=DIR python studies/mamba.py            # nine runs, half an hour on one core
    EST_DATA=DIR python studies/mamba.py --report   # only the table, JSON and plot of runs that are there

$EST_DATA/corpus holds mini.jsonl.xz (3.5 MB of English text, one document a line) and validation.jsonl.xz. Runs go to
outputs/mamba-*, figures and numbers to docs/results/, the table to stdout.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from shared_data import shared

from est_cli.config import ModelConfig
from est_cli.est import SamplingOptions, SamplingRates, planned_ledger, three_stage
from est_cli.families import spec_of
from est_cli.models import hf_config
from est_cli.storage.strict_json import read_file
from est_cli.tracking import read_metrics

STEPS, SEQ_LEN, SEQUENCES = 300, 128, 16
SEEDS = (0, 1, 2)
VOCAB = 1024
"""Small, so that the LM head has about the share of the FLOPs that it has in mamba_130m."""
RESULTS = Path("docs/results")
COLOURS = {"three_stage": "#0072B2", "dense": "#D55E00", "dense, equal FLOPs": "#009E73"}


def equal_steps() -> int:
    """Steps of dense training that use as many FLOPs (total) as the run of EST."""
    model = ModelConfig("mamba_tiny", "mamba", vocab_size=VOCAB, hidden_size=128, num_layers=4)
    scheduler = three_stage(STEPS, 2 / 15, 7 / 15, SamplingRates(0.5, 0.5, 0.5))
    ledger = planned_ledger(spec_of(hf_config(model)), scheduler, SamplingOptions(), SEQUENCES, SEQ_LEN)
    return round(STEPS * ledger.used.total / ledger.dense.total)


def arms() -> dict[str, tuple[str, int]]:
    """Name -> scheduler and steps."""
    return {
        "three_stage": ("three_stage", STEPS),
        "dense": ("dense", STEPS),
        "dense, equal FLOPs": ("dense", equal_steps()),
    }


def run_of(arm: str, seed: int) -> Path:
    scheduler, steps = arms()[arm]
    return Path("outputs") / f"mamba-{scheduler}-{steps}-{seed}"


def train(arm: str, seed: int, corpus: str) -> None:
    scheduler, steps = arms()[arm]
    overrides = [
        *("model=mamba_tiny", f"model.vocab_size={VOCAB}", "dataset=text", "tracking.wandb=off"),
        *(f"dataset.files=[{corpus}/mini.jsonl.xz]", f"dataset.validation_files=[{corpus}/validation.jsonl.xz]"),
        *(f"train.seq_len={SEQ_LEN}", f"train.tokens_per_step={SEQUENCES * SEQ_LEN}", "train.eval_tokens=65536"),
        *(f"scheduler={scheduler}", f"train.max_steps={steps}", f"seed={seed}", "train.eval_every=50"),
        *(f"run_name={run_of(arm, seed).name}", "resume=auto"),
    ]
    subprocess.run([sys.executable, "-m", "est_cli.train", *overrides], check=True)


def report() -> None:
    summaries = {arm: [read_file(run_of(arm, seed) / "summary.json") for seed in SEEDS] for arm in arms()}
    lines = [*_table(summaries)]
    print("\n".join(lines))
    RESULTS.mkdir(parents=True, exist_ok=True)
    kept = ("final_val_loss", "flops", "flops_dense", "flops_saved_pct_blocks", "flops_saved_pct_total")
    told = {
        arm: {"steps": arms()[arm][1], "runs": [{key: summary[key] for key in kept} for summary in of]}
        for arm, of in summaries.items()
    }
    (RESULTS / "mamba.json").write_text(json.dumps({"seeds": SEEDS, "arms": told}, indent=1) + "\n")
    _plot({arm: [read_metrics(run_of(arm, seed) / "metrics.jsonl") for seed in SEEDS] for arm in arms()})


def _table(summaries: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    yield "| run | steps | final validation loss | by seed | FLOPs total | saved blocks | saved total |"
    yield "|---|---|---|---|---|---|---|"
    for arm, of in summaries.items():
        losses = [summary["final_val_loss"] for summary in of]
        yield (
            f"| {arm} | {arms()[arm][1]} | {_spread(losses)} | {', '.join(f'{loss:.4f}' for loss in losses)} | "
            f"{of[0]['flops']:.3e} | {of[0]['flops_saved_pct_blocks']:.2f} % | {of[0]['flops_saved_pct_total']:.2f} % |"
        )
    yield ""
    yield "| three_stage minus | mean and deviation over seeds |"
    yield "|---|---|"
    for arm in list(summaries)[1:]:
        pairs = zip(summaries["three_stage"], summaries[arm], strict=True)
        yield f"| {arm} | {_spread([est['final_val_loss'] - rival['final_val_loss'] for est, rival in pairs], '+')} |"


def _spread(values: list[float], sign: str = "") -> str:
    return f"{mean(values):{sign}.4f} +- {stdev(values):.4f}"


def _plot(metrics: dict[str, list[list[dict[str, Any]]]]) -> None:
    """Validation loss of the complete model at equal steps and at equal FLOPs: every seed thin, the mean thick."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for arm, runs in metrics.items():
        flops = {record["step"]: record["flops"] for record in runs[0] if "flops" in record}
        curves = [{record["step"]: record["val_loss"] for record in run if "val_loss" in record} for run in runs]
        steps = sorted(curves[0])
        for axis, x in zip(axes, (steps, [flops[step] for step in steps]), strict=True):
            for curve in curves:
                axis.plot(x, [curve[step] for step in steps], color=COLOURS[arm], linewidth=0.6, alpha=0.6)
            middle = [mean(curve[step] for curve in curves) for step in steps]
            axis.plot(x, middle, "o-", markersize=3, color=COLOURS[arm], label=arm)
    for record in metrics["three_stage"][0]:
        if record.get("event") == "stage_transition":
            axes[0].axvline(record["step"], color="grey", linestyle="--", linewidth=1)
    axes[0].set(xlabel="optimizer step (dashed: stage transitions)", ylabel="validation loss (nats per token)")
    axes[1].set(xlabel="FLOPs used (total)")
    axes[0].legend(frameon=False)
    figure.suptitle(f"Mamba: validation loss of the complete model, {len(SEEDS)} seeds and their mean")
    figure.savefig(RESULTS / "mamba.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true")
    if not parser.parse_args().report:
        corpus = str(shared("corpus"))
        for seed in SEEDS:
            for arm in arms():
                train(arm, seed, corpus)
    report()


if __name__ == "__main__":
    main()
