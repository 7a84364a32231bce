"""How far the losses of subnetworks lie apart, by moment of training and number of heads: docs/results/draws.md.

    EST_DATA=DIR OMP_NUM_THREADS=1 python studies/draws.py         # what is missing, some minutes on one core; the page
    python studies/draws.py --take outputs/study/v-w64-*           # also what finished runs of study.py recorded
    python studies/draws.py --page                                 # only the page and its picture

Runs of its own are those of RUNS, with looks at checkpoints of theirs (est-analyze analysis=draws); they go to
outputs/draws/. Of each run a JSON is kept in docs/results/data/draws/, which is to be committed; a run that has one is
not made again, and one that was stopped continues where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import draws_page
import yaml
from shared_data import shared

from est_cli.reporting.spikes import loss_spikes
from est_cli.storage.strict_json import read_file
from est_cli.tracking import read_metrics

OUTPUTS = Path("outputs/draws")
SPREAD = ("train.spread_draws=16", "train.spread_tokens=1024")
WHOLE = (
    *("experiment=study_w64", "train.max_steps=400", *SPREAD, "train.eval_every=10", "train.eval_tokens=16384"),
    *("train.checkpoint_every=10", "train.keep_every=10"),
)
BEGINNING = (
    *("experiment=study_w64", "train.max_steps=50", *SPREAD, "train.eval_every=2", "train.eval_tokens=2048"),
    *("scheduler=constant", "optim.schedule=constant", "optim.warmup=0.16"),
)
"""The first steps of the same: its rates of stage 1 and its eight steps of warm-up."""
SHAPES = {
    **{f"heads-{heads}": (f"model.num_heads={heads}",) for heads in (2, 4, 8)},
    "width-32": ("model.hidden_size=32", "model.num_heads=2"),
}
RUNS = {
    **{name: (*WHOLE, *shape, "scheduler=three_stage", "seed=0") for name, shape in SHAPES.items()},
    **{
        f"{name}-beginning-{seed}": (*BEGINNING, *shape, f"seed={seed}")
        for seed, (name, shape) in product(range(3), SHAPES.items())
    },
    **{f"{name}-dense": (*WHOLE, *shape, "scheduler=dense", "seed=0") for name, shape in SHAPES.items()},
}
LOOKED_AT = {"heads-2": (30, 100), "heads-4": (30,)}
"""The steps of these runs at which est-analyze looks: where draws were fragile, and on the plateau behind it."""
KEPT = ("final_val_loss", "steps", "tokens", "diagnoses", "hardware", "git_commit", "versions")


def train(name: str, corpus: str) -> None:
    place = ("tracking.wandb=off", "sweep=draws", f"run_name={name}", "resume=auto")
    subprocess.run([sys.executable, "-m", "est_cli.train", *RUNS[name], *text_of(corpus), *place], check=True)


def text_of(corpus: str) -> tuple[str, ...]:
    validation = f"dataset.validation_files=[{corpus}/validation.jsonl.xz]"
    return ("dataset=text", f"dataset.files=[{corpus}/train-00000.jsonl.xz]", validation)


def kept(folder: Path) -> dict[str, Any]:
    """What the page needs of a finished run: who it is, its last loss, and each evaluation with its draws."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    summary = read_file(folder / "summary.json")
    records = list(read_metrics(folder / "metrics.jsonl"))
    stages = {record["step"]: record["stage"] for record in records if "loss" in record}
    keys = ("step", "val_loss", "draw_spread", "draw_range")
    return {
        "run": folder.name,
        "scheduler": config["scheduler"]["name"],
        "seed": config["seed"],
        "lr": config["optim"]["lr"],
        "width": config["model"]["hidden_size"],
        "heads": config["model"]["num_heads"],
        "spread_draws": config["train"]["spread_draws"],
        "spread_tokens": config["train"]["spread_tokens"],
        "summary": {key: summary[key] for key in KEPT},
        "spikes": [(spike.step, spike.loss, spike.usual) for spike in loss_spikes(records)],
        "evaluations": [
            {"stage": stages[record["step"]], **{key: record.get(key) for key in keys}}
            for record in records
            if "val_loss" in record
        ],
    }


def look(run: str, step: int, corpus: str) -> dict[str, Any]:
    """The draws of a checkpoint, as est-analyze tells them."""
    name = f"{run}-step-{step}"
    folder = OUTPUTS / name
    if not (folder / "analysis.json").is_file():
        checkpoint = OUTPUTS / run / "checkpoints" / f"step-{step:06d}"
        asked = ("analysis=draws", f"checkpoint={checkpoint}", "analyze.seq_len=128")
        place = (f"paths.outputs={OUTPUTS}", f"run_name={name}")
        subprocess.run([sys.executable, "-m", "est_cli.analyze", *asked, *text_of(corpus), *place], check=True)
    told = read_file(folder / "analysis.json")
    keys = ("distributions", "units", "pairs", "loss", "draws")
    return {"run": run, "step": step, **{key: told["result"][key] for key in keys}}


def keep(name: str, content: dict[str, Any]) -> None:
    file = draws_page.DATA / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n")


def take(folders: Sequence[Path]) -> None:
    """Keep what finished runs recorded; those that still train are left out."""
    for folder in folders:
        if (folder / "summary.json").is_file():
            keep(folder.name, kept(folder))
        else:
            print(f"{folder}: not finished, left out")


def make_missing() -> None:
    corpus = str(shared("corpus"))
    for name in RUNS:
        if not (draws_page.DATA / f"{name}.json").is_file():
            train(name, corpus)
            keep(name, kept(OUTPUTS / name))
    for run, steps in LOOKED_AT.items():
        for step in steps:
            name = f"{run}-step-{step}"
            if not (draws_page.DATA / f"{name}.json").is_file():
                keep(name, look(run, step, corpus))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", type=Path, nargs="+", default=[], metavar="FOLDER")
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args(argv)
    take(arguments.take)
    if not arguments.page and not arguments.take:
        make_missing()
    draws_page.write()


if __name__ == "__main__":
    main()
