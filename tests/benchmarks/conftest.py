"""The benchmarks' modules are found as they are for `python benchmarks/compare.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
