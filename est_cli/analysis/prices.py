"""analysis=prices: what sampling costs at a checkpoint, by kind and rate: short trainings of its run, compared.

From the checkpoint the run goes on for `steps` steps, once complete and once for each kind, rate and draw seed, on the
same batches; then the complete model is cooled down (training/segment.py). All losses are of the complete model, on the
run's validation text. With L the loss after the cool-down, of the checkpoint itself (0 steps), after complete steps and
after sampled ones:

    cost   L(sampled) - L(complete)                         nats
    gain   (L(checkpoint) - L(complete)) / steps            nats that a complete step is worth
    lost   cost / (steps * gain)                            complete steps lost for each sampled one
    price  lost / share of the FLOPs that a step saves      steps lost for each step's FLOPs saved

A price of 1 is that of dense training of fewer steps. The loss is divided by the gain because a nat early in training
is not one late: the run makes up for it. Steps that are lost stay lost.

Standard errors: over the sequences of the text, each compared with itself, and over the draws, whose variance is taken
from all rates of a kind together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from est_cli.analysis.analysis_job import AnalysisJob, OpenedCheckpoint, Outcome
from est_cli.analysis.check_analysis import run_of_prices
from est_cli.analysis.draws import rates_drawn, sequence_losses
from est_cli.analysis.price_tables import prices_figure
from est_cli.config import AnalyzeConfig
from est_cli.config.analyze import rates_asked
from est_cli.config.method import options_of
from est_cli.config.prices import settings_of_prices
from est_cli.config.resolve import resolve
from est_cli.config.schedulers.shared.scheduler import POSITIONS, RATES
from est_cli.config.stored import stored_config
from est_cli.est import FlopsLedger, ModelSpec, SamplingOptions, SamplingRates, forward_flops, sample_sizes
from est_cli.est.hashing import hash_numbers
from est_cli.est.sizes import full_sizes
from est_cli.training.segment import COMPLETE, Segment, opened_bench

KINDS = {
    "heads": ("p_h",),
    "columns": ("p_m",),
    "layers": ("p_l",),
    "heads and columns": ("p_h", "p_m"),
    "all": ("p_h", "p_m", "p_l"),
    "positions": ("p_t",),
    "all and positions": ("p_h", "p_m", "p_l", "p_t"),
}
"""`all`: of the layers; positions are those that the loss is the mean of."""
PARTED = ("heads", "columns", "layers")
"""What is sampled in parts of the layers alone."""
DRAWN = 0x9C
"""Sets these draws apart from everything else that is drawn from the seed."""
LEAST_GAIN = 2.0
"""Standard errors that the gain of complete steps must lie above 0 by, for anything to be divided by it."""
Losses = NDArray[np.float64]
"""(sequences,): nats per token."""
Estimates = dict[str, float]
"""A mean and its standard_error."""


def prices(job: AnalysisJob) -> Outcome:
    """The prices at each checkpoint."""
    folder = run_of_prices(job.config)
    stored = stored_config(folder)
    moments = [_moment(job, folder, opened) for opened in job.checkpoints]
    settings = job.config.analyze
    found = {
        "checkpoint": str(folder),
        "run_steps": resolve(stored).max_steps,
        "settings": settings_of_prices(stored, job.config.sampling),
        "steps": settings.steps,
        "cooldown": settings.cooldown,
        "repeats": settings.repeats,
        "moments": moments,
    }
    return found, {"prices.png": partial(prices_figure, found)}


@dataclass(frozen=True)
class Cell:
    """What is sampled in some segments."""

    kind: str
    rate: float
    rates: SamplingRates
    options: SamplingOptions
    layers: tuple[int, int] | None = None
    """The first and the last layer of those that are sampled; None: all."""

    def to_json(self) -> dict[str, Any]:
        """As it stands in analysis.json, beside what it costs."""
        where = {} if self.layers is None else {"layers": list(self.layers)}
        rates = {key: getattr(self.rates, key) for key in (*RATES, *POSITIONS)}
        return {"kind": self.kind, "rate": self.rate, **rates, **where}


def cells_of(config: AnalyzeConfig, spec: ModelSpec) -> list[Cell]:
    """Of all layers each kind and rate, then of each part of them alone (the others are protected) the single kinds."""
    options = options_of(config.sampling)
    cells = [Cell(kind, rate, rates, options) for kind, rate, rates in rates_drawn(config, spec, KINDS)]
    count, parts, rate = spec.num_layers, config.analyze.layer_parts, min(rates_asked(config))
    for part in range(parts):
        inside = range(count * part // parts, count * (part + 1) // parts)
        alone = replace(options, protect=(*options.protect, *(n for n in range(count) if n not in inside)))
        for kind in PARTED:
            # Of the layers the rate is that of the part: the others run, and count.
            chosen: dict[str, Any] = {KINDS[kind][0]: rate}
            if kind == "layers":
                chosen["p_l"] = 1.0 - (1.0 - rate) * len(inside) / count
            rates = SamplingRates(**chosen)
            if _samples(spec, rates, alone):
                cells.append(Cell(kind, rate, rates, alone, (inside[0], inside[-1])))
    return cells


def _samples(spec: ModelSpec, rates: SamplingRates, options: SamplingOptions) -> bool:
    """Whether anything is left out in the model."""
    try:
        sizes = sample_sizes(spec, rates, options)
    except ValueError:
        return False
    return forward_flops(spec, sizes, 1, 1) != forward_flops(spec, full_sizes(spec), 1, 1)


def cost_of_prices(config: AnalyzeConfig, spec: ModelSpec, checkpoints: int) -> float:
    """In optimizer steps."""
    settings = config.analyze
    segments = 1 + len(cells_of(config, spec)) * settings.repeats
    return float(checkpoints * (segments * (settings.steps + settings.cooldown) + settings.cooldown))


def _moment(job: AnalysisJob, folder: Path, opened: OpenedCheckpoint) -> dict[str, Any]:
    """Everything at one checkpoint, as it stands in analysis.json."""
    config, settings, place = job.config, job.config.analyze, Path(opened.checkpoint.place)
    job.progress.begin(f"{opened.checkpoint.name}: prices")
    stored = replace(stored_config(folder), paths=config.paths)
    with opened_bench(stored, place) as bench:

        def segment(cell: Cell, number: int, steps: int) -> Segment[Losses]:
            seed = hash_numbers((config.seed, DRAWN, number))
            measure = partial(sequence_losses, bench.run.model, job.text)
            how = cell.rates, cell.options, seed
            return bench.train(*how, steps, settings.cooldown, measure, lambda: job.work.advance(1.0))

        nothing = Cell("none", 1.0, COMPLETE, options_of(config.sampling))
        checkpoint, complete = segment(nothing, 0, 0), segment(nothing, 0, settings.steps)
        gained = checkpoint.cooled - complete.cooled
        trained = {
            cell: [segment(cell, number, settings.steps) for number in range(settings.repeats)]
            for cell in cells_of(config, bench.run.spec)
        }
        found = _offers(trained, complete, gained)
        return {
            "step": bench.step,
            "checkpoint": opened.checkpoint.name,
            "loss": float(checkpoint.cooled.mean()),
            "loss_complete": float(complete.cooled.mean()),
            "gain": _over_sequences(gained / settings.steps),
            "step_s": complete.step_s,
            "offers": [offer for cell, offer in found.items() if cell.layers is None],
            "parts": [offer for cell, offer in found.items() if cell.layers is not None],
        }


def _offers(
    trained: Mapping[Cell, list[Segment[Losses]]], complete: Segment[Losses], gained: Losses
) -> dict[Cell, dict[str, Any]]:
    """What each cell costs; the draws of one kind vary alike at all its rates."""
    cooled = {cell: np.array([one.cooled - complete.cooled for one in segments]) for cell, segments in trained.items()}
    raw = {cell: np.array([one.raw - complete.raw for one in segments]) for cell, segments in trained.items()}
    found = {}
    for cell, segments in trained.items():
        alike = [other for other in trained if (other.kind, other.layers is None) == (cell.kind, cell.layers is None)]
        of_draws, of_raw = (variance_of_draws(np.array([one[other] for other in alike])) for one in (cooled, raw))
        lost, saved = lost_steps(cooled[cell], gained, of_draws), _saved(segments, complete)
        found[cell] = {
            **cell.to_json(),
            "cost": cost_of(cooled[cell], of_draws),
            "cost_before_cooldown": cost_of(raw[cell], of_raw),
            "each": cooled[cell].mean(1).tolist(),
            "saved": saved,
            "lost": lost,
            "price": {name: _divided(lost, share) for name, share in saved.items()},
        }
    return found


def variance_of_draws(differences: NDArray[np.float64]) -> float:
    """(rates, repeats, sequences) -> that of a repeat's mean over the sequences, within each of the rates."""
    return float(differences.mean(2).var(1, ddof=1).mean())


