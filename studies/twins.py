"""Study f: are the minima of EST flatter, and does its model do better on GLUE? The twins of study a, looked at.

    EST_DATA=DIR OMP_NUM_THREADS=1 python studies/twins.py        # what is missing, half an hour on one core
    python studies/twins.py --page                                # only docs/results/study-f.md

For each pair of models that studies/study.py a left in outputs/study/: the trace of the Hessian on held-out text
(the same probes for all), and of the larger ones the dev scores of some tasks of GLUE after fine-tuning with as many
examples; the seed of the fine-tuning is that of the model. A result is a JSON in docs/results/data/f/ and is not made
again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from shared_data import shared
from study import DATA, FOLDER, Cell, kept_of

from est_cli.reporting.student_t import mean_interval
from est_cli.storage.strict_json import read_file
from studies import STUDIES

EST = "three_stage"
ARMS = ("dense", EST)
SHORT = "dense, equal FLOPs"
"""Traces only: models that are less trained have smaller traces, so EST's is also held against one as cheap."""
TRACE_SIZES, GLUE_SIZE = ("s", "l"), "s"
TASKS = ("cola", "sst2", "mrpc", "qnli")
TRACE = ("analyze.tokens=8192", "analyze.seq_len=128", "analyze.batch=16", "analyze.probes=10")
GLUE = ("eval.max_train_examples=2000", "eval.lr=2e-3", "eval.epochs=3", "tracking.wandb=off")
PAGE, READING = Path("docs/results/study-f.md"), Path(__file__).parent / "readings" / "f.md"
GROUPS = ("attention", "mlp", "embeddings", "norms")

Made = dict[str, Any]
"""What a result file holds."""


def seeds() -> tuple[int, ...]:
    return STUDIES["a"].seeds


def result_file(kind: str, size: str, arm: str, seed: int) -> Path:
    return DATA / "f" / f"{kind}-{Cell('f', size, arm, seed).name.removeprefix('f-')}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true")
    if not parser.parse_args().page:
        for cell in (Cell("a", size, arm, seed) for size in TRACE_SIZES for seed in seeds() for arm in (*ARMS, SHORT)):
            keep("trace", cell, trace)
        for cell in (Cell("a", GLUE_SIZE, arm, seed) for seed in seeds() for arm in ARMS):
            keep("glue", cell, glue)
    PAGE.write_text(page())


def keep(kind: str, cell: Cell, make: Callable[[Cell], Made]) -> None:
    file = result_file(kind, cell.size, cell.arm, cell.seed)
    if file.exists() or not kept_of(cell).is_dir():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    made = {"size": cell.size, "arm": cell.arm, "seed": cell.seed, **make(cell)}
    file.write_text(json.dumps(made, indent=1) + "\n")


def trace(cell: Cell) -> Made:
    corpus, name = shared("corpus"), f"{FOLDER}-trace-{cell.name}"
    text = ["dataset=text", f"dataset.files=[{corpus}/train-00000.jsonl.xz]"]
    text.append(f"dataset.validation_files=[{corpus}/validation.jsonl.xz]")
    command("analyze", f"checkpoint={kept_of(cell)}", f"run_name={name}", *text, *TRACE)
    found = read_file(Path("outputs") / name / "analysis.json")
    of = ("loss", "trace", "without_embeddings", "groups", "weights")
    return {"commit": found["git_commit"], **{key: found["result"][key] for key in of}}


def glue(cell: Cell) -> Made:
    where = (f"checkpoint={kept_of(cell)}", f"run_name={FOLDER}-glue-{cell.name}", f"task={','.join(TASKS)}")
    command("eval", *where, f"eval.data_dir={shared('glue')}", f"eval.seeds=[{cell.seed}]", *GLUE)
    found = read_file(Path("outputs") / f"{FOLDER}-glue-{cell.name}" / "results.json")
    return {"scores": {record["task"]: 100 * record["score"] for record in found["records"]}}


def command(door: str, *overrides: str) -> None:
    subprocess.run([sys.executable, "-m", f"est_cli.{door}", *overrides], check=True)


def page() -> str:
    lines = ["# Study f: are the minima of EST flatter, and does its model do better on GLUE?", "", "```sh"]
    lines += ["EST_DATA=DIR OMP_NUM_THREADS=1 python studies/study.py a", "EST_DATA=DIR python studies/twins.py"]
    lines += [
        "```",
        "",
        "The models are those of [study a](study-a.md). Differences are three_stage minus another, paired",
    ]
    lines += ["by seed, with 95 % intervals (Student's t). Every number is in [data/f](data/f).", ""]
    for size in TRACE_SIZES:
        lines += _trace_table(size)
    lines += _glue_table()
    if READING.is_file():
        lines += ["## What this says, and what not", "", READING.read_text().strip(), ""]
    return "\n".join(lines)


def _found(kind: str, size: str, arms: Sequence[str]) -> dict[str, list[Made]]:
    """By arm, of the seeds that all arms have."""
    complete = [s for s in seeds() if all(result_file(kind, size, arm, s).exists() for arm in arms)]
    return {arm: [read_file(result_file(kind, size, arm, s)) for s in complete] for arm in arms}


def _trace_table(size: str) -> Iterator[str]:
    found = _found("trace", size, (*ARMS, SHORT))
    n = len(found["dense"])
    if not n:
        return
    yield from (f"## Trace of the Hessian, size {size} (n = {n}, {TRACE[-1].split('=')[1]} probes each)", "")
    yield from _header("weights", found)
    yield _row("all", found, lambda one: one["trace"]["mean"])
    yield _row("without embeddings", found, lambda one: one["without_embeddings"]["mean"])
    for group in GROUPS:
        yield _row(group, found, lambda one, group=group: one["groups"][group]["mean"])  # type: ignore[misc]
    yield _row("loss on this text", found, lambda one: one["loss"])
    yield ""


def _glue_table() -> Iterator[str]:
    found = _found("glue", GLUE_SIZE, ARMS)
    n = len(found["dense"])
    if not n:
        return
    yield from (f"## GLUE, size {GLUE_SIZE} (dev scores x 100, n = {n} models each)", "")
    yield from _header("task", found)
    for task in TASKS:
        yield _row(task, found, lambda one, task=task: one["scores"][task])  # type: ignore[misc]
    yield _row("average", found, lambda one: fmean(one["scores"].values()))
    yield ""


def _header(what: str, found: dict[str, list[Made]]) -> Iterator[str]:
    against = [arm for arm in found if arm != EST]
    yield f"| {what} | {' | '.join(found)} | {' | '.join(f'minus {arm}' for arm in against)} |"
    yield "|---" * (1 + len(found) + len(against)) + "|"


def _row(name: str, found: dict[str, list[Made]], value: Callable[[Made], float]) -> str:
    values = {arm: [value(one) for one in of] for arm, of in found.items()}
    gaps = [_gap(values[EST], others) for arm, others in values.items() if arm != EST]
    return f"| {name} | {' | '.join([*map(_mean, values.values()), *gaps])} |"


def _gap(values: Sequence[float], others: Sequence[float]) -> str:
    gaps = [one - other for one, other in zip(values, others, strict=True)]
    interval = mean_interval(gaps)
    shown = "" if interval is None else f" ({interval[0]:+.4g} .. {interval[1]:+.4g})"
    return f"{fmean(gaps):+.4g}{shown}, {100 * fmean(gaps) / fmean(others):+.1f} %"


def _mean(values: Sequence[float]) -> str:
    return f"{fmean(values):.4g}" + (f" +- {stdev(values):.2g}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
