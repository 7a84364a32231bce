"""What a finished run has come to, in a sentence: what it saved, beside its dense twin; and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from est_cli.common.errors import EstError
from est_cli.config import RunConfig
from est_cli.config.setting import METHOD, keys_with
from est_cli.config.stored import stored_config
from est_cli.reporting.groups import Group, setting_of
from est_cli.reporting.records import Record
from est_cli.reporting.runs import RunRecord, runs_below
from est_cli.storage import strict_json
from est_cli.storage.run_dir import RunDir

DEPTH = 2
"""A twin is looked for among the runs beside this one, and in sweeps beside it."""
MOST = 1000
"""Finished runs whose summaries are looked at: the end of a run is no time to read a whole archive."""
MOST_READ = 20
"""Of these, runs whose settings are read, which takes tens of milliseconds each."""
_SHARED, _SAVED = ("steps", "data_hash", "tokenizer_hash"), "flops_saved_pct_blocks"
_PROGRAMS = ("est-train", "train.py")
_OF_THIS_RUN = ("run_name", "resume", "fork", "scheduler", "stage", "sampling")


@dataclass(frozen=True)
class Outcome:
    """A finished run and its dense twin, if there is one."""

    run: RunRecord
    twin: RunRecord | None

    def sentence(self) -> str:
        """What the run saved, and at which loss; empty for a run without a loss."""
        summary, loss = self.run.summary or {}, self.run.final_loss
        if loss is None:
            return ""
        if self.run.config.scheduler.name == "dense":
            return f"a dense run, which saves nothing; it ended at a validation loss of {loss:.4f}"
        blocks, total = (f"{summary[f'flops_saved_pct_{kind}']:.2f} %" for kind in ("blocks", "total"))
        saved = f"saved {blocks} of the block FLOPs, {total} of the total{_time(summary.get('time_saved_pct'))}"
        return f"{saved}; ended at a validation loss of {loss:.4f}, {self._beside(loss)}"

    def _beside(self, loss: float) -> str:
        dense = None if self.twin is None else self.twin.final_loss
        if self.twin is None or dense is None:
            return "with no dense twin to compare it with"
        seed = "" if self.twin.config.seed == self.run.config.seed else f", seed {self.twin.config.seed}"
        where = "as much as" if f"{loss:.4f}" == f"{dense:.4f}" else f"{abs(loss - dense):.4f} {_side(loss, dense)}"
        return f"{where} its dense twin {self.twin.name} ({dense:.4f}{seed})"

    def next_command(self, argv: Sequence[str]) -> str:
        """What is most useful now: the dense twin where it is missing and `argv`, this process's, tells how it is
        trained; else a page about what there is."""
        dense = "" if _has_stages_of_its_own(self.run.config) else dense_command(argv)
        if self.twin is None and self.run.config.scheduler.name != "dense" and dense:
            return dense
        return shlex.join(["est-report", self.run.name, *([] if self.twin is None else [self.twin.name])])


def outcome_of(folder: Path, config: RunConfig, summary: Mapping[str, Any]) -> Outcome:
    """Of the run in `folder`, whose twin is looked for below paths.outputs."""
    run = RunRecord(str(folder), config, [], dict(summary), {})
    return Outcome(run, None if config.scheduler.name == "dense" else dense_twin(run, config.paths.outputs_folder))


def dense_twin(run: RunRecord, outputs: Path) -> RunRecord | None:
    """A finished dense run of the same settings, data and steps, rather of the same seed; the newest of several."""
    mine, of_another_seed = _alone(run), None
    for folder, summary in islice(_maybe_twins(run, outputs), MOST_READ):
        with suppress(EstError, OSError):  # somebody else's run, or a damaged one
            other = RunRecord(str(folder), stored_config(folder), [], summary, {})
            if _is_twin(_alone(other), mine):
                if other.config.seed == run.config.seed:
                    return other
                of_another_seed = of_another_seed or other
    return of_another_seed


def dense_command(argv: Sequence[str]) -> str:
    """The command line of the dense twin; empty where `argv` is no command line of a whole run."""
    words = [*argv[1:]]
    whole = not any(word.startswith(("resume=", "fork=", "-")) for word in words)
    if not (argv and Path(argv[0]).name in _PROGRAMS and whole):
        return ""
    return shlex.join(["est-train", *(word for word in words if not _is_of_this_run(word)), "scheduler=dense"])


def _has_stages_of_its_own(config: RunConfig) -> bool:
    """Whether more than `scheduler=dense` makes its twin: batches by stage need boundaries, FLOPs are other steps."""
    train = config.train
    by_stage = any(isinstance(size, list) for size in (train.seq_len, train.tokens_per_step, train.micro_batch))
    return by_stage or train.max_flops is not None


def _is_of_this_run(word: str) -> bool:
    key = word.partition("=")[0].lstrip("+~")
    return key in keys_with(RunConfig, METHOD) or key in _OF_THIS_RUN


def _maybe_twins(run: RunRecord, outputs: Path) -> Iterator[tuple[Path, Record]]:
    """Finished runs, newest first, whose summary is as a twin's: far quicker to read than their settings."""
    found: list[tuple[float, Path, Record]] = []
    with suppress(OSError):
        for folder in islice((it for it in runs_below(outputs, DEPTH) if RunDir(it).is_finished()), MOST):
            with suppress(OSError, ValueError):
                path = RunDir(folder).summary
                summary = strict_json.read_file(path)
                if all(summary.get(key) == run.recorded(key) for key in _SHARED) and not summary.get(_SAVED):
                    found.append((path.stat().st_mtime, folder, summary))
    for _, folder, summary in sorted(found, key=lambda one: one[0], reverse=True):
        yield folder, summary


def _alone(run: RunRecord) -> Group:
    return Group("", setting_of(run), [run])


def _is_twin(other: Group, mine: Group) -> bool:
    return other.dense and other.family == mine.family and other.steps == mine.steps


def _time(saved_pct: float | None) -> str:
    if saved_pct is None:
        return ""
    return f", {saved_pct:.1f} % of the step time" if saved_pct > 0 else f", no step time ({saved_pct:.1f} %)"


def _side(loss: float, dense: float) -> str:
    return "above" if loss > dense else "below"