def cost_of(differences: NDArray[np.float64], of_draws: float) -> Estimates:
    """(repeats, sequences), the mean of both."""
    return _estimate(differences.mean(), _over_sequences(differences.mean(0)), of_draws / len(differences), 1.0)


def lost_steps(differences: NDArray[np.float64], gained: Losses, of_draws: float) -> Estimates | None:
    """cost / gain; None where the gain is not told from 0. The error is that of a ratio of two means."""
    gain = _over_sequences(gained)
    if gain["mean"] <= LEAST_GAIN * gain["standard_error"]:
        return None
    ratio = differences.mean() / gain["mean"]
    rest = _over_sequences(differences.mean(0) - ratio * gained)
    return _estimate(ratio, rest, of_draws / len(differences), gain["mean"])


def _estimate(mean: float, of_sequences: Estimates, of_draws: float, unit: float) -> Estimates:
    error = math.sqrt(of_sequences["standard_error"] ** 2 + of_draws)
    return {"mean": float(mean), "standard_error": error / unit}


def _over_sequences(losses: Losses) -> Estimates:
    return {"mean": float(losses.mean()), "standard_error": float(losses.std(ddof=1)) / math.sqrt(len(losses))}


def _divided(lost: Estimates | None, share: float) -> Estimates | None:
    """A price; None where nothing is saved, as measured seconds may have it."""
    return None if lost is None or share <= 0 else {key: value / share for key, value in lost.items()}


def _saved(segments: list[Segment[Losses]], complete: Segment[Losses]) -> dict[str, float]:
    """The share of the FLOPs (blocks, total) and of the seconds of a step that sampling saves."""
    ledger = FlopsLedger()
    for segment in segments:
        ledger.add(segment.ledger.used, segment.ledger.dense)
    seconds = 1.0 - float(np.mean([segment.step_s for segment in segments])) / complete.step_s
    return {name: ledger.saved_pct(name) / 100.0 for name in ("blocks", "total")} | {"seconds": seconds}
