"""Where the studies find their text: in the folder that the variable EST_DATA names."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def shared(part: str) -> Path:
    """$EST_DATA/PART, `corpus` or `glue`. Where there is no such folder the command ends: one line, exit code 2."""
    given = os.environ.get("EST_DATA")
    if given and (Path(given) / part).is_dir():
        return Path(given) / part
    found = f"there is no folder {Path(given) / part}" if given else "EST_DATA is not set"
    print(f"{found}; EST_DATA=DIR names a folder as in docs/data.md (The texts of the studies)", file=sys.stderr)
    raise SystemExit(2)
