"""All schedulers at equal FLOPs on one small model: final validation loss over seeds, and what they cost.

    EST_DATA=DIR python studies/schedulers.py              # 45 runs, about an hour on one core; may be restarted
    EST_DATA=DIR python studies/schedulers.py --seeds 0    # some of them, beside another process with the others
    EST_DATA=DIR python studies/schedulers.py --report     # only table, JSON and plot of runs that are there
    OMP_NUM_THREADS=1 python studies/schedulers.py --time  # no training: seconds of each run, probed

Every scheduler that saves anything trains for as many steps and saves a quarter of the block FLOPs; the settings are
those that est-plan finds for target_saving=0.25. What saves nothing (dense, early_dropout) trains for as many steps as
use the same FLOPs (total). Beside them stands dense training for all steps. $EST_DATA/corpus holds mini.jsonl.xz and
validation.jsonl.xz. Runs go to outputs/schedulers/, figures and numbers to docs/results/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from shared_data import shared

from est_cli.config import PlanConfig
from est_cli.config.compose import composed
from est_cli.config.schedulers import SCHEDULERS, scheduler_named
from est_cli.planning import Plan, make_plan
from est_cli.reporting.student_t import mean_interval
from est_cli.storage.strict_json import read_file

STEPS, SEEDS, SAVING, ROUNDS = 400, (0, 1, 2), 0.25, 3
MODEL = (
    *("model=gpt2_tiny", "model.num_layers=8", "model.hidden_size=64", "model.vocab_size=1024"),
    *("train.seq_len=128", "train.tokens_per_step=2048", "train.micro_batch=16"),
)
RECIPE = ("optim.lr=2e-3", "train.eval_every=100", "train.eval_tokens=65536", "tracking.wandb=off")
FOLDER, RESULTS = "schedulers", Path("docs/results")
REFERENCE, TWIN = "dense, all steps", "dense"
OWN = {"constant": ("stage.p_h=1", "stage.p_m=1"), "three_stage, ends kept": ("sampling.keep_ends=true",)}
"""What an arm sets beside its scheduler. Constant rates of several kinds of units leave gaps between savings."""


def arms() -> dict[str, tuple[str, ...]]:
    """Name -> the overrides of est-train."""
    found: dict[str, tuple[str, ...]] = {REFERENCE: ("scheduler=dense", f"train.max_steps={STEPS}")}
    saving = planned("scheduler=three_stage", f"train.max_steps={STEPS}", f"target_saving={SAVING}").ledger.used.total
    for name in (*SCHEDULERS, "three_stage, ends kept"):
        chosen = (f"scheduler={name.partition(',')[0]}", *OWN.get(name, ()))
        if name in SCHEDULERS and not scheduler_named(name).saves:
            target: tuple[str, ...] = (f"target_flops={saving}", "target_convention=total")
        else:
            chosen, target = (*chosen, f"train.max_steps={STEPS}"), (f"target_saving={SAVING}",)
        plan = planned(*chosen, *target)
        assert plan.target is not None
        found[str(name)] = (*chosen, *plan.target.settings.split())
    return found


def planned(*overrides: str) -> Plan:
    return make_plan(composed("plan", PlanConfig, [*MODEL, *overrides], None)[0])


def run_of(arm: str, seed: int) -> Path:
    name = arm.replace(", ", "-").replace(" ", "_")
    return Path("outputs") / FOLDER / f"{name}-{seed}"


def train(arm: str, overrides: Sequence[str], seed: int, corpus: str) -> None:
    text = (f"dataset.files=[{corpus}/mini.jsonl.xz]", f"dataset.validation_files=[{corpus}/validation.jsonl.xz]")
    place = (f"sweep={FOLDER}", f"run_name={run_of(arm, seed).name}", "resume=auto", f"seed={seed}")
    command = [sys.executable, "-m", "est_cli.train", *MODEL, *RECIPE, "dataset=text", *text, *overrides, *place]
    subprocess.run(command, check=True)


def report(found: dict[str, tuple[str, ...]]) -> None:
    runs = {arm: [read_file(run_of(arm, seed) / "summary.json") for seed in SEEDS] for arm in found}
    print("\n".join(_table(runs)))
    kept = (
        *("steps", "final_val_loss", "flops", "flops_saved_pct_blocks", "flops_saved_pct_total", "stages"),
        *("transitions", "coverage", "diagnoses", "git_commit"),
    )
    told = {
        arm: {"overrides": found[arm], "runs": [{key: run[key] for key in kept} for run in of]}
        for arm, of in runs.items()
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {"seeds": SEEDS, "steps": STEPS, "model": MODEL, "recipe": RECIPE, "arms": told}
    (RESULTS / "schedulers.json").write_text(json.dumps(content, indent=1) + "\n")
    _plot(runs)


def _table(runs: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Sorted by loss; differences to the twin at equal FLOPs, paired by seed."""
    yield "| run | steps | final validation loss | minus dense at equal FLOPs (95 %) | FLOPs total | blocks saved |"
    yield "|---|---|---|---|---|---|"
    for arm in sorted(runs, key=lambda arm: mean(losses_of(runs[arm]))):
        losses, run = losses_of(runs[arm]), runs[arm][0]
        against = "" if arm == TWIN else difference(losses, losses_of(runs[TWIN]))
        yield (
            f"| {arm} | {run['steps']} | {mean(losses):.4f} +- {stdev(losses):.4f} | {against} | {run['flops']:.3e} | "
            f"{run['flops_saved_pct_blocks']:.2f} % |"
        )


