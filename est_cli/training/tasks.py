"""train.eval_tasks: the complete model, as it trains, does tasks of lm-evaluation-harness.

All processes run the harness on all documents and share the work of its log-likelihoods, batch by batch; the batches
are those of one process, so that the numbers are the same to the last bit. Under FSDP, where processes gather weights
together, each computes all. Nothing random of the run is touched.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from est_cli.common.errors import DataError, reason
from est_cli.config.training import TrainConfig
from est_cli.distributed import FullySharded, gathered
from est_cli.distributed.device import any_attention_kernel
from est_cli.models.harness import harness_numbers, task_manager
from est_cli.tracking import In

if TYPE_CHECKING:
    from est_cli.training.run import Run
from est_cli.training.validation import random_states_kept

FEWSHOT_SEED = 1234
"""As in the harness' own command."""


class Tasks:
    """The tasks, opened once."""

    def __init__(self, names: Sequence[str], tree: Mapping[str, Any], limit: int | None) -> None:
        """`tree`: what the harness made of the names, groups of tasks in one another."""
        self._names, self._tree, self._limit = list(names), dict(tree), limit

    def evaluate(self, run: Run) -> None:
        """Have the model as it is now do them, and record what comes of it. All processes call it."""
        step = run.state.step
        numbers = run.group.share(self._numbers(run))
        for name in self._names:
            if not any(key.startswith(f"{name}/") for key in numbers):
                run.progress.line(f"warning: train.eval_tasks: {name} gives no numbers")
        run.tracker.event(In.tasks, {"step": step, "tokens": run.batch.tokens_before(step), "tasks": numbers})
        shown = ", ".join(f"{name} {value:.4f}" for name, value in numbers.items() if not name.endswith("_stderr"))
        run.progress.line(f"tasks at step {step}: {shown}")

    def _numbers(self, run: Run) -> dict[str, float]:
        from lm_eval import evaluate

        from est_cli.training.harness_model import harness_model

        for task in _leaves(self._tree):
            task.set_fewshot_seed(seed=FEWSHOT_SEED)
        run.handle.activate(run.in_use)
        was_training = run.model.training
        run.model.eval()
        with _undisturbed(run.accelerator.device), run.autocast(), gathered(run.objective):
            model = harness_model(run, None if isinstance(run.gradient_sync, FullySharded) else run.group)
            found = evaluate(lm=model, task_dict=self._tree, limit=self._limit, bootstrap_iters=0, log_samples=False)
        run.model.train(was_training)
        return numbers_of(self._names, found["results"])


def numbers_of(names: Sequence[str], results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What the harness found, by `TASK/METRIC`, without what is not finite, which no file of a run holds."""
    found = {name: harness_numbers(results.get(name, {})) for name in names}
    return {
        f"{name}/{key.replace(',', ':')}": value  # a comma is in no tracker's names
        for name, numbers in found.items()
        for key, value in numbers.items()
        if math.isfinite(value)
    }


def open_tasks(train: TrainConfig) -> Tasks | None:
    """The tasks of train.eval_tasks; None without any.

    ConfigError for one that the harness does not know, DataError where its data cannot be had.
    """
    if not train.eval_tasks:
        return None
    manager = task_manager("train.eval_tasks", train.eval_tasks, train.eval_tasks_dir)
    from lm_eval.tasks import get_task_dict

    try:
        with _random_states_kept(torch.device("cpu")):  # no other is chosen yet
            tree = get_task_dict(list(train.eval_tasks), manager)
    except Exception as error:  # of the hub, of data sets, of a task's own file
        raise DataError(f"train.eval_tasks: cannot be opened ({reason(error)})") from error
    for task in _leaves(tree):
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
    return Tasks(train.eval_tasks, tree, train.eval_tasks_limit)


def _leaves(tree: Mapping[Any, Any]) -> Iterator[Any]:
    """The tasks in the harness' groups."""
    for value in tree.values():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield value


@contextmanager
def _random_states_kept(device: torch.device) -> Iterator[None]:
    """What the harness draws on the CPU and this device, training does not notice."""
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with random_states_kept(device):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """For the harness' passes: each length is a shape, and its bars would be drawn across the run's own lines."""
    from tqdm import tqdm

    init = tqdm.__init__

    def quiet(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **{**kwargs, "disable": True})

    tqdm.__init__ = quiet
    try:
        eager = torch.compiler.set_stance("force_eager")
        with _random_states_kept(device), torch.no_grad(), eager, any_attention_kernel():
            yield
    finally:
        tqdm.__init__ = init
