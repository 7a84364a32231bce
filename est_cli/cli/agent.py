"""est-train as the program of a W&B sweep: what its agent gives as arguments, and which folder a run of it has.

A run that was preempted comes back to an agent under its id, and its arguments are then all that W&B knows of it: every
setting, and what is no setting. Its folder is found by the id, so that it goes on where it stopped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

NO_SETTINGS = ("_wandb", "est")
"""What W&B's configuration of a run holds beside its settings: W&B's own, and our facts."""
_NONE = re.compile(r"(?<=[=\[, ])None(?=$|[\],])")


def agent_arguments(argv: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """`argv` (the program first) as est-train understands it; unchanged where no agent of W&B has started it.

    Without a name of its own the run becomes outputs/SWEEP_ID/RUN_ID, and goes on where that is there already.
    """
    sweep, run = environ.get("WANDB_SWEEP_ID"), environ.get("WANDB_RUN_ID")
    if not sweep or not run or {"-m", "--multirun"} & set(argv):
        return list(argv)
    kept = [_NONE.sub("null", word) for word in argv if not _is_no_setting(word)]
    given = {word.partition("=")[0].lstrip("+") for word in kept}
    if not given & {"run_name", "resume", "sweep"}:
        kept += [f"sweep='{sweep}'", f"run_name='{run}'", "resume=auto"]
    return kept


def _is_no_setting(word: str) -> bool:
    key, equals, _ = word.partition("=")
    return bool(equals) and key.split(".")[0] in NO_SETTINGS
