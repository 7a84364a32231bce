"""Does a model that was trained with EST do better on GLUE? A three_stage run and its dense twin, fine-tuned alike.

    EST_DATA=DIR python studies/glue_twins.py            # two runs and 48 fine-tunings, half an hour on two cores
    EST_DATA=DIR python studies/glue_twins.py --report   # only the page, from results that are there

Both models are gpt2_tiny, trained on $EST_DATA/corpus with the same seed, data and optimizer; then every task in
$EST_DATA/glue with at most 2,000 training examples and seeds 0, 1, 2. Runs go to outputs/glue-*, the page and the
records to docs/results/. What is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from shared_data import shared

from est_cli.storage.strict_json import read_file

SCHEDULERS = ("three_stage", "dense")
TRAIN = ["model=gpt2_tiny", "dataset=text", "train.max_steps=1000", "train.eval_every=100", "tracking.wandb=off"]
EVAL = ["task=glue", "eval.max_train_examples=2000", "eval.lr=1e-3", "eval.seeds=[0,1,2]", "tracking.wandb=off"]
RESULTS = Path("docs/results")


def run_of(scheduler: str) -> Path:
    return Path("outputs") / f"glue-{scheduler}"


def train(scheduler: str, corpus: str) -> None:
    files = [f"dataset.files=[{corpus}/train-*.jsonl.xz]", f"dataset.validation_files=[{corpus}/validation.jsonl.xz]"]
    name = [f"run_name={run_of(scheduler).name}", "resume=auto"]
    subprocess.run([sys.executable, "-m", "est_cli.train", f"scheduler={scheduler}", *TRAIN, *files, *name], check=True)


def fine_tune(glue: str) -> None:
    model, baseline = (f"{key}={run_of(s)}" for key, s in zip(("checkpoint", "baseline"), SCHEDULERS, strict=True))
    subprocess.run([sys.executable, "-m", "est_cli.eval", model, baseline, f"eval.data_dir={glue}", *EVAL], check=True)


def page() -> str:
    """The numbers of docs/results/glue.md, from the result files."""
    summaries = {scheduler: read_file(run_of(scheduler) / "summary.json") for scheduler in SCHEDULERS}
    folder = run_of(SCHEDULERS[0])
    return "\n".join([_setting(summaries), (folder / "results.md").read_text()])


def _setting(summaries: dict[str, dict[str, Any]]) -> str:
    rows = [
        f"| {name} | {one['final_val_loss']:.4f} | {one['flops']:.3e} | {one['flops_saved_pct_blocks']:.2f} % | "
        f"{one['flops_saved_pct_total']:.2f} % |"
        for name, one in summaries.items()
    ]
    made = ", ".join(
        f"{name} {number}"
        for name, number in summaries["dense"]["versions"].items()
        if name in ("torch", "transformers")
    )
    return "\n".join(
        [
            f"Commit {summaries['dense']['git_commit'][:8]}, {made}.",
            "",
            "| pre-training | validation loss | FLOPs total | saved blocks | saved total |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true")
    if not parser.parse_args().report:
        corpus, tasks = str(shared("corpus")), str(shared("glue"))
        for scheduler in SCHEDULERS:
            train(scheduler, corpus)
        fine_tune(tasks)
    print(page())
    records = read_file(run_of(SCHEDULERS[0]) / "results.json")
    records["settings"]["data_dir"] = "$EST_DATA/glue"  # no path of a machine
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "glue-twins.json").write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
