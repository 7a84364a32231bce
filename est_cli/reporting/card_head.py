"""The head of a model card: what the hub reads of it, as its documentation of model cards has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from est_cli.reporting.card_sources import base_model, hub_sets, word
from est_cli.reporting.runs import RunRecord


@dataclass(frozen=True)
class Score:
    """What an evaluation of the final model has found."""

    task: str
    """`perplexity`, or a name in GLUE or in lm-evaluation-harness."""
    metric: str
    value: float
    of: str
    """What was done: `fine-tuned`, `zero-shot`."""
    spread: str = ""
    """`mean of 3 seeds, sd 0.004`."""


def metadata(run: RunRecord, name: str, family: str, license_id: str | None, scores: Sequence[Score]) -> dict[str, Any]:
    """The head of the card, as the hub's documentation of model cards has it."""
    config, data_sets = run.config, [name for name, _ in hub_sets(run.config)]
    found: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    found |= {} if license_id is None else {"license": license_id}
    found["tags"] = ["est", "evolving-subnetwork-training", word(config.scheduler.name), family]
    found |= {"datasets": data_sets} if data_sets else {}
    base = base_model(config)
    found |= {"base_model": base} if base else {}
    results = [*_results(run, data_sets, scores)]
    found["metrics"] = list(dict.fromkeys(metric["type"] for result in results for metric in result["metrics"]))
    return found | {"model-index": [{"name": name, "results": results}]}


def _results(run: RunRecord, data_sets: Sequence[str], scores: Sequence[Score]) -> Iterator[dict[str, Any]]:
    assert run.summary is not None
    own = data_sets[0] if len(data_sets) == 1 else run.config.dataset.source.value
    numbers = {"loss": run.summary.get("final_val_loss"), "perplexity": run.summary.get("perplexity")}
    measured = [{"type": key, "name": f"validation {key}", "value": value} for key, value in numbers.items() if value]
    if measured:
        yield _result("text-generation", "Language modelling", own, "held-out part of the training text", measured)
    for score in scores:
        kind = "text-classification" if score.of == "fine-tuned" else "text-generation"
        metric = {"type": word(score.metric), "name": f"{score.metric} ({score.of})", "value": score.value}
        yield _result(kind, score.task, word(score.task), score.task, [metric])


def _result(kind: str, task: str, data: str, words: str, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    return {"task": {"type": kind, "name": task}, "dataset": {"type": data, "name": words}, "metrics": metrics}
