"""What it costs a step that W&B and TensorBoard follow the run: CPU time of their threads and processes, and its time.

    OMP_NUM_THREADS=2 python benchmarks/tracking_time.py             # CPU: the size of gpt2_tiny, five minutes

A step is forward, backward and fused AdamW of a small GPT-2, and a record of it is written as est-train does. Blocks of
`--steps` steps whose records W&B (offline, system metrics on) and TensorBoard follow alternate with blocks whose
records nobody follows. What measuring the layers costs is benchmarks/layers_time.py's to say.
Reported are

- cpu: seconds of CPU of the mirrors' threads and of W&B's processes, for a step of a followed block, over those of
  a step on all cores: what of the machine it takes away
- step: the median time of a step of followed blocks / that of the others, with the range of half of all pairs of blocks
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import environment

from est_cli.config import ModelConfig, OptimConfig, TrackingConfig, WandbMode
from est_cli.config.tracking import Also
from est_cli.models import build_model, hf_config
from est_cli.storage.run_dir import RunDir
from est_cli.tracking import Ending, Followed, Job, MetricsFile, Tracker, WandbSink, followers
from est_cli.tracking.records import In, fields_of
from est_cli.training.optim import build_optimizer

SEQ_LEN = 256
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 128), ("layers", 4), ("vocab", 8192), ("tokens", 4096), ("steps", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--wait", type=float, help="instead of a step only so many seconds: on a machine that is busy")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(arguments, Path(folder))
    found |= {"environment": environment(torch.device("cpu"))}
    print(f"cpu   {found['cpu_pct']:.3f} % of the machine, {1e3 * found['cpu_s']:.3f} ms for a step")
    low, high = found["step_ratio_half"]
    print(f"step  {found['step_ratio']:.4f} ({low:.4f} to {high:.4f}) of {1e3 * found['step_s']:.1f} ms")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1))


def measured(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    step = stepper(arguments) if arguments.wait is None else lambda: time.sleep(arguments.wait)
    job = Job("benchmark", "benchmark", folder, None, "train")
    sink = WandbSink(TrackingConfig(wandb=WandbMode.offline), job, {}, RunDir(folder), warn=print)
    followed_run = Followed(folder, "benchmark", "est", 0, {}, folder / "mlflow.db")
    also = followers([Also.tensorboard], followed_run, print)
    trackers = [Tracker(MetricsFile(folder / name), None) for name in ("metrics.jsonl", "unfollowed.jsonl")]
    while not [*folder.glob("wandb/*/*.wandb")]:  # opening it is no cost of a step
        time.sleep(0.1)
    numbers = itertools.count(1)
    times: list[list[float]] = [[], []]
    cpu_s = 0.0
    for _ in range(arguments.rounds):
        for kind, tracker in enumerate(trackers):
            time.sleep(2.0)  # rows of the block before are through
            before, block = cpu_seconds(), []
            for _ in range(arguments.steps):
                begin = time.perf_counter()
                step()
                tracker.train(record_of_step(next(numbers)))
                block.append(time.perf_counter() - begin)
            times[kind].append(median(block))
            time.sleep(2.0)
            cpu_s += (cpu_seconds() - before) if kind == 0 else 0.0
    sink.finish(Ending({}))
    for follower in also:
        follower.close(whole=True)
    followed, others = times
    ratios = sorted(one / other for one, other in zip(followed, others, strict=True))
    cpu_s /= arguments.rounds * arguments.steps
    quarter = len(ratios) // 4
    return {
        "cpu_s": cpu_s,
        "cpu_pct": 100 * cpu_s / median(others) / (os.cpu_count() or 1),
        "step_s": median(others),
        "step_ratio": median(ratios),
        "step_ratio_half": [ratios[quarter], ratios[-1 - quarter]],
    }


def record_of_step(step: int) -> dict[str, Any]:
    """As many numbers as a step of est-train records, of the same size."""
    keys = [field.name for field in fields_of(In.step) if field.name not in ("step", "tokens", "stage")]
    return {"step": step, "tokens": 4096 * step, "stage": 1} | {key: 1.0 / (step + n) for n, key in enumerate(keys)}


def cpu_seconds() -> float:
    """Of the mirrors' threads, and of the processes that W&B has started."""
    own = [thread.native_id for thread in threading.enumerate() if thread.name in ("wandb-mirror", "tensorboard")]
    stats = [Path(f"/proc/self/task/{number}/stat") for number in own]
    children = Path("/proc/self/task").glob("*/children")
    processes = {word for path in children for word in path.read_text().split()}
    stats += [Path(f"/proc/{number}/stat") for number in processes]
    total = 0
    for path in stats:
        user, system = path.read_text().rpartition(")")[2].split()[11:13]
        total += int(user) + int(system)
    return total / TICKS


def stepper(arguments: argparse.Namespace) -> Any:
    """A function that takes one step."""
    config = ModelConfig(
        "gpt2", "gpt2", arguments.vocab, arguments.width, arguments.layers, 4, max_positions=SEQ_LEN
    )  # fmt: skip
    model = build_model(config, hf_config(config), seed=0)
    optimizer = build_optimizer(model, OptimConfig())
    ids = torch.randint(arguments.vocab, (arguments.tokens // SEQ_LEN, SEQ_LEN))

    def step() -> None:
        logits = model(input_ids=ids, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids.flatten()).backward()
        optimizer.adamw.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
