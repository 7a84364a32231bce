"""`est-train -m` and `est-eval -m`: many jobs from one command line, each in a process and a folder of its own.

program.py says what a command that is swept must tell, trainings.py and evaluations.py tell it of the two; nothing else
here knows what its jobs do.
"""

from est_cli.cli.sweep.command import run_sweep

__all__ = ["run_sweep"]
