"""What dataset.tokenize=ahead costs a step, and how much sooner the first one comes.

    python benchmarks/tokenise_ahead.py                     # ten minutes on two cores
    python benchmarks/tokenise_ahead.py --megabytes 300 --rounds 100

The text is made of random words, in files of 33 MB (a part each), and its tokenizer is there already.

1. Time from the start of est-train to the record of its first step, with `first` and with `ahead`, each in an empty
   cache.
2. Steps of two runs in one process, in turn, in rounds of one order and its reverse: all text of the one is there, that
   of the other is tokenised ahead of it. Reported are medians of the speed inside a round, with a 95 % bootstrap
   interval: while the processes tokenise (wall time), and when those are far ahead and paused (also CPU time of this
   process, which other work on the machine disturbs less). The gate is for the latter.

Exits with 1 if the gate fails.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from measure import environment, paired_ratio

from est_cli.config import RunConfig
from est_cli.config.compose import composed
from est_cli.config.resolve import check
from est_cli.data.text import units
from est_cli.data.tokens import ahead
from est_cli.training.build import build
from est_cli.training.run import Run
from est_cli.training.start import Start
from est_cli.training.step import train_step

Seconds = tuple[float, float]
"""Of wall time, and of CPU time of this process."""
Ratio = tuple[float, float, float]
"""A median and the bounds of its interval."""
GATE = 0.98
"""Of the speed of a step without it."""
FILE_BYTES = 33_000_000
PART_BYTES = 4_000_000
"""For the steps: small ones, so that the processes are soon far ahead."""
SETTINGS = (
    *("dataset=text", "dataset.files=[*.jsonl]", "tracking.wandb=off", "scheduler=dense"),
    *("train.log_every=1", "train.eval_every=0", "train.max_steps=100000"),
)


def write_text(folder: Path, megabytes: int) -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(20_000)]
    for number in range(max(2, megabytes * 1_000_000 // FILE_BYTES)):
        with (folder / f"{number:03d}.jsonl").open("w") as file:
            while file.tell() < FILE_BYTES:
                file.writelines(f'{{"text": "{" ".join(rng.choices(words, k=300))}"}}\n' for _ in range(500))


def first_step_s(folder: Path, tokenize: str, tokenizer: str) -> float:
    """From the start of the command to the record of its first step."""
    name = f"start-{tokenize}"
    settings = [*SETTINGS, f"dataset.tokenize={tokenize}", f"run_name={name}", f"tokenizer={tokenizer}"]
    environ = {**os.environ, "EST_DATA_CACHE": str(folder / name)}
    began, metrics = time.monotonic(), folder / "outputs" / name / "metrics.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "est_cli.train", *settings], cwd=folder, env=environ, stdout=subprocess.DEVNULL
    )
    try:
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None:
                raise SystemExit(f"est-train ended with code {process.returncode}")
            time.sleep(0.02)
        return time.monotonic() - began
    finally:
        process.kill()
        process.wait()


@contextmanager
def run_of(cache: Path, name: str, tokenize: str, tokenizer: str) -> Iterator[Run]:
    settings = [*SETTINGS, f"dataset.tokenize={tokenize}", f"run_name={name}", f"tokenizer={tokenizer}"]
    config = check(composed("train", RunConfig, [*settings, f"paths.data={cache}"], None).config).config
    with build(Start.of(config, None)) as run:
        run.progress.close()
        yield run


def stepper(run: Run) -> Callable[[], Seconds]:
    """Takes the next step of a run; returns how long it took."""
    step = 0

    def take() -> Seconds:
        nonlocal step
        began, cpu = time.perf_counter(), time.process_time()
        assert run.supply is None or run.supply.has(step), "the run is not meant to wait here"
        train_step(run, step).read()
        step += 1
        return time.perf_counter() - began, time.process_time() - cpu

    return take


def speeds(rounds: int, plain: Callable[[], Seconds], other: Callable[[], Seconds]) -> list[Ratio]:
    """Of `other` in that of `plain`, by wall time and by CPU time."""
    times: list[Seconds] = []
    base: list[Seconds] = []
    for _ in range(rounds):
        first, *both, last = plain(), other(), other(), plain()
        base.append((first[0] + last[0], first[1] + last[1]))
        times.append((both[0][0] + both[1][0], both[0][1] + both[1][1]))
    return [paired_ratio([one[clock] for one in base], [one[clock] for one in times]) for clock in (0, 1)]


def tell(what: str, found: Ratio) -> None:
    print(f"{what}: {100 * found[0]:.1f} % of the speed ({100 * found[1]:.1f} to {100 * found[2]:.1f})", flush=True)


def steps(folder: Path, tokenizer: str, rounds: int) -> float:
    """Measure the steps; returns the speed with processes that are paused."""
    with run_of(folder / "start-first", "plain", "first", tokenizer) as run:
        plain = stepper(run)
        plain()
        units.UNIT_BYTES = PART_BYTES
        with run_of(folder / "far", "other", "ahead", tokenizer) as run:
            other = stepper(run)
            other()
            tell("while processes tokenise, wall time", speeds(rounds // 4, plain, other)[0])
            supply = run.supply
            assert supply is not None
            while supply.ahead.texts[0].look() <= ahead.LEAST_AHEAD:
                time.sleep(0.1)
            time.sleep(2 * ahead.LOOK_S)
            wall, cpu = speeds(rounds, plain, other)
            tell("when they are paused, wall time", wall)
            tell("when they are paused, CPU time", cpu)
            assert supply.ahead.texts[0].look() < len(supply.ahead.texts[0].units), "too little text for a pause"
    return cpu[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=132)
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    print(environment(torch.device("cpu")) | {"clock": "both", "cores": os.cpu_count()})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder, arguments.megabytes)
        os.chdir(folder)
        with run_of(folder / "made", "tokenizer", "ahead", "bpe") as run:
            run.corpus.tokenizer.save_pretrained(folder / "tokenizer")
        tokenizer = str(folder / "tokenizer")
        seconds = {kind: first_step_s(folder, kind, tokenizer) for kind in ("ahead", "first")}
        for kind, found in seconds.items():
            print(f"first step with tokenize={kind}: after {found:.1f} s", flush=True)
        ratio = steps(folder, tokenizer, arguments.rounds)
    print(f"gate: {ratio:.3f}, at least {GATE}")
    return 0 if ratio >= GATE else 1


if __name__ == "__main__":
    sys.exit(main())
