"""Pre-training of language models with Evolving Subnetwork Training (Li et al., ICML 2024).

docs/architecture.md has the map of the rooms; tests/test_imports.py holds the order in which they may import each
other.
"""

import sys

from est_cli import families

__version__ = "0.1.0"
"""Told here alone: pyproject.toml, --version, checkpoints and summaries take it from here."""

sys.modules["est_cli.arch"] = families
"""The name of `est_cli.families` that README.md has shown to users of the method alone."""
