"""The smallest example: a 2-layer MLP that classifies handwritten digits, trained in the ordinary way and with EST.

    python examples/mlp.py    # the 1,797 images of 8 x 8 pixels come with scikit-learn; nothing is downloaded

Only `est_cli.est` is used: a specification of what can be sampled, and three calls around an ordinary training loop.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from est_cli import est

PIXELS, COLUMNS, LAYERS, CLASSES = 64, 256, 2, 10
BATCH, STEPS, SEEDS = 64, 400, 3


class Layer(nn.Module):
    """(B, PIXELS) -> (B, PIXELS)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(PIXELS, COLUMNS), nn.Linear(COLUMNS, PIXELS)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.relu(self.up(x)))


class Classifier(nn.Sequential):
    """(B, PIXELS) -> (B, CLASSES) logits."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(*[Layer() for _ in range(LAYERS)]), nn.Linear(PIXELS, CLASSES))


SPEC = est.ModelSpec(
    family="mlp",
    layers="0",  # module path of the list of layers
    num_layers=LAYERS,
    num_heads=1,  # there are none: p_h stays 1
    num_kv_heads=1,
    head_dim=PIXELS,
    mlp_size=COLUMNS,
    hidden_size=PIXELS,
    vocab_size=CLASSES,  # the size of the head behind the layers
    max_positions=None,
    projections=(
        est.Projection("up", PIXELS, COLUMNS, "column", "out"),
        est.Projection("down", COLUMNS, PIXELS, "column", "in"),
    ),
    branches=("down",),
    attention=False,
)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels and labels of 1,437 images to train on and of 360 others, always the same."""
    pixels, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    pixels, labels, cut = pixels[order].float() / 16, labels[order].long(), len(order) * 4 // 5
    return pixels[:cut], labels[:cut], pixels[cut:], labels[cut:]


def train(scheduler: est.SamplingScheduler, seed: int) -> float:
    """Accuracy (0-100) of the complete model on images that were not trained on."""
    torch.manual_seed(seed)
    (pixels, labels, held_out, truth), model = digits(), Classifier()
    handle, generator = est.apply_est(model, SPEC), est.IndexGenerator(SPEC, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(scheduler.max_steps):
        handle.activate(generator.draw(step, scheduler.rates_at(step)))
        batch = torch.randint(len(labels), (BATCH,))
        F.cross_entropy(model(pixels[batch]), labels[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
    handle.activate_full()
    return 100.0 * (model(held_out).argmax(1) == truth).double().mean().item()


def lines(steps: int = STEPS, seeds: int = SEEDS) -> Iterator[str]:
    """One for each schedule: the accuracy over the seeds, the FLOPs and what of them is saved."""
    rates = est.SamplingRates(p_m=0.5, p_l=0.5)
    for scheduler in (est.dense(steps), est.three_stage(steps, 2 / 15, 7 / 15, rates)):
        found = torch.tensor([train(scheduler, seed) for seed in range(seeds)])
        ledger = est.planned_ledger(SPEC, scheduler, est.SamplingOptions(), BATCH, seq_len=1)
        told = f"{scheduler.name:12} accuracy {found.mean():5.2f} +- {found.std():.2f} %   "
        yield told + f"{ledger.used.total:.2e} FLOPs, {ledger.saved_pct('total'):5.2f} % saved"


if __name__ == "__main__":
    torch.set_num_threads(1)  # products this small are done before a second thread is awake, and waiting costs minutes
    for line in lines():
        print(line)
