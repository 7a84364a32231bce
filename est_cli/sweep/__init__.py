"""`est-train -m`: many runs from one command line, each in a process and a folder of its own, and one table."""

from est_cli.sweep.command import run_sweep

__all__ = ["run_sweep"]
