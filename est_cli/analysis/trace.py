"""analysis=hessian_trace: of one checkpoint, or of all that a run kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from est_cli.analysis.curvature import quadratic_forms
from est_cli.analysis.estimate import estimate
from est_cli.analysis.figures import transitions_figure
from est_cli.analysis.job import Job, Outcome
from est_cli.analysis.parameters import chosen, group_names, sizes
from est_cli.analysis.work import Cells
from est_cli.config import Parameters
from est_cli.config.resolve import scheduler_of
from est_cli.config.stored import stored_config
from est_cli.models.pretrained import Checkpoint
from est_cli.storage.model_folder import run_of


def hessian_trace(job: Job) -> Outcome:
    """The trace of each checkpoint, on the same text and with the same probes."""
    found = []
    for asked in job.asked:
        traced = trace_of(job, job.load(asked.checkpoint), asked.checkpoint)
        stage = None if asked.step is None else stage_of(asked.checkpoint, asked.step)
        found.append({"step": asked.step, "stage": stage, **traced})
        job.shown.line(f"{asked.checkpoint.name}: trace {traced['trace']['mean']:.6g}; {job.shown.left()} left")
    if not job.config.analyze.transitions:
        return {key: value for key, value in found[0].items() if key not in ("step", "stage")}, {}
    return {"checkpoints": found}, {"transitions.png": transitions_figure(found)}


def trace_of(job: Job, model: PreTrainedModel, checkpoint: Checkpoint) -> dict[str, Any]:
    """The trace over the chosen weights, over each group of them, and without embeddings and LM head.

    Every group's is that of its own block of the Hessian, so they add up.
    """
    settings = job.config.analyze
    parameters, groups = chosen(model, settings.parameters), group_names(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in parameters)
    loss, value = job.loss(model, checkpoint)
    forms = quadratic_forms(loss, job.batches, parameters, settings.probes, job.config.seed, job.work)
    counts = sizes(parameters, groups)
    columns = {group: [groups[name] == group for name in parameters] for group in counts}
    result = {
        "checkpoint": checkpoint.name,
        "loss": value,
        "weights": sum(counts.values()),
        "trace": _estimated(forms),
        "groups": {group: {"weights": counts[group], **_estimated(forms[:, columns[group]])} for group in counts},
        "draws": forms.sum(axis=1).tolist(),
    }
    if settings.parameters is Parameters.all and len(counts) > 1 and "embeddings" in counts:
        result["without_embeddings"] = _estimated(forms[:, ~np.array(columns["embeddings"])])
    return result


def stage_of(checkpoint: Checkpoint, step: int) -> int | None:
    """The stage of the last step that was trained before `step`; None where the run is not known."""
    run = run_of(Path(checkpoint.place))
    return None if run is None else scheduler_of(stored_config(run)).stage_at(max(step - 1, 0))


def _estimated(forms: Cells) -> dict[str, Any]:
    return estimate(forms.sum(axis=1).tolist()).to_json()
