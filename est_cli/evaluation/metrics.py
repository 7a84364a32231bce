"""GLUE's official metrics, by scikit-learn and scipy. Values are in 0..1, mcc's in -1..1."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from statistics import fmean

import numpy as np

from est_cli.common.errors import NumericsError
from est_cli.evaluation.tasks import Task


def score(task: Task, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The task's metrics on one split, by name.

    `predictions`, `labels`: (N,), class ids, or for STS-B floats. What is constant correlates with nothing: 0.0.
    Raises NumericsError for predictions that are not finite.
    """
    assert predictions.shape == labels.shape and predictions.ndim == 1 and len(labels) > 0
    if not np.isfinite(predictions).all():
        raise NumericsError(f"task: {task.name}: predictions are not finite; try a lower eval.lr")
    if not task.is_regression:
        assert np.isin(predictions, range(len(task.labels))).all(), "predictions must be class ids"
        predictions, labels = predictions.astype(np.int64), labels.astype(np.int64)
    return {name: _metric(name, predictions, labels) for name in task.metrics}


def task_score(task: Task, scores_by_split: Mapping[str, Mapping[str, float]]) -> float:
    """The task's one number for the GLUE average: the mean of its metrics, over the dev splits that are there."""
    return fmean(fmean(scores_by_split[split].values()) for split in task.dev_splits if split in scores_by_split)


def _metric(name: str, predictions: np.ndarray, labels: np.ndarray) -> float:
    from scipy import stats  # these two take a second and a half to import
    from sklearn import metrics

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "accuracy":
            return float(metrics.accuracy_score(labels, predictions))
        if name == "f1":
            return float(metrics.f1_score(labels, predictions, zero_division=0.0))
        if name == "mcc":
            return float(metrics.matthews_corrcoef(labels, predictions))
        if len(labels) < 2:  # for which scipy has an error
            return 0.0
        correlate = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[name]
        value = float(correlate(predictions.astype(np.float64), labels.astype(np.float64)).statistic)
        return value if np.isfinite(value) else 0.0
