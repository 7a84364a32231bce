"""Records made up here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from est_cli.evaluation.finetune import task_score
from est_cli.evaluation.glue import TASKS
from est_cli.evaluation.outcomes import Record


def record(checkpoint: str, task: str, seed: int, *values: float, settings: str = "s", data: str = "d") -> Record:
    """`values`: one per metric, or per dev split where there are several."""
    splits, metrics = TASKS[task].dev_splits[: len(values)], TASKS[task].metrics
    if len(metrics) > 1:
        scores = {splits[0]: dict(zip(metrics, values, strict=True))}
    else:
        scores = {split: {metrics[0]: value} for split, value in zip(splits, values, strict=True)}
    score = task_score(TASKS[task], scores)
    return Record(
        checkpoint=checkpoint,
        task=task,
        seed=seed,
        scores=scores,
        score=score,
        epoch=3.0,
        epochs=[{"epoch": 1.0, "score": score / 2}, {"epoch": 3.0, "score": score}],
        train_examples=2000,
        dev_examples=dict.fromkeys(scores, 100),
        truncated=4 if task == "qnli" else 0,
        seconds=12.5,
        settings_digest=settings,
        data_digest=data,
    )


def nine(checkpoint: str, seeds: Sequence[int], values: Mapping[str, float] | None = None) -> list[Record]:
    """All tasks, every metric 0.5 or what `values` says."""
    count = {name: max(len(task.metrics), len(task.dev_splits)) for name, task in TASKS.items()}
    return [
        record(checkpoint, name, seed, *[(values or {}).get(name, 0.5)] * count[name])
        for name in TASKS
        for seed in seeds
    ]
