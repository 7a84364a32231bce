"""How much of the fault suite runs: a short part within `make test`, all of it by `make test-faults`."""

from __future__ import annotations

import os
from typing import TypeVar

import pytest

T = TypeVar("T")

FULL = os.environ.get("EST_FAULTS") == "full"
SOAK = os.environ.get("EST_FAULTS") == "soak"
"""`make soak`: the long form of one test."""


def either(full: T, short: T) -> T:
    """What the whole suite, or its short part, takes: a count, a list of cases."""
    return full if FULL else short


only_full = pytest.mark.skipif(not FULL, reason="part of make test-faults (EST_FAULTS=full)")
