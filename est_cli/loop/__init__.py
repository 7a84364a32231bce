"""The training loop. build() puts a run together, train() trains it; the only room that uses Accelerate."""

from est_cli.loop.build import build
from est_cli.loop.run import Run
from est_cli.loop.train import train

__all__ = ["Run", "build", "train"]
