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
from est_cli.config.prices import settings_of_prices
from est_cli.config.resolve import resolve
from est_cli.config.stored import stored_config
from est_cli.est import FlopsLedger, ModelSpec, SamplingRates
from est_cli.est.hashing import hash_numbers
from est_cli.training.segment import COMPLETE, Segment, opened_bench

KINDS = {
    "heads": ("p_h",),
    "columns": ("p_m",),
    "layers": ("p_l",),
    "heads and columns": ("p_h", "p_m"),
    "all": ("p_h", "p_m", "p_l"),
}
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


def cost_of_prices(config: AnalyzeConfig, spec: ModelSpec, checkpoints: int) -> float:
    """In optimizer steps."""
    settings = config.analyze
    segments = 1 + len(rates_drawn(config, spec, KINDS)) * settings.repeats
    return float(checkpoints * (segments * (settings.steps + settings.cooldown) + settings.cooldown))


def _moment(job: AnalysisJob, folder: Path, opened: OpenedCheckpoint) -> dict[str, Any]:
    """Everything at one checkpoint, as it stands in analysis.json."""
    config, settings, place = job.config, job.config.analyze, Path(opened.checkpoint.place)
    job.progress.begin(f"{opened.checkpoint.name}: prices")
    stored = stored_config(folder)
    stored.paths = config.paths
    with opened_bench(stored, config.sampling, place) as bench:

        def segment(rates: SamplingRates, number: int, steps: int) -> Segment[Losses]:
            seed = hash_numbers((config.seed, DRAWN, number))
            measure = partial(sequence_losses, bench.run.model, job.text)
            return bench.train(rates, seed, steps, settings.cooldown, measure, lambda: job.work.advance(1.0))

        checkpoint, complete = segment(COMPLETE, 0, 0), segment(COMPLETE, 0, settings.steps)
        gained = checkpoint.cooled - complete.cooled
        kinds: dict[str, list[tuple[float, SamplingRates, list[Segment[Losses]]]]] = {}
        for kind, rate, rates in rates_drawn(config, bench.run.spec, KINDS):
            segments = [segment(rates, number, settings.steps) for number in range(settings.repeats)]
            kinds.setdefault(kind, []).append((rate, rates, segments))
        offers = [
            {"kind": kind, "rate": rate, **_rates(rates), **offer}
            for kind, rows in kinds.items()
            for (rate, rates, segments), offer in zip(rows, _offers(rows, complete, gained), strict=True)
        ]
        return {
            "step": bench.step,
            "checkpoint": opened.checkpoint.name,
            "loss": float(checkpoint.cooled.mean()),
            "loss_complete": float(complete.cooled.mean()),
            "gain": _over_sequences(gained / settings.steps),
            "step_s": complete.step_s,
            "offers": offers,
        }


def _rates(rates: SamplingRates) -> dict[str, float]:
    return {"p_h": rates.p_h, "p_m": rates.p_m, "p_l": rates.p_l}


def _offers(
    rows: list[tuple[float, SamplingRates, list[Segment[Losses]]]], complete: Segment[Losses], gained: Losses
) -> list[dict[str, Any]]:
    """Of one kind, for each of its rates; `gained`: what the complete steps gain on each sequence."""
    cooled = np.array([[one.cooled - complete.cooled for one in segments] for _, _, segments in rows])
    raw = np.array([[one.raw - complete.raw for one in segments] for _, _, segments in rows])
    found = []
    for (_, _, segments), after, before in zip(rows, cooled, raw, strict=True):
        saved = _saved(segments, complete)
        lost = lost_steps(after, gained, variance_of_draws(cooled))
        found.append(
            {
                "cost": cost_of(after, variance_of_draws(cooled)),
                "cost_before_cooldown": cost_of(before, variance_of_draws(raw)),
                "each": after.mean(1).tolist(),
                "saved": saved,
                "lost": lost,
                "price": {name: _divided(lost, share) for name, share in saved.items()},
            }
        )
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
