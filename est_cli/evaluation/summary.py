"""summary.json of an evaluation that is a job of a sweep: what it was asked, and the numbers that the sweep shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from est_cli.evaluation.outcomes import Record, summarise
from est_cli.evaluation.table import differences_of
from est_cli.storage.run_dir import RunDir, write_json

AVERAGE = "average"


def keep_summary(folder: Path, asked: str, numbers: Mapping[str, Any]) -> None:
    """Written last: its presence says that nothing is left to do of what `asked` is the digest of."""
    write_json(RunDir(folder).summary, {"asked": asked, **numbers})


def score_numbers(records: Sequence[Record], model: str, baseline: str | None) -> dict[str, Any]:
    """TASK and TASK_sd of each task, the same of their average, all from 0 to 1, of the records of `model`.

    Beside a baseline also the mean difference, of the average or the only task, and whether it is significant.
    """
    (summary,) = summarise([record for record in records if record.checkpoint == model])
    spreads = {**summary.tasks, AVERAGE: summary.average_over_tasks_present}
    numbers: dict[str, Any] = {}
    for name, spread in spreads.items():
        numbers |= {name: spread.mean, f"{name}_sd": spread.sd}
    numbers["seeds"] = summary.average_over_tasks_present.n
    differences = differences_of(records, model, baseline)
    if differences:
        numbers |= {"difference": differences[-1].mean, "significant": differences[-1].significant}
    return numbers | {"time_s": round(sum(record.seconds for record in records), 3)}
