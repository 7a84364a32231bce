"""What est-eval checks before torch: the models and files that it reads; and digests that tell evaluations apart.

Nothing heavy is imported here: what is missing is told before torch starts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from est_cli.common.errors import StorageError
from est_cli.config import EvalConfig, EvalSettings
from est_cli.config.eval import check_eval, split_tasks
from est_cli.config.schema import plain
from est_cli.config.setting import NO_RESULT, RECORDED, keys_with
from est_cli.data.text.sources import expand
from est_cli.evaluation.glue import files_of, require_files, tasks_in
from est_cli.storage.digest import fingerprint
from est_cli.storage.run_dir import (
    check_place,
    check_run_name,
    local_model,
    model_folder,
    name_of_model,
    run_of,
)

FINETUNE_VERSION = 1
"""To be raised with every change that makes another result of the same settings."""
PERPLEXITY_VERSION = 2
"""The same of task=perplexity."""
CONTINUES = "the same command goes on with the fine-tunings that are left"
"""What to do after a process was lost."""
LESS_MEMORY = "eval.batch_size: out of memory; use a smaller one, or a smaller eval.max_length"


def preflight(config: EvalConfig, given: set[str]) -> EvalConfig:
    """The configuration, checked. Raises an EstError for whatever can be told before torch is loaded."""
    check_eval(config)
    for key, name in (("run_name", config.run_name), ("sweep", config.sweep)):
        if name is not None:
            check_run_name(name, key)
    check_inputs(config)
    _check_place_of_results(config)
    return config


def check_inputs(config: EvalConfig) -> None:
    """Raise ConfigError, CheckpointError or DataError for tasks, models and files that are not there.

    What is on the hub is not looked at.
    """
    glue, perplexity, _ = split_tasks(config.task)
    for key, name in _models(config):
        local_model(key, name, config.paths.outputs_folder)
    data_dir = _data_dir(config)
    for task in tasks_in(data_dir, glue):
        if data_dir is not None:
            require_files(task, data_dir)
    if perplexity:
        expand(config.eval.files, "eval.files")
    check_place(config.paths.outputs_folder)


def results_folder(config: EvalConfig) -> Path:
    """[SWEEP/]RUN_NAME in paths.outputs where it is given; else the run's folder; else eval-NAME there."""
    outputs = config.paths.outputs_folder
    if config.run_name is not None:
        return outputs / (config.sweep or "") / config.run_name
    checkpoint = str(config.checkpoint)
    return run_of(Path(model_folder(checkpoint))) or outputs / f"eval-{name_of_model(checkpoint)}"


def _check_place_of_results(config: EvalConfig) -> None:
    try:
        check_place(results_folder(config))
    except StorageError as error:
        if config.run_name is not None:
            raise
        raise StorageError(f"{error}; run_name=NAME writes into {config.paths.outputs_folder}/NAME instead") from error


def settings_digest(settings: EvalSettings) -> str:
    """Of all settings that must be equal for two records to be compared."""
    told_apart = {key.removeprefix("eval.") for key in keys_with(EvalConfig, RECORDED)}
    return fingerprint(FINETUNE_VERSION, {k: v for k, v in plain(settings).items() if k not in told_apart})


def request_digest(config: EvalConfig) -> str:
    """Of the whole evaluation: its settings, and the files it reads as far as names, sizes and times tell them.

    An equal digest says that nothing is left to do. Another one says nothing: an evaluation recognises what it has
    already done by the content of the files.
    """
    free = keys_with(EvalConfig, NO_RESULT)
    settings = {key: value for key, value in plain(config).items() if not _is_free(key, free)}
    if not config.eval.save:  # the digest is that of a time before this setting
        settings["eval"] = {key: value for key, value in settings["eval"].items() if key != "save"}
    found = [(str(path), path.stat()) for path in sorted(set(_files(config)))]
    version = [FINETUNE_VERSION, PERPLEXITY_VERSION] if split_tasks(config.task)[1] else FINETUNE_VERSION
    return fingerprint(version, settings, [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found])


def _is_free(key: str, free: Collection[str]) -> bool:
    """Whether the key, or every key of the group, is one of these."""
    return any(name == key or name.startswith(f"{key}.") for name in free)


def _files(config: EvalConfig) -> Iterator[Path]:
    glue, perplexity, harness = split_tasks(config.task)
    data_dir = _data_dir(config)
    for key, name in _models(config):
        folder = local_model(key, name)
        yield from (path for path in (folder.iterdir() if folder else ()) if path.is_file())
    if data_dir is not None:
        splits = [(task, split) for task in tasks_in(data_dir, glue) for split in ("train", *task.dev_splits)]
        yield from (path for task, split in splits for path in files_of(data_dir, task, split))
        yield from (path for path in (data_dir.rglob("*") if harness else ()) if path.is_file())
    if perplexity:
        yield from expand(config.eval.files, "eval.files")


def _models(config: EvalConfig) -> Iterator[tuple[str, str]]:
    for key in ("checkpoint", "baseline"):
        name = getattr(config, key)
        if name is not None:
            yield key, name


def _data_dir(config: EvalConfig) -> Path | None:
    return None if config.eval.data_dir is None else Path(config.eval.data_dir)
