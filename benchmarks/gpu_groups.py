"""Both strategies over a process group of one, on one GPU: NCCL's calls, hooks and streams without a second device.

    python benchmarks/gpu_groups.py --json groups.json       # a GPU over NCCL; without one, gloo on the CPU

A run of one process has no group, so the pieces are put together here. For each strategy (data parallel; FSDP2) and
stage: the model's layers compiled, steps of 2 micro-batches; from the third step on no call may make the host wait
for the device (torch raises) and no graph may be new. Losses must be those of the same steps without a group (to
1e-3, bf16). Exits with 1 where that fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from measure import RATES, SEED, environment

from est_cli.config import LaunchConfig, ModelConfig, OptimConfig, Precision
from est_cli.distributed import DataParallel, FullySharded, GradientSync, NoSync, StepPlan, shard
from est_cli.distributed.device import autocast, compile_layers
from est_cli.est import IndexGenerator, apply_est
from est_cli.families import spec_of
from est_cli.models import build_model, hf_config, unpacked_sequences
from est_cli.models.lm_loss import LmLoss, Objective, target_count
from est_cli.training.optim import build_optimizer, update

STEPS, WARM_UP, MICRO_STEPS = 6, 2, 2
SHAPES = {
    "cuda": (ModelConfig("gpt2", "gpt2", 50304, 768, 12, 12, max_positions=1024), (8, 1024)),
    "cpu": (ModelConfig("gpt2", "gpt2", 512, 64, 2, 4, max_positions=32), (2, 32)),
}


def losses_of(strategy: str, device: torch.device, compiled: bool) -> dict[str, Any]:
    """Losses of all steps by stage, and the graphs that were new after the warm-up."""
    preset, size = SHAPES[device.type]
    model = build_model(preset, hf_config(preset), SEED)
    handle = apply_est(model.to(device), spec_of(model))
    if compiled:
        compile_layers(handle, 1)
    objective, model = Objective(model, LmLoss(compiled=compiled)), model.train()
    sync: GradientSync = NoSync()
    if strategy == "ddp":
        sync = DataParallel(model, handle.layers)
    elif strategy == "fsdp":
        shard(objective, handle.layers, device, 1, LaunchConfig())
        sync = FullySharded(objective, handle.layers)
    optimizer, generator = build_optimizer(model, OptimConfig(lr=1e-4)), IndexGenerator(handle.spec, SEED)
    torch.manual_seed(SEED)
    batches = torch.randint(preset.vocab_size or 1, (MICRO_STEPS, *size)).to(device)
    targets, found, new = target_count(batches.flatten(0, 1)), {}, 0
    for stage, rates in RATES.items():
        losses, graphs = [], 0
        for step in range(STEPS):
            if step == WARM_UP:
                _settle(device, "error")
                graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            subnetwork = generator.draw(step, rates)
            sync.begin(StepPlan((subnetwork,), MICRO_STEPS, None))
            total = torch.zeros(1, dtype=torch.float64, device=device)
            for micro_step, tokens in enumerate(batches):
                handle.activate(subnetwork)
                sync.before(micro_step)
                with unpacked_sequences(), autocast(device, Precision.bf16):
                    loss = objective(tokens, targets)
                loss.backward()
                total += loss.detach()
            summed = sync.finish(total)
            update(optimizer, 1e-4, 1.0, summed[0].float())
            losses.append(summed)
        _settle(device, "default")
        new += torch._dynamo.utils.counters["stats"]["unique_graphs"] - graphs
        found[stage] = [loss.item() for loss in losses]
    return {"losses": found, "new_graphs": new}


def _settle(device: torch.device, mode: str) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode(mode)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args(arguments)
    device = torch.device(given.device, 0) if given.device == "cuda" else torch.device(given.device)
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1)
        found = {strategy: losses_of(strategy, device, given.compile) for strategy in ("alone", "ddp", "fsdp")}
        dist.destroy_process_group()
    alone = torch.tensor([*found["alone"]["losses"].values()])
    for strategy, of in found.items():
        of["worst"] = (torch.tensor([*of["losses"].values()]) / alone - 1).abs().max().item()
        print(f"{strategy}: losses within {of['worst']:.1e} of those without a group, {of['new_graphs']} new graphs")
    given.json.write_text(json.dumps({"environment": environment(device), **found}, indent=1) + "\n", "utf-8")
    return 0 if all(of["worst"] < 1e-3 and of["new_graphs"] == 0 for of in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
