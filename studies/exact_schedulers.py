"""Every scheduler as a user runs it: stopped and resumed, held against its plan, and on two processes.

    python studies/exact_schedulers.py                  # all of them, a quarter of an hour on two cores
    python studies/exact_schedulers.py pld g_stack

gpt2_tiny on the stdlib corpus for 200 steps. For each scheduler est-train runs once as it is, once stopped by SIGTERM
somewhere in the middle and resumed, and once on two processes. The table says

- whether the losses of all steps and the final weights of the stopped run are those of the other, bit for bit,
- whether the FLOPs of summary.json are those of est-plan, as integers,
- how far the losses of the first 30 steps on two processes are from those on one, at most. Sums are taken in another
  order, and the difference, at first that of rounding, doubles every few steps: what comes later says nothing.

Exits with 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from est_cli.config import PlanConfig
from est_cli.config.compose import composed
from est_cli.config.schedulers import SCHEDULERS
from est_cli.planning import make_plan
from est_cli.storage.strict_json import read_file
from est_cli.tracking import read_metrics

STEPS = 200
SETTINGS = (
    *("model=gpt2_tiny", f"train.max_steps={STEPS}", "train.seq_len=128", "train.tokens_per_step=1024"),
    *("train.micro_batch=4", "train.eval_tokens=4096", "tracking.wandb=off"),
)
FIRST, NEAR = 30, 1e-4
"""Of so many steps, how far losses on two processes may be from those on one (nats)."""
DRAWS_BY_PROCESS = ("early_dropout",)
"""Its masks depend on how a step is cut (docs/schedulers.md), so two processes train something else."""


def run(folder: Path, name: str, *settings: str, stop_after: int | None = None) -> int:
    """est-train in `folder`; with `stop_after` it gets SIGTERM once so many steps are recorded. The exit code."""
    command = [sys.executable, "-m", "est_cli.train", *SETTINGS, *settings, f"run_name={name}", "resume=auto"]
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        metrics = folder / "outputs" / name / "metrics.jsonl"
        while stop_after is not None and process.poll() is None:
            if metrics.is_file() and metrics.read_bytes().count(b'"loss"') >= stop_after:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.05)
        return process.wait()


def losses(folder: Path, name: str) -> list[float]:
    """Of all steps; of one that was written twice the last."""
    records = read_metrics(folder / "outputs" / name / "metrics.jsonl")
    by_step = {record["step"]: record["loss"] for record in records if "loss" in record}
    assert sorted(by_step) == [*range(1, STEPS + 1)], f"{name}: steps are missing"
    return [by_step[step] for step in sorted(by_step)]


def weights(folder: Path, name: str) -> bytes:
    return (folder / "outputs" / name / "model" / "model.safetensors").read_bytes()


def checked(scheduler: str, folder: Path) -> tuple[list[str], bool]:
    """The row of the table, and whether all is well."""
    chosen, stop_after = f"scheduler={scheduler}", random.Random(scheduler).randrange(40, 160)
    codes = [run(folder, "whole", chosen), run(folder, "stopped", chosen, stop_after=stop_after)]
    codes += [
        run(folder, "stopped", chosen),
        run(folder, "two", chosen, "launch.num_processes=2", "train.micro_batch=2"),
    ]
    assert codes == [0, 143, 0, 0], f"{scheduler}: exit codes {codes}"
    one, again, two = (losses(folder, name) for name in ("whole", "stopped", "two"))
    same = one == again and weights(folder, "whole") == weights(folder, "stopped")
    summary = read_file(folder / "outputs" / "whole" / "summary.json")
    plan = make_plan(composed("plan", PlanConfig, [*SETTINGS, chosen], None)[0])
    as_planned = summary["flops"] == plan.ledger.used.total
    apart = max(abs(a - b) for a, b in zip(one[:FIRST], two[:FIRST], strict=True))
    near = apart <= NEAR or scheduler in DRAWS_BY_PROCESS
    transitions = ", ".join(str(step) for step in plan.scheduler.transitions()) or "none"
    row = [scheduler, transitions, str(stop_after), "equal" if same else "DIFFERENT", f"{summary['flops']:,}"]
    return [*row, "equal" if as_planned else "DIFFERENT", f"{apart:.1e}"], same and as_planned and near


def main(names: Sequence[str]) -> int:
    print("| scheduler | new stage after step | stopped after about | resumed | FLOPs (total) | plan | two processes |")
    print("|---|---|---|---|---|---|---|", flush=True)
    well = True
    for name in names:
        with TemporaryDirectory() as folder:
            row, fine = checked(name, Path(folder))
        print(f"| {' | '.join(row)} |", flush=True)
        well = well and fine
    return 0 if well else 1


def asked() -> list[str]:
    """The schedulers that the command line names, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*SCHEDULERS]
    parser.add_argument("names", nargs="*", metavar="SCHEDULER", help=", ".join(known))
    names: list[str] = parser.parse_args().names
    for name in names:
        if name not in known:
            parser.error(f"no scheduler {name}; there are {', '.join(known)}")
    return names or known


if __name__ == "__main__":
    sys.exit(main(asked()))
