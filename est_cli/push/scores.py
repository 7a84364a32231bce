"""What est-eval has found of a run's final model, as its card shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from est_cli.evaluation.outcomes import Record, spread
from est_cli.evaluation.results import read_records, zero_shot_results
from est_cli.reporting.card import Score


def scores_of(folder: Path, model: str) -> list[Score]:
    """The scores in results.json and zero_shot.json of `folder` of the model with the digest `model`, no other's.

    Of a task that was done with several settings the last counts. Raises DataError for files that are not ours.
    """
    fine_tuned = [record for record in read_records(folder) if _is_of(record.checkpoint, model)]
    entries = [entry for entry in zero_shot_results(folder) if _is_of(str(entry["checkpoint"]), model)]
    found = [*_glue(fine_tuned), *(score for entry in entries for score in _zero_shot(entry))]
    return list({(score.task, score.metric, score.of): score for score in found}.values())


def _is_of(checkpoint: str, model: str) -> bool:
    """Whether `FOLDER@DIGEST`, as records have it, is this model, wherever it lay then."""
    _, _, digest = checkpoint.rpartition("@")
    return len(digest) >= 8 and model.startswith(digest)


def _glue(records: list[Record]) -> Iterator[Score]:
    if not records:
        return
    last = {record.task: record.settings_digest for record in records}
    for task, digest in last.items():
        scores = [record.score for record in records if (record.task, record.settings_digest) == (task, digest)]
        over = spread(scores)
        sd = "" if over.sd is None else f", sd {over.sd:.4f}"
        yield Score(task, "score", over.mean, "fine-tuned", f"(dev set, mean of {over.n} seed{'s'[: over.n > 1]}{sd})")


def _zero_shot(entry: dict[str, Any]) -> Iterator[Score]:
    """Of one result of est-eval; what text it was measured on is not told, for that is a path."""
    task = str(entry["task"]).removeprefix("lm_eval:")
    numbers = entry.get("results", {key: entry.get(key) for key in ("perplexity", "bits_per_byte")})
    if not isinstance(numbers, dict):
        return
    name = "other text" if task == "perplexity" else task
    for metric, value in numbers.items():
        if isinstance(value, int | float) and not metric.endswith("_stderr"):
            yield Score(name, str(metric), float(value), "zero-shot")
