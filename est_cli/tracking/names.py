"""What trackers (W&B, TensorBoard, ...) call our numbers: `val/loss`, `flops/saved_pct_blocks`, `step`.

One table, made from the declarations in records.py. A run keeps the names under which it began, so the rule has a
number that a checkpoint holds: a chart never goes on under another name in the middle of a run.
"""

from __future__ import annotations

from est_cli.tracking.records import FIELDS, Record

_TASKS = "eval/tasks"
"""A group of numbers, which are told one by one: `eval/hellaswag/acc`."""
NAMES_OF_BEFORE, NAMES = 1, 2
"""The rules: 1 says a group twice (`val/val_loss`, `flops/flops`), 2 is what runs begin with today."""


def tracker_name(key: str, names: int = NAMES) -> str:
    """`train/loss`, `perf/step_s`, ...; what stands under no group yet is `perf/`, and `a/b` is a name already."""
    return key if "/" in key else _TABLES[names].get(key, f"perf/{key}")


def named(record: Record, names: int = NAMES) -> Record:
    """`record` under the trackers' names, without what is null."""
    found = {tracker_name(key, names): value for key, value in record.items() if value is not None}
    return found | {f"eval/{name}": value for name, value in (found.pop(_TASKS, None) or {}).items()}


def axes(names: int = NAMES) -> tuple[str, ...]:
    """What a chart may be drawn over: steps, tokens, and FLOPs used (total)."""
    return (*(field.name for field in FIELDS if not field.wandb), tracker_name("flops", names))


def _unstuttered(group: str, name: str) -> str:
    """`val`, `val_loss` -> `val/loss`; what is the group itself is what was used of it."""
    return f"{group}/{'used' if name == group else name.removeprefix(f'{group}_')}"


_TABLES = {
    NAMES_OF_BEFORE: {one.name: f"{one.wandb}/{one.name}" if one.wandb else one.name for one in FIELDS},
    NAMES: {one.name: _unstuttered(one.wandb, one.name) if one.wandb else one.name for one in FIELDS},
}
GROUPS = tuple(dict.fromkeys(field.wandb for field in FIELDS if field.wandb))
"""`est`, `train`, `val`, ...: a tracker's sections."""
