"""What a user waits for: --help, a mistyped key, and the first step of a run on cached data.

    python benchmarks/start_up.py            # a minute

Goals: --help and configuration errors under 1 s of CPU time, the first step of gpt2_tiny under 8 s on two cores.
Exits with 1 if one is missed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

EST_TRAIN = [sys.executable, "-m", "est_cli.train"]
RUN = ["train.max_steps=3", "stage.t1=1", "stage.t2=2", "train.eval_every=0", "train.eval_tokens=256"]
GOALS = {"--help": 1.0, "a mistyped key": 1.0, "the first step": 8.0}


def cpu_seconds(*arguments: str) -> float:
    """CPU time of the command and all that it starts."""
    before = os.times()
    subprocess.run([*EST_TRAIN, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def seconds_to_first_step(folder: Path, name: str) -> float:
    """Wall time from the command until the record of the first step is there."""
    record, begin = folder / "outputs" / name / "metrics.jsonl", time.perf_counter()
    process = subprocess.Popen(
        [*EST_TRAIN, *RUN, f"run_name={name}"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not (record.exists() and record.stat().st_size):
        time.sleep(0.01)
    seconds = time.perf_counter() - begin
    if process.wait():
        sys.exit(f"start_up.py: est-train ended with {process.returncode}")
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = range(parser.parse_args().rounds)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        seconds_to_first_step(folder, "caches-the-tokens")
        found = {
            "--help": median(cpu_seconds("--help") for _ in rounds),
            "a mistyped key": median(cpu_seconds("train.max_step=3") for _ in rounds),
            "the first step": median(seconds_to_first_step(folder, f"run-{number}") for number in rounds),
        }
    for what, seconds in found.items():
        print(f"{what:16} {seconds:5.2f} s  (goal < {GOALS[what]:g} s{' of CPU time' if GOALS[what] == 1.0 else ''})")
    return 0 if all(found[what] < goal for what, goal in GOALS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
