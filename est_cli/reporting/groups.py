"""Runs that differ only in their seed form a group; what it is called, and its curves over the seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from est_cli.config import RunConfig
from est_cli.config.batch import KEYS, varies
from est_cli.config.length import LENGTHS
from est_cli.config.schema import leaves_of, plain
from est_cli.config.setting import FREE, HASHED, METHOD, keys_with, short_key
from est_cli.reporting.records import Record, column, smooth_loss
from est_cli.reporting.runs import Axis, RunRecord
from est_cli.reporting.student_t import half_width

INTERVAL_FROM = 3
"""Seeds from which on a band is the confidence interval of the mean; of two it is their range."""
BUDGET = "steps"
_NAMED_FIRST = ("model.name", "dataset.name", "scheduler.name")
_IN_LABEL = 3
"""Settings in a label: more only where these do not tell the groups apart."""
_LONGEST = 24


@dataclass(frozen=True)
class Group:
    """Runs of one setting, in the order of their seeds."""

    label: str
    setting: dict[str, Any]
    """Whatever defines the training and its validation loss, but for the seed: dotted keys, `steps`, hashes of the
    data."""
    runs: list[RunRecord]

    @cached_property
    def counted(self) -> list[RunRecord]:
        """The finished ones, one of each seed: a seed that was run again is no new evidence."""
        first: dict[int, RunRecord] = {}
        for run in self.runs:
            if run.finished:
                first.setdefault(run.config.seed, run)
        return list(first.values())

    @cached_property
    def drawn(self) -> list[RunRecord]:
        """Those of the curves: the counted ones, or while there is none what there is so far."""
        return self.counted or list({run.config.seed: run for run in self.runs}.values())

    @property
    def seeds(self) -> list[int]:
        return [run.config.seed for run in self.counted]

    @property
    def steps(self) -> int:
        return int(self.setting[BUDGET])

    @property
    def dense(self) -> bool:
        return self.setting["scheduler.name"] == "dense"

    @cached_property
    def family(self) -> str:
        """The same for a group and for all dense groups, of whatever length, that it can be compared with."""
        return canonical({key: value for key, value in self.base.items() if key != BUDGET})

    @cached_property
    def base(self) -> dict[str, Any]:
        """The settings that its dense twin has too."""
        return _without_method(self.setting)

    @cached_property
    def asked(self) -> str:
        """The same for a group and its dense twin whatever became of the data: as the settings of a run name it."""
        return canonical(_without_method(_asked(self.runs[0])))


@dataclass(frozen=True)
class Curve:
    """The mean over seeds along an axis; `low` and `high` are the band, equal to the mean where there is one seed."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


def group_runs(runs: Iterable[RunRecord]) -> list[Group]:
    """The groups in the order in which their first runs come, dense ones first."""
    found: dict[str, tuple[dict[str, Any], list[RunRecord]]] = {}
    for run in runs:
        setting = setting_of(run)
        found.setdefault(canonical(setting), (setting, []))[1].append(run)
    settings = [setting for setting, _ in found.values()]
    groups = [
        Group(label, setting, sorted(members, key=lambda run: run.config.seed))
        for label, (setting, members) in zip(labels_of(settings), found.values(), strict=True)
    ]
    return sorted(groups, key=lambda group: not group.dense)


def setting_of(run: RunRecord) -> dict[str, Any]:
    """What runs of one group have in common. Where the hash of the data is known, it counts instead of the paths."""
    setting = _asked(run)
    for key in ("data_hash", "tokenizer_hash"):
        if run.recorded(key) is not None:
            setting[key] = run.recorded(key)
    if "data_hash" in setting:
        setting = {key: value for key, value in setting.items() if key not in keys_with(RunConfig, HASHED)}
    return setting


def _asked(run: RunRecord) -> dict[str, Any]:
    """The same by its settings alone."""
    leaves = leaves_of(plain(run.config))
    setting = {key: value for key, value in leaves.items() if _defines(key)}
    for key in LENGTHS:
        del setting[f"train.{key}"]
    setting[BUDGET] = run.planned_steps
    if varies(run.config.train):  # by stages, which no setting that counts for a dense twin holds
        setting |= dict.fromkeys((f"train.{key}" for key in KEYS), _batch_in_words(run))
    return setting


