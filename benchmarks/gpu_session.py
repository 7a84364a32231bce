"""What a GPU must show, in one command that fits ten minutes and can be called again for what is left.

    python benchmarks/gpu_session.py                     # or `make gpu`; results in outputs/gpu/NAME.json
    python benchmarks/gpu_session.py --minutes 4         # begins no step that may not end in time
    python benchmarks/gpu_session.py --only stages-gpt2  # anew, whatever is there
    python benchmarks/gpu_session.py --list

The steps stand in the order of what they tell, each with a time limit. After each one its JSON is there: command,
commit, exit code, seconds, the end of its output, and what its script measured. A step whose JSON says 0 is not run
again. Exits with 1 if a step of this call failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from est_cli.storage.versions import git_commit

FOLDER = Path("outputs/gpu")
TAIL = 4000
GPT2 = "model=gpt2 train.seq_len=1024 train.micro_batch=32 train.tokens_per_step=131072"
TINYLLAMA = "model=tinyllama train.seq_len=2048 train.micro_batch=8 train.tokens_per_step=32768"
SAVED = "--width 2048 --layers 22 --vocab 32000 --tokens 8192"
RIVALS = "--only ours-dense hf hf-compiled"


@dataclass(frozen=True)
class Step:
    """A command of the session."""

    name: str
    limit_s: int
    shows: str
    command: str
    """Behind the name of the Python."""
    measures: bool = True
    """Whether it takes `--json PATH`; tests do not."""


STEPS = (
    Step(
        "tests", 120, "the method on CUDA; no wait and no new graph in a step", "-m pytest -q tests/gpu", measures=False
    ),
    Step("kernels", 45, "attention kernels by dtype and heads; products of odd widths", "benchmarks/gpu_kernels.py"),
    Step("groups", 100, "both strategies over NCCL, alone: hooks, streams, compiled", "benchmarks/gpu_groups.py"),
    Step("stages-gpt2", 170, "GPT-2 base: stages on the clock, kernels", f"benchmarks/gpu_stages.py {GPT2}"),
    Step("stages-tinyllama", 150, "TinyLlama: the same", f"benchmarks/gpu_stages.py {TINYLLAMA}"),
    Step("save", 90, "what a checkpoint holds up", f"benchmarks/save_time.py {SAVED}"),
    Step("resume", 120, "bits after a stop; train.deterministic and its cost", "benchmarks/gpu_resume.py"),
    Step("loss", 60, "LM head and loss in all ways", "benchmarks/loss_time.py --positions 16384"),
    Step("dense", 240, "our dense step against Hugging Face", f"benchmarks/compare.py --shape gpu-gpt2 {RIVALS}"),
    Step("whole-run", 420, "a run against its dense twin", "benchmarks/whole_run.py --gpu --steps 150"),
    Step("optim", 120, "Muon, frozen rows, skipped layers: a step", "benchmarks/optim_time.py", measures=False),
)


def main() -> int:
    arguments = _arguments()
    if arguments.list:
        print("\n".join(f"{step.name:18} {step.limit_s:4} s  {step.shows}" for step in STEPS))
        return 0
    end, failed = time.monotonic() + 60 * arguments.minutes, []
    FOLDER.mkdir(parents=True, exist_ok=True)
    for step in STEPS:
        if arguments.only and step.name not in arguments.only:
            continue
        if not arguments.only and _done(step):
            print(f"{step.name}: done before")
        elif time.monotonic() + step.limit_s > end:
            print(f"{step.name}: left for another call ({step.limit_s} s)")
        elif not _run(step):
            failed.append(step.name)
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.5, help="begin no step that may end later (default 9.5)")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS], help="these, also if they are done")
    parser.add_argument("--list", action="store_true", help="name the steps and run none")
    return parser.parse_args()


def _done(step: Step) -> bool:
    try:
        return json.loads(_path(step).read_bytes())["exit_code"] == 0
    except (OSError, ValueError, KeyError):
        return False


def _run(step: Step) -> bool:
    """Whether it ended with 0 in time; its JSON is written in any case."""
    measured, began = FOLDER / f"{step.name}.measured.json", time.monotonic()
    measured.unlink(missing_ok=True)
    command = [*step.command.split(), *(["--json", str(measured)] if step.measures else [])]
    print(f"{step.name}: {step.shows}", flush=True)
    try:
        ended = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=step.limit_s)
        code, output = ended.returncode, ended.stdout + ended.stderr
    except subprocess.TimeoutExpired as late:
        code, output = 124, "".join(part.decode(errors="replace") for part in (late.stdout, late.stderr) if part)
    seconds = time.monotonic() - began
    record: dict[str, Any] = {
        "step": step.name,
        "command": f"python {step.command}",
        "commit": git_commit(),
        "exit_code": code,
        "seconds": round(seconds, 1),
        "output": output[-TAIL:],
        "measured": json.loads(measured.read_bytes()) if measured.is_file() else None,
    }
    _path(step).write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    measured.unlink(missing_ok=True)
    print(f"{step.name}: {'ok' if code == 0 else f'exit code {code}'} after {seconds:.0f} s, {_path(step)}", flush=True)
    return code == 0


def _path(step: Step) -> Path:
    return FOLDER / f"{step.name}.json"


if __name__ == "__main__":
    sys.exit(main())
