"""What data parallel training sends and how long a step takes: ours against torch's DistributedDataParallel.

    python benchmarks/replicas.py                                # 2 gloo processes, GPT-2 base, about six minutes
    torchrun --nproc-per-node 8 benchmarks/replicas.py --micro-batch 16 --seq-len 1024 --steps 20     # on GPUs
    python benchmarks/replicas.py --only-bytes --model llama     # TinyLlama's bytes, no steps

For each stage (rates 0.5; stage 3 is the complete model) three ways take turns, step by step, in the same processes:

- ours: est_cli.distributed.DataParallel, which reduces the gradients that exist
- ddp: DistributedDataParallel(find_unused_parameters=True), the correct baseline
- alone: the same step without telling the others, what communication costs nothing of

Bytes are those of gradients handed over by each process in a step. "theory" counts the weights, biases and norms that
the subnetwork touches. Reported step times are medians; ratios are of sums over the same steps.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from measure import CASES, SAMPLED, environment
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from est_cli.common.rank import rank_of_environment
from est_cli.config import OptimConfig
from est_cli.distributed import DataParallel, StepPlan
from est_cli.distributed.device import keep_freed_memory
from est_cli.est import EstHandle, IndexGenerator, ModelSpec, SamplingOptions, SamplingRates, apply_est, sample_sizes
from est_cli.families import spec_of
from est_cli.models import build_model, hf_config, unpacked_sequences
from est_cli.models.lm_loss import LmLoss, Objective
from est_cli.training.optim import build_optimizer, update

STAGES = {**SAMPLED, "stage 3": SamplingRates()}
WARM_UP = 1


class Side:
    """A model of its own: DistributedDataParallel puts hooks on parameters that fire in every backward pass."""

    def __init__(self, family: str, device: torch.device) -> None:
        config = next(case.model for case in CASES["cuda"] if case.family == family)
        self.model = build_model(config, hf_config(config), seed=0).to(device).train()
        self.handle: EstHandle = apply_est(self.model, spec_of(self.model.config))
        self.optimizer = build_optimizer(self.model, OptimConfig(lr=1e-4))
        self.objective: nn.Module = Objective(self.model, LmLoss(pad_to=128 if device.type == "cuda" else 1))


class Bench:
    """One process's models and the ways to take a step with them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        place = rank_of_environment()
        self.device = torch.device("cuda", place.local_rank) if torch.cuda.is_available() else torch.device("cpu")
        self.plain = Side(arguments.model, self.device)
        self.spec = self.plain.handle.spec
        self.generator = IndexGenerator(self.spec, 0)
        torch.manual_seed(place.rank)
        self.tokens = torch.randint(
            self.spec.vocab_size, (arguments.micro_batch, arguments.seq_len), device=self.device
        )
        self.targets = self.tokens.shape[0] * (arguments.seq_len - 1) * place.world_size
        self.replicas = DataParallel(self.plain.model, self.plain.handle.layers)
        self.sent = 0
        if not arguments.only_bytes:
            self.in_ddp = Side(arguments.model, self.device)
            wrapped = DistributedDataParallel(self.in_ddp.objective, find_unused_parameters=True)
            wrapped.register_comm_hook(None, lambda state, bucket: self._counted(bucket.buffer()))
            self.in_ddp.objective = wrapped

    def _counted(self, bucket: Tensor) -> torch.futures.Future[Tensor]:
        self.sent += bucket.nbytes
        return dist.all_reduce(bucket, async_op=True).get_future().then(lambda done: done.value()[0])

    def step(self, number: int, way: str, rates: SamplingRates) -> tuple[float, int]:
        """(seconds, bytes sent)."""
        subnetwork, side = self.generator.draw(number, rates), self.in_ddp if way == "ddp" else self.plain
        self._arrive()
        begin = time.perf_counter()
        side.handle.activate(subnetwork)
        self.replicas.begin(StepPlan((subnetwork,), 1, None))
        self.sent = 0
        if way == "ours":
            self.replicas.before(0)
        with torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext():
            loss = side.objective(self.tokens, self.targets)
        loss.backward()
        loss = loss.detach().double().reshape(1)
        if way == "ours":
            loss = self.replicas.finish(loss)
            self.sent = self.replicas.reduced_bytes
        elif way == "ddp":
            dist.all_reduce(loss)
        update(side.optimizer, 1e-4, 1.0, loss[0].float())
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin, self.sent

    def _arrive(self) -> None:
        dist.barrier()
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def theory(spec: ModelSpec, model: nn.Module, rates: SamplingRates) -> int:
    """Bytes of the gradients that a subnetwork touches, from sizes alone: 4 for each entry."""
    sizes = sample_sizes(spec, rates, SamplingOptions())
    layer = model.get_submodule(f"{spec.layers}.0")
    in_layer = sum(parameter.numel() for parameter in layer.parameters())
    for projection in spec.projections:
        share = 1 - sizes.kept.of(projection.unit) / spec.full.of(projection.unit)
        module = layer.get_submodule(projection.path)
        bias = projection.out_features if projection.side == "out" and module.bias is not None else 0
        in_layer -= round(share * (projection.in_features * projection.out_features + bias))
    outside = sum(p.numel() for p in model.parameters()) - spec.num_layers * sum(p.numel() for p in layer.parameters())
    return 4 * (outside + sizes.layers * in_layer)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Stage -> what was sent and how long it took; the same in every process."""
    bench = Bench(arguments)
    ways, found = ("alone",) if arguments.only_bytes else ("ours", "ddp", "alone"), {}
    for stage, rates in STAGES.items():
        record: dict[str, Any] = {"theory_bytes": theory(bench.spec, bench.plain.model, rates)}
        if not arguments.only_bytes:
            with unpacked_sequences():
                record |= _timed(partial(bench.step, rates=rates), ways, arguments)
        found[stage] = record
    return found


def _timed(
    step: Callable[[int, str], tuple[float, int]], ways: tuple[str, ...], arguments: argparse.Namespace
) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    sent: dict[str, int] = {}
    for number in range(WARM_UP + arguments.steps):
        for way in ways:
            took, sent[way] = step(number, way)
            if number >= WARM_UP:
                seconds[way].append(took)
    record: dict[str, Any] = {f"{way}_s": median(times) for way, times in seconds.items()}
    record |= {f"{way}_bytes": sent[way] for way in ("ours", "ddp")}
    record["ddp / ours"] = sum(seconds["ddp"]) / sum(seconds["ours"])
    return record


def report(found: dict[str, Any]) -> None:
    full = found["stage 3"]
    for stage, record in found.items():
        line = f"{stage}: theory {record['theory_bytes'] / 1e6:7.1f} MB"
        line += f" ({record['theory_bytes'] / full['theory_bytes']:.3f} of stage 3)"
        if "ours_s" in record:
            line += f", ours {record['ours_bytes'] / 1e6:7.1f} MB, ddp {record['ddp_bytes'] / 1e6:7.1f} MB;  step "
            line += ", ".join(f"{way} {record[f'{way}_s']:.2f} s" for way in ("alone", "ours", "ddp"))
            line += f";  ddp / ours {record['ddp / ours']:.3f}, ours / stage 3 {record['ours_s'] / full['ours_s']:.3f}"
        print(line)


def worker(local_rank: int, arguments: argparse.Namespace) -> None:
    if local_rank >= 0:
        os.environ |= {"RANK": str(local_rank), "LOCAL_RANK": str(local_rank), "WORLD_SIZE": str(arguments.processes)}
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // arguments.processes))
    keep_freed_memory()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(rank_of_environment().local_rank)
    dist.init_process_group("nccl" if cuda else "gloo")
    found = measure(arguments)
    if dist.get_rank() == 0:
        report(found)
        if arguments.json is not None:
            told = {"command": f"python {' '.join(sys.argv)}", "processes": dist.get_world_size(), "stages": found}
            told["environment"] = environment(torch.device("cuda" if cuda else "cpu")) | {"clock": "wall"}
            arguments.json.write_text(json.dumps(told, indent=1))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--model", choices=("gpt2", "llama"), default="gpt2")
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--only-bytes", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if "WORLD_SIZE" in os.environ:
        worker(-1, arguments)
        return
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": os.environ.get("MASTER_PORT", "29511")}
    mp.spawn(worker, (arguments,), nprocs=arguments.processes)


if __name__ == "__main__":
    main()
