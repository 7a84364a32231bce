"""What dataset.tokenize=ahead costs a step, and how much sooner the first one comes.

    python benchmarks/tokenise_ahead.py                       # ten minutes on two cores
    python benchmarks/tokenise_ahead.py --megabytes 200 --rounds 60 --model gpt2_tiny

1. The time from the start of est-train to the record of its first step, with `first` and with `ahead`, each in an
   empty cache: text of random words, with a tokenizer that is there already.
2. Steps of two runs in one process, in turn: one whose text was all there, one whose text is tokenised ahead of it.
   Reported are medians of the ratio inside a round, with a 95 % bootstrap interval, of wall time: while the processes
   tokenise, and when they are far ahead and paused. The gate (0.98) is for those.

Exits with 1 if the gate fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from measure import environment, paired_ratio

from est_cli.config import RunConfig
from est_cli.data.text import units
from est_cli.data.tokens import ahead
from est_cli.training.build import build
from est_cli.training.run import Run
from est_cli.training.start import Start
from est_cli.training.step import train_step

GATE = 0.98
"""Speed of a step, against one without it."""
WORDS = 5000
