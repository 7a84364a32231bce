"""One fine-tuning: a plain loop over the examples, and GLUE's official metrics on dev after each epoch.

AdamW with linear warm-up and descent, gradients clipped to norm 1. What is random is a pure function of the seed: the
head, the order of the examples and dropout. Metrics are scikit-learn's and scipy's, in 0..1, mcc's in -1..1.
B examples, C classes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from est_cli.common.counts import counted
from est_cli.common.errors import NumericsError
from est_cli.config import EvalSettings, OptimConfig, Select
from est_cli.distributed.workers import WHOLE, Processes
from est_cli.est.hashing import hash_numbers
from est_cli.evaluation.classifier import Encoded, collate, epoch_order, logits_of, steps_of
from est_cli.evaluation.glue import Task
from est_cli.training.optim import build_optimizer, update

CLIP = 1.0
PREDICT_BATCHES = 2
"""A batch without gradients may have so many times the examples of one with them."""
BACKWARD = 3
"""What training on an example costs, in forward passes of it."""
Advance = Callable[[float], None]
"""Called after each batch with the work it was, in examples that all processes have read forwards."""


@dataclass(frozen=True)
class EncodedTask:
    """A task as one checkpoint reads it."""

    task: Task
    train: Encoded
    dev: dict[str, Encoded]
    """By dev split."""
    pad_id: int

    @property
    def outputs(self) -> int:
        """Of the head: one for each class, or the score."""
        return 1 if self.task.is_regression else len(self.task.labels)

    @property
    def truncated(self) -> int:
        return self.train.truncated + sum(part.truncated for part in self.dev.values())


@dataclass(frozen=True)
class Epoch:
    """What the model is worth after `epoch` epochs (a whole number, or the end)."""

    epoch: float
    loss: float
    """Mean training loss since the last one."""
    scores: dict[str, dict[str, float]]
    """Dev split -> metric -> value."""
    score: float
    predictions: dict[str, np.ndarray]
    """Dev split -> (N,): class ids or scores, in the order of the examples."""

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return {"epoch": self.epoch, "loss": self.loss, "score": self.score, "scores": self.scores}


def finetune(
    model: PreTrainedModel,
    data: EncodedTask,
    settings: EvalSettings,
    seed: int,
    processes: Processes,
    advance: Advance,
    after_epoch: Callable[[Sequence[Epoch]], None] = lambda epochs: None,
) -> list[Epoch]:
    """Train `model` on the task and return all its epochs. Every process calls it with the same arguments.

    `after_epoch` is called with those so far while the weights are those of the last of them.
    Raises NumericsError where the loss or a gradient was not finite.
    """
    model.to(processes.device)
    steps, per_epoch = steps_of(len(data.train), settings.batch_size, settings.epochs)
    optim = OptimConfig(lr=settings.lr, beta2=0.999, weight_decay=settings.weight_decay)
    optimizer, gradient_sync = build_optimizer(model, optim), processes.gradient_sync(model)
    epochs, losses, rejected = [], [], []
    processes.compare(model, 0, steps)
    for step, batch in enumerate(_batches(len(data.train), settings.batch_size, seed, steps)):
        model.train()
        torch.manual_seed(hash_numbers((seed, step, processes.group.rank.rank)))  # for dropout
        gradient_sync.begin(WHOLE)
        gradient_sync.before(0)
        loss = _backward(model, data, batch, processes)
        loss = gradient_sync.finish(loss.reshape(1))[0]
        rejected.append(update(optimizer, _lr_at(step, steps, settings), CLIP, loss)[1])
        losses.append(loss)
        processes.compare(model, step + 1, steps)
        advance(BACKWARD * len(batch))
        if (step + 1) % per_epoch == 0 or step + 1 == steps:
            _require_finite(torch.stack(rejected))
            mean = torch.stack(losses).mean().item()
            size = settings.batch_size * PREDICT_BATCHES
            predictions = {
                split: predict(model, data, part, size, processes, advance) for split, part in data.dev.items()
            }
            epochs.append(_epoch(data, predictions, (step + 1) / per_epoch, mean))
            after_epoch(epochs)
            losses, rejected = [], []
    return epochs


def work_of(train: int, dev: int, settings: EvalSettings) -> int:
    """What a fine-tuning with so many examples is in all, as `Advance` counts it."""
    steps, per_epoch = steps_of(train, settings.batch_size, settings.epochs)
    epochs, rest = divmod(steps, per_epoch)
    return BACKWARD * (epochs * train + rest * settings.batch_size) + math.ceil(steps / per_epoch) * dev


def reported(epochs: Sequence[Epoch], select: Select) -> Epoch:
    """The epoch that counts: the last, or the first of those with the best score."""
    return epochs[-1] if select is Select.last else max(epochs, key=lambda epoch: epoch.score)


def _lr_at(step: int, steps: int, settings: EvalSettings) -> float:
    """Rate of step `step` (0-based): up over the warm-up, then linearly down, to reach zero behind the last step."""
    warmup = round(settings.warmup * steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    return settings.lr * (steps - step) / (steps - warmup)


def _batches(count: int, batch_size: int, seed: int, steps: int) -> Iterator[list[int]]:
    """The examples of each step."""
    per_epoch = math.ceil(count / batch_size)
    for step in range(steps):
        epoch, number = divmod(step, per_epoch)
        if number == 0:
            order = epoch_order(count, seed, epoch)
        yield order[number * batch_size : (number + 1) * batch_size]


def _backward(model: PreTrainedModel, data: EncodedTask, batch: Sequence[int], processes: Processes) -> Tensor:
    """Gradients of this process's share of the batch's mean loss; the share, detached, in fp32."""
    own = processes.own(batch)
    here = own or batch[:1]  # one that counts nothing: all processes must have gradients
    with processes.autocast():
        logits = logits_of(model, collate([data.train.rows[at] for at in here], data.pad_id, processes.device))
    losses = _losses(logits.float(), [data.train.labels[at] for at in here], data.task)
    loss = losses.sum() * (len(own) / len(here)) / len(batch)
    loss.backward()
    return loss.detach()


def _losses(logits: Tensor, labels: Sequence[float], task: Task) -> Tensor:
    """(B,): cross-entropy, or of a regression the squared error. logits (B, C)."""
    if task.is_regression:
        return (logits.squeeze(1) - logits.new_tensor(labels)).square()
    classes = torch.tensor([int(label) for label in labels], device=logits.device)
    return F.cross_entropy(logits, classes, reduction="none")


def _require_finite(rejected: Tensor) -> None:
    if count := int(rejected.sum()):
        raise NumericsError(
            f"eval.lr: loss or gradient not finite in {count} of {counted(len(rejected), 'step')}; use a lower one"
        )


def _epoch(data: EncodedTask, predictions: dict[str, np.ndarray], epoch: float, loss: float) -> Epoch:
    scores = {
        split: score(data.task, found, np.asarray(data.dev[split].labels)) for split, found in predictions.items()
    }
    return Epoch(epoch, loss, scores, task_score(data.task, scores), predictions)


def predict(
    model: PreTrainedModel, data: EncodedTask, dev: Encoded, batch_size: int, processes: Processes, advance: Advance
) -> np.ndarray:
    """(N,): the class with the largest logit, or the score, of each example; every process gets all of them."""
    by_length = sorted(range(len(dev)), key=lambda at: -len(dev.rows[at]["input_ids"]))  # little to fill up
    own = processes.own(by_length)
    found, counted = np.zeros(len(dev)), np.zeros(len(dev))
    model.eval()
    with torch.no_grad(), processes.autocast():
        for at in range(0, len(own), batch_size):
            here = own[at : at + batch_size]
            logits = logits_of(model, collate([dev.rows[i] for i in here], data.pad_id, processes.device))
            values = logits.squeeze(1) if data.task.is_regression else logits.argmax(1)
            found[here], counted[here] = values.float().cpu().numpy(), 1
            advance(len(here) * len(dev) / len(own))  # the others do as much at the same time
    total = np.asarray(processes.group.sum([*found, *counted])).reshape(2, -1)
    assert (total[1] == 1).all(), "every example must be counted once"
    return total[0]


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
