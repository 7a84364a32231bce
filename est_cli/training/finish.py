"""The end of a run: the final model, the summary, plots and the table. May be repeated after a kill."""

from __future__ import annotations

import math
from typing import Any

from est_cli.distributed.hardware import hardware
from est_cli.est.coverage import coverage
from est_cli.reporting.diagnoses import stage_report
from est_cli.reporting.figures import plot_run, plot_stages
from est_cli.reporting.records import check_records
from est_cli.reporting.stages import time_saved_pct
from est_cli.reporting.summary import print_summary
from est_cli.storage.content import save_model
from est_cli.storage.run_dir import write_json
from est_cli.storage.store import is_intact
from est_cli.storage.tensors import take_snapshot
from est_cli.storage.versions import git_commit, versions
from est_cli.tracking import In, read_metrics, record_of
from est_cli.training.run import Run


def finish(run: Run) -> dict[str, Any]:
    """Write model/, plots/ and, last, summary.json, whose presence says that the run is done.

    All processes call it, and rank 0 writes; what it returns is empty in the others.
    """
    run.handle.activate_full()
    run.progress.close()
    if not run.group.share(is_intact(run.dir.model)):  # else an earlier process got as far as that
        snapshot = take_snapshot(run.model, None, keep=run.rank.first)
        if run.rank.first:
            save_model(run.dir.model, snapshot, run.corpus.tokenizer, {"step": run.state.step})
    if not run.rank.first:
        return {}
    metrics = read_metrics(run.dir.metrics)
    check_records(metrics, run.dir.metrics)  # what an earlier process wrote may be damaged by now
    plot_run(metrics, run.dir.plots, run.dir.root.name)
    summary = _summary(run, metrics)
    run.tracker.close(summary)
    write_json(run.dir.summary, summary)
    print_summary(summary, metrics, run.dir.root)
    return summary


def _summary(run: Run, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    splits = run.resolved.splits(run.rank.world_size)
    covered = coverage(run.spec, run.scheduler, run.config.seed, run.generator.options, splits)
    stages = stage_report(metrics, covered, run.spec, run.scheduler, run.generator.options)
    if any("loss" in record for record in metrics):
        plot_stages(metrics, stages["transitions"], covered, run.dir.plots)
    losses = [record["val_loss"] for record in metrics if record.get("val_loss") is not None]
    final = losses[-1] if losses else None
    values = {
        "steps": run.state.step,
        "tokens": run.state.step * run.config.train.tokens_per_step,
        "final_val_loss": final,
        "perplexity": None if final is None or final > 700 else math.exp(final),
        **run.totals(),
        "flops_blocks": run.ledger.used.blocks,
        "time_s": run.state.time_s,
        "time_saved_pct": time_saved_pct(metrics),
        **stages,
        "data_hash": run.state.data_hash,
        "tokenizer_hash": run.state.tokenizer_hash,
        "hardware": hardware(run.accelerator.device, run.rank.world_size),
        "git_commit": git_commit(),
        "versions": versions(),
    }
    return record_of(In.summary, values)
