"""est-eval: which checkpoint, which tasks, and how it is fine-tuned on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from est_cli.common.nearby import no_folder
from est_cli.config.launch import LaunchConfig, whole_model_problems
from est_cli.config.paths import PathsConfig, paths_problems
from est_cli.config.setting import (
    FREE,
    NO_RESULT,
    RECORDED,
    TRACKED,
    above,
    at_least,
    between,
    group,
    range_problems,
    refuse,
    setting,
)
from est_cli.config.tracking import TrackingConfig, tracking_problems
from est_cli.config.training import Precision

PERPLEXITY = "perplexity"
LM_EVAL = "lm_eval:"


class Select(StrEnum):
    """Which dev result a fine-tuning reports: of the epoch with the best score, or of the last."""

    best = "best"
    last = "last"


@dataclass
class EvalSettings:
    data_dir: str | None = setting(
        None,
        "Folder of GLUE's files (CoLA/train.tsv, ...; or the hub's parquet); null: nyu-mll/glue of the hub. For "
        "lm_eval: a folder with tasks of your own.",
        FREE,
        RECORDED,
        untracked=True,
        brief="Folder of GLUE's files; null: from the hub",
    )
    epochs: float = setting(
        3.0,
        "May be a fraction: 0.5 is half of the training examples, once.",
        within=above(0),
        brief="Epochs, or a fraction of one",
    )
    seeds: list[int] = setting(
        [0, 1, 2],
        "One fine-tuning for each: it decides the new head, the order of the examples and dropout.",
        FREE,
        RECORDED,
        brief="One fine-tuning for each",
    )
    max_train_examples: int | None = setting(
        None,
        "The first so many of a fixed order that only their content decides; dev is always whole.",
        RECORDED,
        within=at_least(1),
        brief="Train on so many examples only",
    )
    batch_size: int = setting(
        32,
        "Examples of an optimizer step, over all processes.",
        within=at_least(1),
        brief="Examples of an optimizer step",
    )
    lr: float = setting(
        1e-4,
        "The largest rate of AdamW, reached after the warm-up and linearly falling to zero from there.",
        within=above(0),
        brief="AdamW's largest learning rate",
    )
    warmup: float = setting(0.06, "Fraction of the steps.", within=between("[0, 1)"))
    weight_decay: float = setting(
        0.01,
        "Applied to matrices and embeddings, not to biases and norms.",
        within=at_least(0),
        brief="Of matrices and embeddings",
    )
    max_length: int | None = setting(
        None,
        "Tokens of an example, or of a window of perplexity; null: as many as the model has positions.",
        within=at_least(8),
        brief="Tokens of an example or a window",
    )
    dropout: float | None = setting(
        None,
        "null: as the checkpoint's config.json says.",
        within=between("[0, 1)"),
        brief="Dropout; null: the checkpoint's own",
    )
    select: Select = setting(Select.best, "The dev result of the best epoch, or of the last.")
    save: bool = setting(
        False,
        "Keep each fine-tuned model of GLUE with its predictions on dev, in finetuned/ of the folder of the results: "
        "it opens in plain transformers.",
        FREE,
        RECORDED,
        untracked=True,
        brief="Keep each fine-tuned model, and predictions",
    )
    precision: Precision = setting(
        Precision.fp32,
        "bf16: autocast; the weights stay fp32. tf32: fp32 with a GPU's tensor cores. fp16 is refused.",
        brief="Type of the forward pass",
    )
    files: list[str] = setting(
        [],
        "task=perplexity: paths or globs of files as dataset.files takes them.",
        RECORDED,
        untracked=True,
        brief="task=perplexity: files, as dataset.files",
    )
    text_fields: list[str] = setting(
        ["text", "content"],
        "task=perplexity, jsonl and parquet: the first of these fields that a file has is its text.",
        RECORDED,
        untracked=True,
        brief="task=perplexity: fields with the text",
    )
    stride: int | None = setting(
        None,
        "task=perplexity: tokens from one window to the next; null: half a window.",
        RECORDED,
        within=at_least(1),
        brief="task=perplexity: tokens between windows",
    )


@dataclass
class EvalConfig:
    checkpoint: str | None = setting(
        None,
        "Folder of a model, a run's own folder (its final model is meant), or a hub id.",
        brief="Folder of a model or a run, or a hub id",
    )
    task: list[str] = setting(
        ["glue"],
        "GLUE tasks by name, glue (all of them), perplexity, or lm_eval:TASK (every name after that is one, too).",
        FREE,
        brief="GLUE tasks, glue (all), perplexity, or lm_eval:TASK",
    )
    baseline: str | None = setting(
        None,
        "A second checkpoint, which gets the same tasks and seeds and is compared pair by pair.",
        FREE,
        brief="A second checkpoint, compared pair by pair",
    )
    run_name: str | None = setting(
        None, "Folder below paths.outputs; null: that of the run the checkpoint comes from, else eval-NAME.", NO_RESULT
    )
    sweep: str | None = setting(
        None,
        "Folder between paths.outputs and run_name, which groups the evaluations of a sweep; null: none, or under -m a "
        "name made from what the command line sets.",
        FREE,
        NO_RESULT,
        brief="Folder for the evaluations of a sweep, in paths.outputs",
    )
    eval: EvalSettings = group(EvalSettings, TRACKED)
    tracking: TrackingConfig = group(TrackingConfig, FREE, NO_RESULT)
    paths: PathsConfig = group(PathsConfig, FREE, NO_RESULT)
    launch: LaunchConfig = group(LaunchConfig, FREE, NO_RESULT)


def check_eval(config: EvalConfig) -> None:
    """Raise one ConfigError that names every problem. Names of GLUE tasks are looked at by evaluation/glue.py."""
    refuse(
        [
            *_what(config),
            *range_problems(config),
            *_settings(config.eval),
            *whole_model_problems(config.launch, "est-eval"),
            *paths_problems(config.paths),
            *tracking_problems(config.tracking, config.sweep, trains=False),
        ]
    )


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
    glue, perplexity, harness = split_tasks(config.task)
    if config.eval.save and not glue:
        yield "eval.save: keeps fine-tuned models, and no GLUE task is named; leave it false"
    if not config.task or "" in config.task or "" in harness:
        yield "task: is empty; name GLUE tasks such as cola,sst2, or glue, perplexity or lm_eval:TASK"
    if perplexity and not config.eval.files:
        yield "eval.files: is empty; task=perplexity needs files of text or rows, for example ['text/*.txt']"
    for key in ("files", "text_fields"):
        if not perplexity and getattr(config.eval, key) != getattr(EvalSettings(), key):
            yield f"eval.{key}: has a meaning only with task=perplexity"


def _settings(settings: EvalSettings) -> Iterator[str]:
    if settings.precision is Precision.fp16:
        yield "eval.precision: fp16 needs a loss scale, which only est-train keeps; it must be fp32, tf32 or bf16"
    if settings.data_dir is not None and not os.path.isdir(settings.data_dir):
        yield f"eval.data_dir: {no_folder(settings.data_dir)}"
    if not settings.seeds:
        yield "eval.seeds: is empty; give at least one, [0]"
    if len(set(settings.seeds)) < len(settings.seeds) or not all(0 <= seed < 1 << 63 for seed in settings.seeds):
        yield f"eval.seeds: {settings.seeds} must be different numbers of at least 0 and below 2**63"
