"""The run of est-train that a checkpoint comes from, so that its evaluation is found beside it in W&B."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from est_cli.common.errors import EstError
from est_cli.config.stored import stored_config
from est_cli.config.tracking import RUN_ID
from est_cli.storage import strict_json
from est_cli.storage.content import STATE
from est_cli.storage.run_dir import RunDir, run_of
from est_cli.storage.store import step_folders


def training_run(folder: str) -> dict[str, Any] | None:
    """`run_name`, `sweep` and `wandb_run_id` of that run; None where `folder` is of none, or its files do not say."""
    run = run_of(Path(folder))
    if run is None:
        return None
    with suppress(EstError, OSError, ValueError, LookupError, TypeError):
        _, newest = step_folders(RunDir(run).checkpoints)[-1]
        sweep, run_id = stored_config(run).sweep, strict_json.read_file(newest / STATE)["wandb_run_id"]
        if RUN_ID.fullmatch(run_id):
            return {"run_name": run.resolve().name, "sweep": sweep, "wandb_run_id": run_id}
    return None