def losses_of(runs: Sequence[dict[str, Any]]) -> list[float]:
    return [run["final_val_loss"] for run in runs]


def difference(losses: Sequence[float], others: Sequence[float]) -> str:
    gaps = [a - b for a, b in zip(losses, others, strict=True)]
    interval = mean_interval(gaps)
    assert interval is not None
    return f"{mean(gaps):+.4f} ({interval[0]:+.4f} .. {interval[1]:+.4f})"


def _plot(runs: dict[str, list[dict[str, Any]]]) -> None:
    """Final losses, every seed a dot, the mean a line; the two dense runs across."""
    order = sorted(runs, key=lambda arm: mean(losses_of(runs[arm])))
    figure = Figure(figsize=(7.0, 0.9 + 0.32 * len(order)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, arm in enumerate(order):
        losses = losses_of(runs[arm])
        axes.plot(losses, [place] * len(losses), "o", color="#0072B2", markersize=4)
        axes.plot([mean(losses)] * 2, [place - 0.3, place + 0.3], color="#D55E00", linewidth=2)
    for arm, style in ((REFERENCE, ":"), (TWIN, "--")):
        axes.axvline(mean(losses_of(runs[arm])), color="#4D4D4D", linestyle=style, linewidth=1)
    axes.set_yticks(range(len(order)), order)
    axes.invert_yaxis()
    axes.set(
        xlabel="final validation loss (nats per token)", title="dashed: dense at equal FLOPs; dotted: dense, all steps"
    )
    figure.savefig(RESULTS / "schedulers.png", dpi=140)


def print_times(found: dict[str, tuple[str, ...]]) -> None:
    """Seconds of all steps of each run: in every round all runs are probed one after the other; medians of rounds."""
    times: dict[str, list[float]] = {arm: [] for arm in found}
    for _ in range(ROUNDS):
        for arm, overrides in found.items():
            plan = planned(*overrides, "probe=true", "seed=0")
            assert plan.time_s is not None
            times[arm].append(plan.time_s)
    print("| run | seconds of its steps | of dense at equal FLOPs | of its FLOPs (total) |")
    print("|---|---|---|---|")
    twin = planned(*found[TWIN]).ledger.used.total
    for arm, overrides in found.items():
        ratio = median(own / dense for own, dense in zip(times[arm], times[TWIN], strict=True))
        flops = planned(*overrides).ledger.used.total / twin
        print(f"| {arm} | {median(times[arm]):.1f} | {ratio:.2f} | {flops:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    arguments = parser.parse_args()
    if arguments.time:
        print_times(arms())
        return
    corpus = "" if arguments.report else str(shared("corpus"))
    found = arms()
    if not arguments.report:
        for seed in arguments.seeds:
            for arm, overrides in found.items():
                train(arm, overrides, seed, corpus)
    if all((run_of(arm, seed) / "summary.json").is_file() for arm in found for seed in SEEDS):
        report(found)


if __name__ == "__main__":
    main()