def _batch_in_words(run: RunRecord) -> str:
    """`2048x128 to 0.10, 4096x256 to 1.00`: tokens per step and sequence, up to which share of the run."""
    stages = zip(run.batch.stages, run.batch.ends, strict=True)
    return ", ".join(f"{step.tokens}x{step.seq_len} to {end / run.planned_steps:.2f}" for step, end in stages)


def _without_method(setting: Mapping[str, Any]) -> dict[str, Any]:
    sampling = keys_with(RunConfig, METHOD)
    return {key: value for key, value in setting.items() if key not in sampling}


def _defines(key: str) -> bool:
    """All but the seed and what may change when a run is resumed; how much text is validated on makes another loss."""
    return key == "train.eval_tokens" or not (key in keys_with(RunConfig, FREE) or key == "seed")


def labels_of(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each of several different settings: its scheduler, and what tells it from others of that scheduler."""
    named = [key for key in _NAMED_FIRST[:-1] if len({canonical(setting.get(key)) for setting in settings}) > 1]
    named.append(_NAMED_FIRST[-1])
    labels = []
    for setting in settings:
        alike = [other for other in settings if all(other.get(key) == setting.get(key) for key in named)]
        keys = _enough([key for key in differing(alike) if key not in named], alike)
        parts = [f"{short_key(key, keys)}={_shown(setting[key])}" for key in keys if setting.get(key) is not None]
        labels.append(", ".join([*(str(setting.get(key)) for key in named), *parts]))
    return [f"{label} #{index + 1}" if labels.count(label) > 1 else label for index, label in enumerate(labels)]


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys in which several settings differ."""
    keys = dict.fromkeys(key for setting in settings for key in setting)
    return [key for key in keys if len({canonical(setting.get(key)) for setting in settings}) > 1]


def _enough(keys: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first of `keys`: three if that tells the settings apart, else as many as it takes."""
    for count in range(min(_IN_LABEL, len(keys)), len(keys)):
        if len({canonical([setting.get(key) for key in keys[:count]]) for setting in settings}) == len(settings):
            return list(keys[:count])
    return list(keys)


def _shown(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def training_curve(group: Group, axis: Axis) -> Curve | None:
    """The running mean of the training loss; None without records."""
    return _curve(group.drawn, axis, lambda run: (run.train, smooth_loss(run.train)))


def logged_curve(group: Group, axis: Axis) -> Curve | None:
    """The training loss as it was logged."""
    return _curve(group.drawn, axis, lambda run: (run.train, column(run.train, "loss")))


def validation_curve(group: Group, axis: Axis) -> Curve | None:
    return _curve(group.drawn, axis, lambda run: (run.validation, column(run.validation, "val_loss")))


def _curve(runs: Sequence[RunRecord], axis: Axis, losses_of: Any) -> Curve | None:
    """On the steps that all seeds have. Along an axis on which seeds differ a step stands at their mean."""
    found: list[tuple[list[Record], np.ndarray]] = [losses_of(run) for run in runs]
    if not all(records for records, _ in found):
        return None
    by_step = [dict(zip(column(records, "step"), losses, strict=True)) for records, losses in found]
    steps = np.array([step for step in by_step[0] if all(step in losses for losses in by_step)])
    if not len(steps):
        return None
    x = np.mean([run.position(axis, steps) for run in runs], axis=0)
    known = np.isfinite(x)
    losses = np.array([[losses[step] for step in steps] for losses in by_step])[:, known]
    low, high = _band(losses)
    return Curve(x[known], losses.mean(axis=0), low, high, len(runs))


def _band(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`losses` (seeds, steps): the 95 % interval of the mean, or of fewer than three seeds the range."""
    n = len(losses)
    if n < INTERVAL_FROM:
        return losses.min(axis=0), losses.max(axis=0)
    half = half_width(1.0, n) * losses.std(axis=0, ddof=1)
    return losses.mean(axis=0) - half, losses.mean(axis=0) + half


def canonical(value: Any) -> str:
    """Plain values as one text; as a stage boundary 1 is a step and 1.0 the end, and they stay apart."""
    return json.dumps(value, sort_keys=True)
