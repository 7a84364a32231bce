"""All numbers of a report as plain data: what report.json holds and what the page's tables show."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

from est_cli.config import RunConfig
from est_cli.config.setting import HASHED, keys_with
from est_cli.reporting.answer import Answer, answers_of, headline
from est_cli.reporting.claim import Claim, Comparison, Difference, hardware_of
from est_cli.reporting.groups import Group, canonical
from est_cli.reporting.heat_map import HeatMap
from est_cli.reporting.records import task_records
from est_cli.reporting.runs import Axis, RunRecord
from est_cli.tracking.records import In, fields_of

_MEASURED = [field.name for field in fields_of(In.report)]
NOT_COUNTED = "repeats a seed"


def run_row(run: RunRecord, group: Group) -> dict[str, Any]:
    """One run; numbers that it does not know are None."""
    summary = run.summary or {}
    recorded = {
        **summary,
        "flops_total": _known(run.end(Axis.flops_total)),
        "flops_dense_total": summary.get("flops_dense"),
        "train_s": _known(run.end(Axis.seconds)),
    }
    status = "finished" if run in group.counted else NOT_COUNTED if run.finished else "unfinished"
    return {
        "run": run.name,
        "group": group.label,
        "seed": run.config.seed,
        "status": status,
        "steps": run.steps,
        "planned_steps": run.planned_steps,
        "tokens": run.batch.tokens_before(run.steps),
        **{key: recorded.get(key) for key in _MEASURED},
    }


def task_rows(run: RunRecord) -> list[dict[str, Any]]:
    """What it reached in train.eval_tasks, evaluation by evaluation."""
    return [
        {"run": run.name, "step": record["step"], "numbers": record["tasks"]} for record in task_records(run.metrics)
    ]


def group_row(group: Group) -> dict[str, Any]:
    """Mean and standard deviation (n - 1; None of one) over the counted runs."""
    rows = [run_row(run, group) for run in group.counted]
    means: dict[str, Any] = {}
    for key in _MEASURED:
        values = [row[key] for row in rows if row[key] is not None]
        means[key] = fmean(values) if values else None
        means[f"{key}_sd"] = stdev(values) if len(values) > 1 else None
    tokens = group.runs[0].batch.tokens_before(group.steps)
    return {"group": group.label, "n": len(rows), "seeds": group.seeds, "steps": group.steps, "tokens": tokens} | means


def claim_card(claim: Claim) -> dict[str, Any]:
    """The comparisons, and what was run: seeds, commit, hashes, versions, hardware."""
    return {
        "group": claim.group.label,
        "dense": None if claim.twin is None else claim.twin.label,
        "seeds": claim.group.seeds,
        "dense_seeds": None if claim.twin is None else claim.twin.seeds,
        "saved_pct": {axis.value: _estimate(found) for axis, found in claim.saved.items()},
        "comparisons": [_comparison(comparison) for comparison in claim.comparisons],
        "expected": None if claim.expected is None else asdict(claim.expected),
        "cautions": claim.cautions,
        "provenance": provenance(claim),
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    found = comparison.difference
    row = {"measure": comparison.measure, "against": comparison.against, "note": comparison.note}
    verdict = "not measured" if found is None else found.verdict
    losses = {"loss": comparison.loss, "dense_loss": comparison.dense_loss}
    return row | losses | {"difference": _estimate(found), "verdict": verdict}


def _estimate(found: Difference | None) -> dict[str, Any] | None:
    if found is None:
        return None
    low, high = found.interval or (None, None)
    return {"mean": found.mean, "low": low, "high": high, "n": found.n, "paired": found.paired}


def provenance(claim: Claim) -> dict[str, list[str]]:
    """Each a list of the different values among the runs of both sides, empty where none was recorded."""
    runs = [*claim.group.counted, *(claim.twin.counted if claim.twin else [])]
    versions = [run.recorded("versions") or {} for run in runs]
    return {
        "commit": _different(run.recorded("git_commit") for run in runs),
        "config": [config_hash(claim.group), *([f"{config_hash(claim.twin)} (dense)"] if claim.twin else [])],
        "data": _different(run.recorded("data_hash") for run in runs),
        "tokenizer": _different(run.recorded("tokenizer_hash") for run in runs),
        "torch": _different(found.get("torch") for found in versions),
        "transformers": _different(found.get("transformers") for found in versions),
        "hardware": _different(map(hardware_of, runs)),
    }


def config_hash(group: Group) -> str:
    """SHA-256, shortened, of the settings that define the training; seed, names and paths of text do not count."""
    hidden = {*keys_with(RunConfig, HASHED), "data_hash", "tokenizer_hash"}
    setting = {key: value for key, value in group.setting.items() if key not in hidden}
    return hashlib.sha256(canonical(setting).encode()).hexdigest()[:12]


def _different(values: Any) -> list[str]:
    return sorted({str(value) for value in values if value is not None})


def answer_row(answer: Answer) -> dict[str, Any]:
    """The sentence and the numbers in it."""
    return {
        "group": answer.group,
        "found": answer.found,
        "sentence": answer.sentence,
        "difference": _estimate(answer.difference),
        "saved_pct": {axis.value: _estimate(found) for axis, found in answer.saved.items()},
        "commands": list(answer.shown),
    }


def heat_map_row(heat_map: HeatMap) -> dict[str, Any]:
    noise = None if heat_map.noise is None else asdict(heat_map.noise)
    return {"steps": heat_map.steps, "cells": [asdict(cell) for cell in heat_map.cells], "noise": noise}


def all_numbers(
    title: str, made: str, groups: Sequence[Group], claims: Sequence[Claim], maps: Sequence[HeatMap]
) -> dict[str, Any]:
    """What report.json holds."""
    answers = answers_of(groups, claims)
    return {
        "title": title,
        "made": made,
        "headline": headline(answers, groups),
        "answers": [answer_row(answer) for answer in answers],
        "groups": [group_row(group) for group in groups],
        "runs": [run_row(run, group) for group in groups for run in group.runs],
        "tasks": [row for group in groups for run in group.runs for row in task_rows(run)],
        "claims": [claim_card(claim) for claim in claims],
        "heat_maps": [heat_map_row(heat_map) for heat_map in maps],
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
