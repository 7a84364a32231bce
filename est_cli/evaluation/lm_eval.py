"""Tasks of EleutherAI's lm-evaluation-harness (the extra `lm-eval`), with the checkpoint as it is."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from est_cli.common.errors import ConfigError, DataError, install_hint
from est_cli.config import EvalConfig
from est_cli.distributed.workers import Processes
from est_cli.evaluation.folder import keep_zero_shot
from est_cli.models.pretrained import Checkpoint, load_language_model, max_tokens
from est_cli.storage.digest import fingerprint


def require_harness() -> None:
    """Raise ConfigError where lm-evaluation-harness is absent."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(f"task: lm_eval:... needs lm-evaluation-harness; {install_hint('lm-eval')}")


def run_harness(
    config: EvalConfig, checkpoints: Sequence[Checkpoint], names: Sequence[str], folder: Path, processes: Processes
) -> dict[str, float]:
    """Run the tasks `names` on every checkpoint, in one process; print and keep what the harness found.

    Returns the numbers of the first checkpoint, as `lm_eval:TASK.METRIC`.
    """
    if processes.group.rank.world_size > 1:
        raise ConfigError("launch.num_processes: task=lm_eval:... runs in one process; leave it at 1")
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    settings = config.eval
    manager = TaskManager(include_path=settings.data_dir)
    _require_tasks(names, manager)
    numbers: dict[str, float] = {}
    for checkpoint in checkpoints:
        model = load_language_model(checkpoint).to(processes.device).eval()
        length = max_tokens(checkpoint, settings.max_length)
        wrapped = HFLM(
            pretrained=model, tokenizer=checkpoint.tokenizer, max_length=length, batch_size=settings.batch_size
        )
        with processes.autocast():
            found = lm_eval.simple_evaluate(model=wrapped, tasks=list(names), task_manager=manager)
        for name in names:
            result = _numbers(found["results"][name])
            told = {"max_length": length, "precision": settings.precision.value, "lm_eval": lm_eval.__version__}
            entry = {"checkpoint": checkpoint.name, "task": f"lm_eval:{name}", "results": result, **told}
            keep_zero_shot(folder, {**entry, "settings_digest": fingerprint(told)})
            print(f"{checkpoint.name}: {name}: " + ", ".join(f"{key} {value:.4f}" for key, value in result.items()))
            if checkpoint is checkpoints[0]:
                numbers |= {f"lm_eval:{name}.{key}": value for key, value in result.items()}
    return numbers


def _require_tasks(names: Sequence[str], manager: Any) -> None:
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise ConfigError(f"task: lm-evaluation-harness knows no task {unknown[0]!r}; `lm_eval ls tasks` lists them")


def _numbers(results: dict[str, Any]) -> dict[str, float]:
    """`acc`, `acc_stderr`, ... without the name of the filter and what is no number. Raises DataError."""
    numbers = {key.replace(",none", ""): float(value) for key, value in results.items() if isinstance(value, float)}
    if not numbers:
        raise DataError("task: lm-evaluation-harness gave no numbers for it; see its own messages above")
    return numbers
