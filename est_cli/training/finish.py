"""The end of a run: the final model and its card, the summary, the table and plots. May be repeated after a kill."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from est_cli.common.errors import reason
from est_cli.common.table import print_lines, print_whole, table_console
from est_cli.config import OnSpike
from est_cli.distributed import weights_finite
from est_cli.distributed.hardware import hardware
from est_cli.est.coverage import Coverage, coverage
from est_cli.families import spec_of
from est_cli.models import hf_config
from est_cli.reporting.card import model_card, write_card, write_picture
from est_cli.reporting.diagnoses import stage_report
from est_cli.reporting.figures import plot_run, plot_stages
from est_cli.reporting.layers import plot_layers, read_layers
from est_cli.reporting.outcome import outcome_of
from est_cli.reporting.records import check_records
from est_cli.reporting.runs import RunRecord
from est_cli.reporting.stages import time_saved_pct
from est_cli.reporting.summary import print_summary
from est_cli.storage import strict_json
from est_cli.storage.content import save_model
from est_cli.storage.run_dir import RunDir, lock, write_json
from est_cli.storage.store import is_intact
from est_cli.storage.tensors import take_snapshot
from est_cli.storage.versions import git_commit, versions
from est_cli.tracking import Ending, In, lost_records, read_metrics, record_of
from est_cli.training.extend import how_to_lengthen
from est_cli.training.run import Run
from est_cli.training.start import ENDINGS, Start, lost_at_its_end

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class End:
    """How a run stands after its last step."""

    val_loss: float
    not_finite: list[str]
    """What of it is not finite; then the run is lost, whatever earlier evaluations have found."""

    @classmethod
    def of(cls, run: Run, loss: float, val_loss: float) -> End:
        """The same in all processes, which all call it; `loss` is that of the last step."""
        (finite,) = run.group.smallest([weights_finite(run.model)])
        sound = (math.isfinite(loss), math.isfinite(val_loss), bool(finite))
        return cls(val_loss, [name for name, is_sound in zip(ENDINGS, sound, strict=True) if not is_sound])


def finish(run: Run, end: End) -> dict[str, Any]:
    """Write model/ with its card, and summary.json, whose presence says that the run is done.

    Then show the table and draw plots/. All processes call it, and rank 0 writes; what it returns is empty in the
    others. Of a lost run there is no model/, and NumericsError follows.
    """
    run.handle.activate_full()
    run.progress.close()
    if end.not_finite:
        if run.rank.first:
            _conclude(run, end)
        run.group.wait_for_save()  # a launcher that sees one process end may kill the one that writes
        raise lost_at_its_end(run.dir, end.not_finite)
    _export(run)
    return _conclude(run, end) if run.rank.first else {}


def _export(run: Run) -> None:
    if not run.group.share(is_intact(run.dir.model)):  # else an earlier process got as far as that
        snapshot = take_snapshot(run.model, None, keep=run.rank.first)
        if run.rank.first:
            save_model(run.dir.model, snapshot, run.corpus.tokenizer, {"step": run.state.step})


def _conclude(run: Run, end: End) -> dict[str, Any]:
    """Plots, summary and the table; returns the summary."""
    metrics = read_metrics(run.dir.metrics)
    check_records(metrics, run.dir.metrics)  # what an earlier process wrote may be damaged by now
    lost = lost_records(run.state.records, metrics, run.state.step, run.config.train.log_every)
    splits = run.resolved.splits(run.rank.world_size)
    covered = coverage(run.spec, run.scheduler, run.config.seed, run.generator.options, splits)
    told = [] if lost else metrics  # half of them would tell of other stages than there were
    summary = _summary(run, end, told, covered)
    if lost:
        summary["diagnoses"].append(f"metrics.jsonl: {lost} are lost; nothing is said of stages and time saved")
    run.tracker.end_record()
    if not end.not_finite:
        record = RunRecord(str(run.dir.root), run.config, told, summary, {})
        write_card(run.dir, model_card(record, run.dir.model, run.config.license).encode())
    write_json(run.dir.summary, summary)
    try:
        print_summary(summary, told, run.dir.root)
    finally:  # a table that cannot be shown is no reason for missing pictures
        with _guarded(run.dir):
            _draw(run.dir, metrics, summary, covered)
    run.tracker.close(_ending(run, summary))  # last, for it may have to wait: the run itself is done
    _tell_what_next(run, summary)
    return summary


def _tell_what_next(run: Run, summary: dict[str, Any]) -> None:
    """What was saved, where W&B has it, and a useful command; of a run of a sweep its table tells that."""
    console, wandb = table_console(), run.tracker.wandb
    outcome = outcome_of(run.dir.root, run.config, summary)
    if sentence := outcome.sentence():
        print_lines(console, f"{run.dir.root}: {sentence}")
    if wandb is not None and wandb.page:
        print_whole(console, Text(f"W&B       {wandb.page}"))
    elif wandb is not None and run.config.sweep is None and [*run.dir.root.glob("wandb/offline-run-*")]:
        print_whole(console, Text(f"W&B       wandb sync {run.dir.root}/wandb/offline-run-*"))
    if run.config.sweep is None and not summary["not_finite"]:
        print_whole(console, Text(f"next      {outcome.next_command(sys.argv)}"))


def _ending(run: Run, summary: dict[str, Any]) -> Ending:
    """What W&B gets of a finished run."""
    images = {f"plots/{path.stem}": path for path in sorted(run.dir.plots.glob("*.png"))}
    keeps = run.config.tracking.log_model and not summary["not_finite"]
    return Ending(summary, images, run.dir.model if keeps else None)


def draw_missing(start: Start) -> None:
    """Draw plots/ of a finished run that has none."""
    assert start.folder is not None and start.finished
    run_dir, run, config = RunDir(start.folder), start.run, start.config
    with _guarded(run_dir), lock(run_dir):
        metrics, summary = read_metrics(run_dir.metrics), strict_json.read_file(run_dir.summary)
        check_records(metrics, run_dir.metrics)
        spec, splits = spec_of(hf_config(config.model)), run.splits(config.launch.num_processes)
        _draw(run_dir, metrics, summary, coverage(spec, run.scheduler, config.seed, run.options, splits))
    more = how_to_lengthen(run_dir.root, config)
    print(f"{run_dir.root}: this run is finished, nothing is left to do but its plots; {more}")


def _draw(run_dir: RunDir, metrics: list[dict[str, Any]], summary: dict[str, Any], covered: Coverage) -> None:
    drawn = plot_run(metrics, run_dir.plots, run_dir.root.name)
    if drawn and run_dir.model.is_dir():
        write_picture(run_dir, drawn[0].read_bytes())
    if any("loss" in record for record in metrics):
        plot_stages(metrics, summary.get("transitions") or [], covered, run_dir.plots)
    plot_layers(read_layers(run_dir.layers), run_dir.plots, run_dir.root.name)  # last: a file of its own may be damaged


@contextmanager
def _guarded(run_dir: RunDir) -> Iterator[None]:
    """Whatever goes wrong with its pictures takes nothing from a run that is done."""
    try:
        yield
    except Exception as error:  # of the disk, of records that are damaged, or whatever matplotlib raises
        log.warning("%s: not drawn (%s); resume=%s draws them", run_dir.plots, reason(error), run_dir.root)


def _summary(run: Run, end: End, metrics: list[dict[str, Any]], covered: Coverage) -> dict[str, Any]:
    stages = stage_report(metrics, covered, run.spec, run.scheduler, run.generator.options)
    final = end.val_loss if math.isfinite(end.val_loss) else None
    values = {
        "steps": run.state.step,
        "tokens": run.batch.tokens_before(run.state.step),
        "final_val_loss": final,
        "perplexity": None if final is None or final > 700 else math.exp(final),
        "bits_per_byte": run.bits_per_byte(end.val_loss),
        "not_finite": end.not_finite,
        **_last_tasks(metrics, run.state.step),
        **run.totals(),
        **_spikes(run),
        "flops_blocks": run.ledger.used.blocks,
        "time_s": run.state.time_s,
        "time_saved_pct": time_saved_pct(metrics),
        **stages,
        "data_hash": run.state.data_hash,
        "tokenizer_hash": run.state.tokenizer_hash,
        "revisions": run.config.revisions,
        "hardware": hardware(run.accelerator.device, run.rank.world_size),
        "git_commit": git_commit(),
        "versions": versions(),
    }
    return record_of(In.summary, values)


def _spikes(run: Run) -> dict[str, Any]:
    """What was done about them."""
    state, guarded = run.state, run.config.train.on_spike
    if guarded is OnSpike.skip:
        return {"skipped_steps": state.records.get(In.skipped.value, 0)}
    if guarded is OnSpike.rewind:
        rewinds, passed = sum(times for _, _, times in state.passed), run.reading.passed_by(state.step)
        return {"rewinds": rewinds, "passed_samples": passed, "flops_passed_over": state.flops_passed_over}
    return {}


def _last_tasks(metrics: list[dict[str, Any]], step: int) -> dict[str, Any]:
    """What the tasks have given after the last step, where there are any."""
    found = [record["tasks"] for record in metrics if "tasks" in record and record["step"] == step]
    return {"tasks": found[-1]} if found else {}
