"""The model's sizes, and whether the run fits them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from est_cli.config import HF, Attention, ModelConfig, RunConfig
from est_cli.config.resolve import numbers_given, options_of, preset_settings, scheduler_of
from est_cli.est.sizes import scheduled_sizes
from est_cli.est.spec import ModelSpec
from est_cli.families import family_of
from est_cli.families.shared.family import Family


def model_problems(config: RunConfig) -> Iterator[str]:
    model = config.model
    if not 0.0 <= model.dropout < 1.0:
        yield f"model.dropout: {model.dropout} is out of range; it must be in [0, 1)"
    if model.family == HF:
        yield from _hf_model(model)
        return
    if model.name_or_path is not None:
        yield "model.name_or_path: has a meaning only with model=hf"
    try:
        family = family_of(model.family)
    except ValueError as error:
        yield f"model.family: {error}, {HF}"
        return
    yield from _numbers(model, family)


def _hf_model(model: ModelConfig) -> Iterator[str]:
    if not model.name_or_path:
        yield "model.name_or_path: is missing; model=hf needs a config or checkpoint folder, or a hub id"
    for key in numbers_given(model):
        yield f"model.{key}: comes from model.name_or_path under model=hf; leave it null"


def _numbers(model: ModelConfig, family: Family) -> Iterator[str]:
    given = numbers_given(model)
    missing = [key for key in family.required if key not in given]
    yield from (f"model.{key}: null is not a size; give a positive integer" for key in missing)
    unknown = [key for key in given if key not in family.keys]
    yield from (f"model.{key}: has no meaning in the family {model.family}; leave it null" for key in unknown)
    wrong = [*_out_of_range(given)]
    yield from wrong
    if not missing and not unknown and not wrong:
        yield from family.problems(family.numbers(given))


def _out_of_range(given: dict[str, Any]) -> Iterator[str]:
    for key, value in given.items():
        if key == "norm_eps" and not 0.0 < value < 1.0:
            yield f"model.norm_eps: {value} is out of range; it must be above 0 and below 1"
        elif key == "rope_theta" and not (math.isfinite(value) and value > 0):
            yield f"model.rope_theta: {value} is out of range; it must be above 0"
        elif type(value) is int and value < 1:
            yield f"model.{key}: {value} is out of range; it must be at least 1"


def preset_sizes(model: ModelConfig) -> ModelSpec:
    """The specification of a checked preset, without a Hugging Face config."""
    return family_of(model.family).spec(SimpleNamespace(**preset_settings(model)))


def fit_problems(config: RunConfig, sizes: ModelSpec) -> Iterator[str]:
    seq_len, positions = config.train.seq_len, sizes.max_positions
    if positions is not None and seq_len > positions:
        yield f"train.seq_len: {seq_len} is longer than the model's {positions} positions (model.max_positions)"
    if not sizes.attention:
        yield from _state_space_problems(config, sizes.family)
    scheduler, options = scheduler_of(config), options_of(config.sampling)
    try:
        scheduled_sizes(sizes, scheduler, options)
    except ValueError as error:
        yield str(error)


def _state_space_problems(config: RunConfig, family: str) -> Iterator[str]:
    """Settings that have no meaning in a model without attention."""
    if config.train.attention is not Attention.auto:
        yield f"train.attention: {config.train.attention.value} has no meaning in the family {family}; leave it auto"
    if config.model.dropout:
        yield f"model.dropout: {config.model.dropout} has no meaning in the family {family}; leave it 0.0"
