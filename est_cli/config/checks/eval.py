"""est-eval: ranges and contradictions."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

from est_cli.common.errors import ConfigError
from est_cli.config import EvalConfig, EvalSettings
from est_cli.config.checks.launch import whole_model_problems

PERPLEXITY = "perplexity"
LM_EVAL = "lm_eval:"


def check_eval(config: EvalConfig) -> None:
    """Raise one ConfigError that names every problem. Names of GLUE tasks are looked at by glue/tasks.py."""
    problems = [*_what(config), *_settings(config.eval), *whole_model_problems(config.launch, "est-eval")]
    if problems:
        raise ConfigError("; also ".join(problems))


def split_tasks(names: list[str]) -> tuple[list[str], bool, list[str]]:
    """(names of GLUE tasks, whether perplexity is asked for, names of lm-evaluation-harness tasks)."""
    first = next((at for at, name in enumerate(names) if name.startswith(LM_EVAL)), len(names))
    harness = [name.removeprefix(LM_EVAL) for name in names[first:]]
    return [name for name in names[:first] if name != PERPLEXITY], PERPLEXITY in names[:first], harness


def _what(config: EvalConfig) -> Iterator[str]:
    if not config.checkpoint:
        yield "checkpoint: is missing; give the folder of a model, such as outputs/NAME/model"
    elif config.baseline is not None and os.path.realpath(config.baseline) == os.path.realpath(config.checkpoint):
        yield "baseline: is the checkpoint itself; give another one, or leave it null"
    if config.sweep is not None and config.run_name is None:
        yield "sweep: is a folder of several evaluations, so give run_name too; est-eval -m names them itself"
    _, perplexity, harness = split_tasks(config.task)
    if not config.task or "" in config.task or "" in harness:
        yield "task: is empty; name GLUE tasks such as cola,sst2, or glue, perplexity or lm_eval:TASK"
    if perplexity and not config.eval.files:
        yield "eval.files: is empty; task=perplexity needs .txt, .jsonl or .parquet files, for example ['text/*.txt']"
    if not perplexity and config.eval.files:
        yield "eval.files: has a meaning only with task=perplexity"


def _settings(settings: EvalSettings) -> Iterator[str]:
    if settings.data_dir is not None and not os.path.isdir(settings.data_dir):
        yield f"eval.data_dir: there is no folder {settings.data_dir}"
    if not settings.seeds:
        yield "eval.seeds: is empty; give at least one, [0]"
    for seed in settings.seeds:
        if not 0 <= seed < 1 << 63 or settings.seeds.count(seed) > 1:
            yield f"eval.seeds: {settings.seeds} must be different numbers of at least 0 and below 2**63"
            break
    for key in ("max_train_examples", "batch_size", "stride"):
        value = getattr(settings, key)
        if value is not None and value < 1:
            yield f"eval.{key}: {value} is out of range; it must be at least 1"
    if settings.max_length is not None and settings.max_length < 8:
        yield f"eval.max_length: {settings.max_length} is out of range; it must be at least 8"
    for key in ("epochs", "lr"):
        value = getattr(settings, key)
        if not (math.isfinite(value) and value > 0):
            yield f"eval.{key}: {value} is out of range; it must be above 0"
    if not (math.isfinite(settings.weight_decay) and settings.weight_decay >= 0):
        yield f"eval.weight_decay: {settings.weight_decay} is out of range; it must be at least 0"
    for key in ("warmup", "dropout"):
        value = getattr(settings, key)
        if value is not None and not 0.0 <= value < 1.0:
            yield f"eval.{key}: {value} is out of range; it must be in [0, 1)"
