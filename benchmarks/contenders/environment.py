"""litgpt in an environment of its own: its pins are not ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".bench" / "litgpt"
REQUIREMENTS = ("litgpt==0.5.13", "numpy")


def litgpt_python() -> str | None:
    """The Python of .bench/litgpt, which is made at the first call (minutes); None, said in one line, if it fails."""
    python, done = FOLDER / "bin" / "python", FOLDER / ".installed"
    if done.exists():
        return str(python)
    print(f"litgpt: making {FOLDER.relative_to(ROOT)} with {REQUIREMENTS[0]} ...", file=sys.stderr)
    install = [str(python), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), *REQUIREMENTS]
    for command in ([sys.executable, "-m", "venv", str(FOLDER)], install):
        finished = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if finished.returncode:
            reason = finished.stderr.strip().splitlines()[-1:] or ["no reason given"]
            print(f"litgpt: left out, its environment could not be made: {reason[0][:120]}", file=sys.stderr)
            return None
    done.touch()
    return str(python)
