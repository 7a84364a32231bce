"""How long a save holds up training: written at once, and by a thread while the steps go on.

    python benchmarks/save_time.py                                   # CPU: 29 M parameters, about two minutes
    python benchmarks/save_time.py --width 2048 --layers 22 --vocab 32000 --tokens 8192 --json save.json

A step is forward, backward and fused AdamW of a GPT-2 of the given size. Each round takes `--steps` steps without a
save, one save that is written at once, `--steps` more, one asynchronous save, and steps until that is on the disk.
Reported are medians over the rounds:

- held up: seconds between two steps because of the save, until the device is free for the next step
- steps meanwhile: time of a step during the asynchronous writing / time of a step without a save
- cost of a save: held up, plus what the steps meanwhile took longer

The first asynchronous save also takes the host memory that the later ones use again; it is reported apart.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from measure import environment

from est_cli.common.rank import Rank
from est_cli.config import ModelConfig, OptimConfig, RunConfig
from est_cli.distributed.device import keep_freed_memory
from est_cli.models import build_model, hf_config
from est_cli.storage.run_dir import RunDir
from est_cli.tracking import MetricsFile, Tracker
from est_cli.training.optim import build_optimizer
from est_cli.training.run import RunState
from est_cli.training.save import Saver

SEQ_LEN, HEAD = 256, 64


def stand_in(arguments: argparse.Namespace, folder: Path) -> Any:
    """What a Saver uses of a run, with a model of the size asked for."""
    config = ModelConfig(
        "gpt2", "gpt2", arguments.vocab, arguments.width, arguments.layers, arguments.width // HEAD,
        max_positions=SEQ_LEN,
    )  # fmt: skip
    model = build_model(config, hf_config(config), seed=0).to(arguments.device)
    return SimpleNamespace(
        dir=RunDir(folder),
        state=RunState(),
        model=model,
        optimizer=build_optimizer(model, OptimConfig()),
        vocab_size=arguments.vocab,
        corpus=SimpleNamespace(tokenizer=None),
        tracker=Tracker(MetricsFile(folder / "metrics.jsonl"), None),
        rank=Rank(),
        progress=SimpleNamespace(line=print),
        resolved=SimpleNamespace(lasting=[]),
        config=RunConfig(),
    )


def stepper(run: Any, tokens: int, device: torch.device) -> Callable[[], float]:
    """A function that takes one step and returns its seconds."""
    ids = torch.randint(run.vocab_size, (tokens // SEQ_LEN, SEQ_LEN), device=device)

    def step() -> float:
        begin = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            logits = run.model(input_ids=ids, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids.flatten()).backward()
        run.optimizer.adamw.step()
        run.optimizer.zero_grad()
        _finish_device(device)
        return time.perf_counter() - begin

    return step


def held_up(run: Any, saver: Saver, device: torch.device) -> float:
    """Seconds until training may go on after the start of a save."""
    run.state.step += 1
    begin = time.perf_counter()
    saver.save()
    _finish_device(device)
    return time.perf_counter() - begin


def one_round(
    run: Any, savers: dict[str, Saver], step: Callable[[], float], steps: int, device: torch.device
) -> dict[str, float]:
    """Seconds of this round, by what they are of."""
    before = [step() for _ in range(steps)]
    at_once = held_up(run, savers["at once"], device)
    between = [step() for _ in range(steps)]
    begin, meanwhile = time.perf_counter(), []
    asynchronous = held_up(run, savers["asynchronous"], device)
    while savers["asynchronous"].saved_step != run.state.step:
        meanwhile.append(step())
    written = time.perf_counter() - begin
    savers["asynchronous"].wait()
    alone, beside = median([*before, *between]), sum(meanwhile) / max(1, len(meanwhile))
    return {
        "step": alone,
        "at once: held up": at_once,
        "asynchronous: held up": asynchronous,
        "asynchronous: on the disk after": written,
        "asynchronous: steps meanwhile": float(len(meanwhile)),
        "asynchronous: time of a step meanwhile / alone": beside / alone,
        "asynchronous: cost of a save": asynchronous + max(0.0, beside - alone) * len(meanwhile),
    }


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Medians over the rounds, after one that only warms up."""
    device = torch.device(arguments.device)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.folder)))
        run = stand_in(arguments, folder)
        both = (("at once", False), ("asynchronous", True))
        savers = {name: stack.enter_context(Saver(run, asynchronous)) for name, asynchronous in both}
        step = stepper(run, arguments.tokens, device)
        first = one_round(run, savers, step, 2, device)
        rounds = [one_round(run, savers, step, arguments.steps, device) for _ in range(arguments.rounds)]
        files = (run.dir.checkpoints / f"step-{run.state.step:06d}").iterdir()
        found = {"checkpoint in GB": sum(path.stat().st_size for path in files) / 1e9}
    found["parameters in millions"] = sum(p.numel() for p in run.model.parameters()) / 1e6
    found["asynchronous: held up, first time"] = first["asynchronous: held up"]
    return found | {name: median(seconds[name] for seconds in rounds) for name in rounds[0]}


def _finish_device(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=512, help=f"a multiple of {HEAD} (default 512)")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=1024, help=f"per step, a multiple of {SEQ_LEN} (default 1024)")
    parser.add_argument("--steps", type=int, default=4, help="steps before each save (default 4)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of the CPU (default: torch's own choice)")
    parser.add_argument("--folder", type=Path, help="write below it (default: the system's temporary folder)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write results and environment there")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    keep_freed_memory()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    found = measure(arguments)
    for name, value in found.items():
        print(f"{name:50} {value:8.3f}")
    if arguments.json is not None:
        about = environment(torch.device(arguments.device)) | {"clock": "wall"}
        settings = {
            name: value if isinstance(value, int) else str(value)
            for name, value in vars(arguments).items()
            if name != "json"
        }
        report = {"environment": about, "settings": settings, "results": found}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
