"""What the layers' health costs: counting what each step trains, and measuring one step of many.

    python benchmarks/layers_time.py                                       # the default model, two minutes on a CPU
    python benchmarks/layers_time.py model=gpt2 train.tokens_per_step=4096 train.micro_batch=4 train.seq_len=512

Settings are those of est-train, on random tokens; nothing is kept. In one run, of the stages that are asked for
(default: the first and the last), steps with and without measurement take turns; of both the shortest is reported,
which others' work on the machine spoils least. Counting is too little to be seen beside a step and is timed by itself.
The share is that of both over train.log_layers_every steps.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from measure import clock, environment

from est_cli.config import RunConfig
from est_cli.config.compose import composed
from est_cli.config.micro_batch import pieces
from est_cli.config.resolve import check
from est_cli.training.probe import on_random_tokens
from est_cli.training.run import Run
from est_cli.training.step import train_step

COUNTS = 20


def seconds_of(run: Run, step: int, every: int) -> float:
    """One step, with what is recorded of it."""
    run.health.every = every
    begin = clock(run.accelerator.device)
    result = train_step(run, step)
    numbers = result.read()
    if result.covered is not None:
        run.health.record(numbers.layers, result.covered)
    return clock(run.accelerator.device) - begin


def counting(run: Run, step: int) -> float:
    """Seconds of a step's counting, on the host."""
    run.health.every, plan, found = 1, run.feed.again(step).plan, []
    sequences = pieces(run.batch.at(step).sequences, run.micro_batch_at(step), run.rank.world_size)
    for _ in range(COUNTS):
        begin = time.process_time()
        run.health.count(plan, sequences)
        found.append(time.process_time() - begin)
    run.health.counted()
    return median(found)


def measured(run: Run, stage: int, rounds: int, interval: int) -> dict[str, float]:
    """Seconds, and the share of the step's time over the interval."""
    end, length = run.scheduler.stages[stage - 1].until_step, run.scheduler.stage_steps()[stage - 1]
    without, with_it = [], []
    for number in range(rounds + 2):
        step = end - length + number % length  # the same draw for both
        without.append(seconds_of(run, step, 0))
        with_it.append(seconds_of(run, step, 1))
    step_s, count_s = min(without[2:]), counting(run, end - length)
    measure_s = min(with_it[2:]) - step_s
    share = count_s / step_s + measure_s / (step_s * interval)
    return {"step_s": step_s, "counting_s": count_s, "measuring_s": measure_s, "share": share}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("settings", nargs="*", help="KEY=VALUE of est-train")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--stages", type=int, nargs="*", help="default: the first and the last")
    parser.add_argument("--json", type=Path, help="also write it there")
    arguments = parser.parse_args()
    config = check(composed("train", RunConfig, arguments.settings, None).config).config
    interval = config.train.log_layers_every
    report: dict[str, Any] = {"interval": interval, "stages": {}}
    with TemporaryDirectory(prefix="est-layers-") as folder, on_random_tokens(config, Path(folder)) as run:
        occupied = run.scheduler.occupied()
        for stage in arguments.stages or dict.fromkeys((occupied[0], occupied[-1])):
            found = measured(run, stage, arguments.rounds, interval)
            report["stages"][stage] = found
            print(
                f"stage {stage}: step {1e3 * found['step_s']:.1f} ms, counting {1e3 * found['counting_s']:.3f} ms, "
                f"measuring {1e3 * found['measuring_s']:+.1f} ms: {100 * found['share']:.3f} % over {interval} steps"
            )
        report["environment"] = environment(run.accelerator.device)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
