"""Prices that est-analyze has measured: what of a run they hold for, the file as others read it, what it predicts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from est_cli.common.errors import ConfigError
from est_cli.common.redact import one_line
from est_cli.config.length import LENGTHS, MOST_STEPS
from est_cli.config.method import SamplingConfig
from est_cli.config.resolve import Resolved
from est_cli.config.run import RunConfig
from est_cli.config.schedulers.shared.scheduler import POSITIONS, RATES
from est_cli.config.schema import leaves_of, plain
from est_cli.config.setting import FREE, SETTLED, keys_with, left_open
from est_cli.est.prices import Estimate, Moment, PriceList, spans_of
from est_cli.est.schedule import SamplingRates
from est_cli.storage import strict_json

FILE = "analysis.json"
"""In the folder that analysis=prices makes."""
MAX_BYTES = 1 << 24
MOST_OFFERS = 100
"""At a moment: the time that a design takes grows with their third power."""
LARGEST = 1e9
"""Of any number in a file of prices: what is added up and squared stays a number."""
MOST_SHOWN = 40
"""Characters of a value of the file in a message."""
_ANY = ("seed", "fork", "share_prefix", "launch.", "scheduler.", "stage.", *(f"train.{key}" for key in LENGTHS))
"""What prices are expected to hold for whatever it is."""
OF_STEPS = ("sampling.cover", "sampling.layers_by", "sampling.ranks")
"""How the draws of a step go together: est-analyze takes prices of the default alone."""


def settings_of_prices(run: RunConfig, sampling: SamplingConfig) -> dict[str, Any]:
    """By dotted key what prices of this run hold for, with the draws that they were taken with."""
    free = keys_with(RunConfig, FREE)
    leaves = leaves_of(plain(run)) | leaves_of(plain(sampling), "sampling.")
    return {key: value for key, value in leaves.items() if key not in free and not key.startswith(_ANY)}


def read_prices(place: str) -> tuple[PriceList, dict[str, Any], int]:
    """The prices in a file, or in the folder of an analysis; the settings that they hold for; that run's steps.

    Raises ConfigError where there is none, or it is no such file.
    """
    path = Path(place)
    path = path / FILE if path.is_dir() else path
    try:
        content = strict_json.read_file(path, MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"prices: {path}: {error.strerror}; give the folder of an analysis=prices") from error
    except ValueError as error:
        raise ConfigError(f"prices: {path}: {error}; give the folder of an analysis=prices") from error
    try:
        return _parsed(content)
    except _NoPriceError as error:
        raise ConfigError(f"prices: {path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        missing = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"prices: {path}: is not what est-analyze analysis=prices writes: {missing}") from error


def other_settings(config: RunConfig, settings: Mapping[str, Any]) -> Iterator[str]:
    """`KEY (THEIRS, here OURS)` of each setting that is not the one that prices hold for."""
    ours, settled = settings_of_prices(config, config.sampling), keys_with(RunConfig, SETTLED)
    defaults = settings_of_prices(RunConfig(), SamplingConfig())  # what a file from before est had a key was made with
    for key, theirs in (defaults | dict(settings)).items():
        is_open = key in settled and (key not in settings or left_open(key, ours.get(key)))
        if key in ours and repr(ours[key]) != repr(theirs) and not is_open:
            yield f"{key} ({_shown(theirs)}, here {ours[key]})"


@dataclass(frozen=True)
class Prediction:
    """What a run is expected to end with, beside a dense run of as many steps."""

    place: str
    """Where the prices are from."""
    steps: tuple[int, ...]
    """Where in the run they were taken."""
    lost: Estimate
    """Complete steps."""
    loss: Estimate
    """Nats."""
    gain: Estimate
    """Nats that a complete step is worth at its end."""


def prices_for(config: RunConfig, place: str) -> PriceList:
    """Those in a file. ConfigError where they are of another model, text or training."""
    prices, settings, _ = read_prices(place)
    if others := [*other_settings(config, settings)]:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        unpriced = others[0].startswith(OF_STEPS)
        way_out = "no prices can be taken of that; leave it so" if unpriced else "take prices of this one"
        raise ConfigError(f"prices: {place}: of a run with another {others[0]}{more}; {way_out}")
    return prices


def predicted(run: Resolved, place: str) -> Prediction:
    """Of a run. ConfigError where prices are not of this run, or not of the rates of its stages."""
    prices, steps = prices_for(run.config, place), run.max_steps
    try:
        lost = prices.lost(spans_of(run.scheduler), steps)
    except ValueError as error:
        raise ConfigError(f"prices: {place}: {error}, which scheduler={run.config.scheduler.name} has") from error
    gain, measured = prices.gain_at(run.decay_begin or steps), tuple(moment.step for moment in prices.moments)
    return Prediction(place, measured, lost, _product(lost, gain), gain)


def between(one: Estimate, form: str) -> str:
    """Its 95 % interval."""
    low, high = one.interval
    return f"{low:{form}} to {high:{form}}"


def _product(one: Estimate, other: Estimate) -> Estimate:
    """Of independent ones, to first order in their errors."""
    return Estimate(one.mean * other.mean, math.hypot(one.error * other.mean, one.mean * other.error))


def _parsed(content: Mapping[str, Any]) -> tuple[PriceList, dict[str, Any], int]:
    if content["analysis"] != "prices":
        raise ValueError(f"it is of analysis={_shown(content['analysis'])}")
    result = content["result"]
    settings, steps = dict(result["settings"]), _steps("run_steps", result["run_steps"])
    return PriceList(tuple(map(_moment, result["moments"]))), settings, steps


class _NoPriceError(Exception):
    """A file as it should be, of a measurement that told nothing."""


def _moment(found: Mapping[str, Any]) -> Moment:
    step, gain = _steps("the step of a moment", found["step"]), _estimate(found["gain"])
    if any(offer["lost"] is None for offer in found["offers"]) or gain.mean <= 0.0:
        raise _NoPriceError(
            f"what complete steps gain at step {step} is not told from 0, so nothing has a price there; measure with "
            "more analyze.tokens or analyze.steps, or give est-analyze an earlier checkpoint alone"
        )
    lost = {_rates(offer): _estimate(offer["lost"]) for offer in found["offers"]}
    if not 0 < len(found["offers"]) <= MOST_OFFERS or len(lost) < len(found["offers"]):
        raise ValueError(f"the offers of step {step} are none, over {MOST_OFFERS}, or the same rates twice")
    return Moment(step, gain, lost)


def _steps(what: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MOST_STEPS:
        raise ValueError(f"{what} is {_shown(value)}")
    return value


def _rates(offer: Mapping[str, Any]) -> SamplingRates:
    p_h, p_m, p_l, p_t = (_number({"p_t": 1.0, **offer}[key]) for key in (*RATES, *POSITIONS))
    return SamplingRates(p_h, p_m, p_l, p_t=p_t)


def _estimate(found: Mapping[str, Any]) -> Estimate:
    error = _number(found["standard_error"])
    if error < 0:
        raise ValueError(f"a standard error is {error}")
    return Estimate(_number(found["mean"]), error)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST <= value <= LARGEST:
        raise ValueError(f"{_shown(value)} is no number, or over {LARGEST:g}")
    return float(value)


def _shown(value: Any) -> str:
    return one_line(str(value)[:MOST_SHOWN])  # it may end on a page of est-report, too
