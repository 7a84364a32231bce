"""Time of a step of each stage of a run, and the kernels of one step of each: what the clock shows of the FLOPs saved.

    python benchmarks/gpu_stages.py model=gpt2 train.seq_len=1024 train.micro_batch=32 train.tokens_per_step=131072

Settings are those of est-train, on random tokens; nothing is kept. For each stage: the median of 8 steps after 3
(synchronised around the whole step only) against the last stage and the ideal, the ratio of total FLOPs; MFU where the
peak is known; the kernels of one more step by time, and the share of it in which the device did nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from measure import clock, environment
from torch.profiler import ProfilerActivity, profile

from est_cli.config import RunConfig
from est_cli.config.compose import composed
from est_cli.config.resolve import check
from est_cli.distributed.hardware import peak_flop_per_s
from est_cli.est.flops import flops_of
from est_cli.training.probe import on_random_tokens
from est_cli.training.run import Run
from est_cli.training.step import train_step

WARM_UP, MEASURED, SHOWN = 3, 8, 15


def steps_of(run: Run, stage: int) -> list[int]:
    """Steps of that stage, as many as are needed."""
    end, length = run.scheduler.stages[stage - 1].until_step, run.scheduler.stage_steps()[stage - 1]
    return [end - length + count % length for count in range(WARM_UP + MEASURED + 1)]


def measured(run: Run, stage: int) -> dict[str, Any]:
    """Seconds, FLOPs, MFU and kernels of a stage's step."""
    device, steps, seconds = run.accelerator.device, steps_of(run, stage), []
    result = None
    for step in steps[:-1]:
        begin = clock(device)
        result = train_step(run, step)
        result.read()
        seconds.append(clock(device) - begin)
    assert result is not None
    step_s, peak = median(seconds[WARM_UP:]), peak_flop_per_s(device, run.precision)
    used = flops_of(run.spec, result.ran, run.batch.of_stage(stage).seq_len).total
    mfu = None if peak is None else used / step_s / peak
    return {"stage": stage, "step_s": step_s, "flops": used, "mfu": mfu, **_kernels(run, steps[-1], device)}


def _kernels(run: Run, step: int, device: torch.device) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        begin = clock(device)
        train_step(run, step).read()
        wall_s = clock(device) - begin
    events = seen.key_averages()
    times = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6 for event in events
    }
    busy_s = sum(times.values())
    longest = sorted(times.items(), key=lambda item: -item[1])[:SHOWN]
    return {
        "idle": max(0.0, 1.0 - busy_s / wall_s),
        "kernels": [{"name": name[:120], "ms": 1e3 * seconds, "share": seconds / busy_s} for name, seconds in longest],
    }


def report_of(config: RunConfig) -> dict[str, Any]:
    """All stages of a checked configuration."""
    with TemporaryDirectory(prefix="est-stages-") as folder, on_random_tokens(config, Path(folder)) as run:
        stages = [measured(run, number) for number in run.scheduler.occupied()]
        device = run.accelerator.device
    for stage in stages:
        stage["time_ratio"] = stage["step_s"] / stages[-1]["step_s"]
        stage["ideal"] = stage["flops"] / stages[-1]["flops"]
        stage["achieved_over_ideal"] = stage["time_ratio"] / stage["ideal"]
    return {"environment": environment(device), "stages": stages}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("settings", nargs="*", help="KEY=VALUE of est-train")
    parser.add_argument("--json", type=Path, help="also write it there")
    arguments = parser.parse_args()
    report = report_of(check(composed("train", RunConfig, arguments.settings, None).config).config)
    for stage in report["stages"]:
        print(
            f"stage {stage['stage']}: {1e3 * stage['step_s']:.1f} ms, {stage['time_ratio']:.3f} of the last stage "
            f"(ideal {stage['ideal']:.3f}: {stage['achieved_over_ideal']:.3f} times that), MFU {stage['mfu']}, "
            f"idle {stage['idle']:.3f}"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
