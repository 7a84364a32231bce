"""Whether a run that was stopped ends with the bits of one that was not, and what kernels that promise it cost.

    python benchmarks/gpu_resume.py --json resume.json

For train.deterministic false and true, of GPT-2 base on random tokens: a run of 40 steps twice over, and one that is
stopped by SIGTERM at about half and continued. Reported: whether the weights' SHA-256 agree, run to run and after the
stop, the largest difference of a loss, and the median step time of each stage against train.deterministic=false.
Exits with 1 where train.deterministic=true does not repeat its bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from measure import environment
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

STEPS, SKIPPED = 40, 3
SHAPES = {
    "cuda": "model=gpt2 train.seq_len=1024 train.micro_batch=16 train.tokens_per_step=32768",
    "cpu": "model=gpt2_tiny model.num_layers=2 model.hidden_size=32 model.max_positions=32 train.seq_len=32 "
    "train.micro_batch=4 train.tokens_per_step=256",
}
RUN = (
    f"dataset=tokens dataset.files=[tokens.bin] tokenizer=tokenizer model.vocab_size=1000 tracking.wandb=off "
    f"train.max_steps={STEPS} stage.t1=13 stage.t2=26 train.eval_every=0 train.checkpoint_every=10"
)


def train(settings: list[str], name: str, stop: bool = False) -> None:
    """A run in this folder; `stop`: SIGTERM when half of its steps are recorded, then it is continued."""
    command = [sys.executable, "-m", "est_cli.train", *RUN.split(), *settings, f"run_name={name}"]
    if stop:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
            while first.poll() is None and len(_records(name)) < STEPS // 2:
                time.sleep(0.02)
            first.send_signal(signal.SIGTERM)
        command = [sys.executable, "-m", "est_cli.train", f"resume=outputs/{name}"]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"{name} ended with {ended.returncode}: {ended.stderr[-2000:]}")


def _records(name: str) -> list[dict[str, Any]]:
    path = Path("outputs", name, "metrics.jsonl")
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return [record for record in map(json.loads, lines) if "loss" in record]


def _bits(name: str) -> str:
    return hashlib.sha256(Path("outputs", name, "model", "model.safetensors").read_bytes()).hexdigest()


def compared(shape: str) -> dict[str, Any]:
    """What the three runs of each kind have in common."""
    found: dict[str, Any] = {}
    for kind in ("false", "true"):
        names = [f"{kind}-{what}" for what in ("first", "again", "stopped")]
        for name in names:
            train([*shape.split(), f"train.deterministic={kind}"], name, stop=name.endswith("stopped"))
        losses = np.array([[record["loss"] for record in _records(name)] for name in names])
        bits = [_bits(name) for name in names]
        records = _records(names[0])
        seconds = {
            stage: median([r["step_s"] for r in records if r["stage"] == stage][SKIPPED:])
            for stage in sorted({record["stage"] for record in records})
        }
        found[kind] = {
            "same_bits_run_to_run": bits[0] == bits[1],
            "same_bits_after_a_stop": bits[0] == bits[2],
            "largest_difference_of_a_loss": float(np.abs(losses - losses[0]).max()),
            "step_s": seconds,
        }
    plain, exact = found["false"]["step_s"], found["true"]["step_s"]
    found["cost"] = {stage: exact[stage] / plain[stage] for stage in plain}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    path = parser.parse_args().json.resolve()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="est-resume-") as folder:
        os.chdir(folder)
        np.random.default_rng(0).integers(0, 1000, 400_000).astype("<u2").tofile("tokens.bin")
        words = {"<end>": 0, **{f"w{number}": number for number in range(1, 1000)}}
        tokenizer = Tokenizer(WordLevel(words, unk_token="<end>"))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained("tokenizer")
        found = compared(SHAPES[device.type])
        os.chdir("/")
    path.write_text(json.dumps({"environment": environment(device), **found}, indent=1) + "\n", "utf-8")
    print(json.dumps(found, indent=1))
    exact = found["true"]
    return 0 if exact["same_bits_run_to_run"] and exact["same_bits_after_a_stop"] else 1


if __name__ == "__main__":
    sys.exit(main())
