"""An evaluation: every task, checkpoint and seed that is not in the records yet, one after the other."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from est_cli.common.counts import counted
from est_cli.common.errors import ConfigError
from est_cli.config import EvalConfig, EvalSettings
from est_cli.config.eval import split_tasks
from est_cli.config.schema import plain, tracked_settings
from est_cli.data.tokens.evaluated import try_tokenizer
from est_cli.distributed.workers import Processes, meet, memory_enough
from est_cli.evaluation.check_evaluation import CONTINUES, LESS_MEMORY, request_digest, results_folder, settings_digest
from est_cli.evaluation.classifier import encode, load_classifier
from est_cli.evaluation.examples import TaskData, load_task
from est_cli.evaluation.finetune import EncodedTask, Epoch, finetune, reported, work_of
from est_cli.evaluation.glue import resolve_tasks, tasks_in
from est_cli.evaluation.outcomes import Constant, Record, constant_predictions, score_numbers
from est_cli.evaluation.results import keep_summary, owned, read_records, require_room, write_results
from est_cli.evaluation.saved_model import FOLDER, EpochWeights, FinetunedModel, clean_saved, model_folder_of
from est_cli.evaluation.score_table import print_results
from est_cli.evaluation.zero_shot import measure_all, require_harness, run_harness
from est_cli.models.pretrained import Checkpoint, max_tokens, open_checkpoint
from est_cli.storage.run_dir import model_folder
from est_cli.storage.versions import versions
from est_cli.tracking import Ending, Job, WandbSink, chosen_run_id, new_run_id
from est_cli.tracking.trained_run import training_run
from est_cli.tracking.work_progress import WorkProgress, progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneJob:
    """One fine-tuning."""

    checkpoint: Checkpoint
    data: TaskData
    seed: int

    def identity(self, digest: str) -> tuple[str, str, int, str, str]:
        """As Record.identity."""
        return self.checkpoint.name, self.data.task.name, self.seed, digest, self.data.digest


def evaluate(config: EvalConfig) -> None:
    """Run what a checked configuration asks for, and print and keep the results. Any EstError may come out of it.

    Under a launcher every process calls it; the first one writes and prints.
    """
    request = request_digest(config)  # before anything is read: what changes from now on is another evaluation
    glue, perplexity, harness = split_tasks(config.task)
    if harness:
        require_harness()
    checkpoints = _checkpoints(config)
    data = _load_data(config, glue) if glue else []
    numbers: dict[str, Any] = {}
    folder = results_folder(config)
    with meet(config.launch, config.eval.precision, CONTINUES) as processes, processes.first_only(owned(folder)):
        if data:
            numbers |= _finetune_all(config, checkpoints, data, folder, processes)
        if perplexity:
            numbers |= measure_all(config, checkpoints, folder, processes)
        if harness:
            numbers |= run_harness(config, checkpoints, harness, folder, processes)
        if processes.first and config.sweep is not None:
            keep_summary(folder, request, numbers)


def _checkpoints(config: EvalConfig) -> list[Checkpoint]:
    """The checkpoint, and the baseline if there is one. ConfigError where both are the same."""
    names = {"checkpoint": config.checkpoint, "baseline": config.baseline}
    found = [open_checkpoint(key, name) for key, name in names.items() if name is not None]
    if len({checkpoint.name for checkpoint in found}) < len(found):
        raise ConfigError(f"baseline: {config.baseline} is the checkpoint itself; name another one, or none")
    return found


def _load_data(config: EvalConfig, names: list[str]) -> list[TaskData]:
    """All tasks, before the first fine-tuning; of `glue` those that the folder holds."""
    folder = None if config.eval.data_dir is None else Path(config.eval.data_dir)
    tasks = tasks_in(folder, names)
    if absent := [task.name for task in resolve_tasks(names) if task not in tasks]:
        log.info("eval.data_dir: %s is not complete in %s and left out", ", ".join(absent), folder)
    data = [load_task(task, folder, config.eval.max_train_examples) for task in tasks]
    for one in data:
        log.info("%s: %d examples to train on, of %s", one.task.name, len(one.train), one.source)
    return data


def _finetune_all(
    config: EvalConfig, checkpoints: list[Checkpoint], data: list[TaskData], folder: Path, processes: Processes
) -> dict[str, Any]:
    """In the order of tasks, checkpoints, seeds; each result is kept as soon as it is there.

    Returns the numbers of the first checkpoint for a sweep, in the first process.
    """
    jobs = [
        FinetuneJob(checkpoint, one, seed) for one in data for checkpoint in checkpoints for seed in config.eval.seeds
    ]
    digest = settings_digest(config.eval)
    model, baseline = checkpoints[0].name, checkpoints[1].name if checkpoints[1:] else None
    found = _kept_before(folder, config.eval.save) if processes.first else {}
    done = {job.identity(digest) for job in jobs} & set(found)
    missing = [number for number, job in enumerate(jobs) if job.identity(digest) not in done]
    if processes.first:
        require_room(folder, len(missing), config.eval.epochs)
    left = [jobs[number] for number in processes.group.share(missing)]
    results = [found[job.identity(digest)] for job in jobs if job.identity(digest) in done]
    work = [work_of(len(job.data.train), sum(map(len, job.data.dev.values())), config.eval) for job in left]
    names = ", ".join(one.task.name for one in data)
    with (
        progress(sum(work), quiet=not processes.first) as shown,
        processes.first_only(_tracked(config, folder, shown.line) if left else nullcontext()) as sink,
    ):
        shown.line(f"{names}: {len(jobs)} fine-tunings, {len(jobs) - len(left)} of them already in {folder}")
        for record, finetuned in _records(left, config.eval, processes, shown):
            if processes.first:
                results.append(record)
                write_results(folder, results, model, baseline, plain(config.eval))
                if finetuned is not None:  # after its record: a model without one would not be done again
                    finetuned.save(folder, record)
                _log(sink, record, len(results), "eval" if record.checkpoint == model else "baseline")
    if not processes.first:
        return {}
    write_results(folder, results, model, baseline, plain(config.eval))
    print_results(results, model, baseline)
    if config.eval.save:
        print(f"models and predictions: {folder / FOLDER}")
    return score_numbers(results, model, baseline)


def _kept_before(folder: Path, saving: bool) -> dict[tuple[str, str, int, str, str], Record]:
    """By identity: the records in the folder; where models are saved those of which the model is there, too."""
    clean_saved(folder)
    found = {record.identity: record for record in read_records(folder)}
    return {key: one for key, one in found.items() if not saving or model_folder_of(folder, key).is_dir()}


def _records(
    jobs: list[FinetuneJob], settings: EvalSettings, processes: Processes, shown: WorkProgress
) -> Iterator[tuple[Record, FinetunedModel | None]]:
    """The record of each job when it is done, and with eval.save its model."""
    for before, job in zip([None, *jobs], jobs, strict=False):
        if before is None or before.checkpoint is not job.checkpoint or before.data is not job.data:
            encoded = _encode(job, settings)
        shown.begin(f"{job.checkpoint.name}: {job.data.task.name}, seed {job.seed}")
        record, finetuned = _run(job, encoded, settings, processes, shown)
        shown.line(_line(record, shown.left()))
        yield record, finetuned


def _encode(job: FinetuneJob, settings: EvalSettings) -> EncodedTask:
    longest = max_tokens(job.checkpoint, settings.max_length)
    examples = chain(job.data.train, *job.data.dev.values())
    try_tokenizer(job.checkpoint.tokenizer, (text for example in examples for text in example.texts))
    dev = {split: encode(examples, job.checkpoint, longest) for split, examples in job.data.dev.items()}
    return EncodedTask(job.data.task, encode(job.data.train, job.checkpoint, longest), dev, job.checkpoint.pad_id)


def _run(
    job: FinetuneJob, encoded: EncodedTask, settings: EvalSettings, processes: Processes, shown: WorkProgress
) -> tuple[Record, FinetunedModel | None]:
    begin = time.monotonic()
    model = load_classifier(job.checkpoint, encoded.outputs, job.seed, settings.dropout)
    saved = EpochWeights(model, settings.select) if settings.save and processes.first else None
    after_epoch = [] if saved is None else [saved.take]
    with memory_enough(LESS_MEMORY):
        epochs = finetune(model, encoded, settings, job.seed, processes, shown.advance, *after_epoch)
    best = reported(epochs, settings.select)
    record = Record(
        checkpoint=job.checkpoint.name,
        task=job.data.task.name,
        seed=job.seed,
        scores=best.scores,
        score=best.score,
        epoch=best.epoch,
        epochs=[epoch.to_json() for epoch in epochs],
        train_examples=len(encoded.train),
        dev_examples={split: len(part) for split, part in encoded.dev.items()},
        truncated=encoded.truncated,
        seconds=round(time.monotonic() - begin, 3),
        settings_digest=settings_digest(settings),
        data_digest=job.data.digest,
        constant=_constant(encoded, best),
    )
    if saved is None:
        return record, None
    return record, FinetunedModel(model, saved.weights, job.checkpoint, job.data, encoded, best.predictions)


def _constant(encoded: EncodedTask, epoch: Epoch) -> dict[str, Constant]:
    """By dev split, where all predictions are the same."""
    found = {
        split: constant_predictions(encoded.task, predictions.tolist(), encoded.dev[split].labels)
        for split, predictions in epoch.predictions.items()
    }
    return {split: constant for split, constant in found.items() if constant is not None}


def _line(record: Record, left: str) -> str:
    cut = f", {counted(record.truncated, 'example')} truncated" if record.truncated else ""
    one = ", one class for all" if record.constant else ""
    return (
        f"{record.checkpoint}: {record.task}, seed {record.seed}: {100 * record.score:.1f} (epoch {record.epoch:g}), "
        f"{record.seconds:.0f} s{cut}{one}; {left} left"
    )


@contextmanager
def _tracked(config: EvalConfig, folder: Path, warn: Callable[[str], None]) -> Iterator[WandbSink]:
    """W&B until the end of the block."""
    trained = training_run(model_folder(str(config.checkpoint)))
    name = "-".join(filter(None, ("eval", config.sweep, folder.name)))
    run_id = chosen_run_id(config.tracking, config.sweep, os.environ) or new_run_id()
    job = Job(name, run_id, folder, config.sweep, "eval", None if trained is None else trained["sweep"])
    facts = {"trained_as": trained, "versions": versions()}
    sink = WandbSink(config.tracking, job, tracked_settings(config) | {"est": facts}, warn=warn)
    try:
        yield sink
    except BaseException:
        sink.finish(Ending())
        raise
    sink.finish(Ending({}))


def _log(sink: WandbSink | None, record: Record, number: int, group: str) -> None:
    """One row for each fine-tuning."""
    if sink is not None:
        flat = {f"{split}.{name}": value for split, found in record.scores.items() for name, value in found.items()}
        values: dict[str, Any] = {"score": record.score, "seed": record.seed, "epoch": record.epoch, **flat}
        sink.log({"step": number, **{f"{group}/{record.task}/{name}": value for name, value in values.items()}})
