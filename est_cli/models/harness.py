"""lm-evaluation-harness, as far as est-eval and a training share it. Imported where it is used: it is an extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from est_cli.common.errors import ConfigError


def task_manager(key: str, names: Sequence[str], folder: str | None) -> Any:
    """What knows the harness' tasks and those in `folder`. ConfigError, for the setting `key`, of one unknown to it."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=folder)
    if unknown := [name for name in names if name not in manager.all_tasks]:
        raise ConfigError(f"{key}: lm-evaluation-harness knows no task {unknown[0]!r}; `lm_eval ls tasks` lists them")
    return manager


def harness_numbers(results: Mapping[str, Any]) -> dict[str, float]:
    """`acc`, `acc_stderr`, ... of a task without the name of the filter, and without what is no number."""
    return {key.replace(",none", ""): float(value) for key, value in results.items() if isinstance(value, float)}
