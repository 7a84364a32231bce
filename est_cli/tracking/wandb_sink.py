"""The mirror of the metrics in Weights & Biases: never needed, never a prompt, never a reason for a run to stop.

wandb is imported only where it is used. What it collects by itself (command line, environment, git, code, machine,
console) is switched off; it receives the metrics and the configuration that the caller chose to send.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from est_cli.common.redact import without_users
from est_cli.config import TrackingConfig, WandbMode
from est_cli.tracking.records import WANDB_AXES, WANDB_GROUPS, Record, wandb_name
from est_cli.tracking.wandb_host import key_configured, reachable

INIT_TIMEOUT_S = 5.0
FINISH_TIMEOUT_S = 5.0

QUIET: dict[str, Any] = {
    "console": "off",
    "silent": True,
    "symlink": False,
    "use_dot_wandb": False,
    "disable_code": True,
    "disable_git": True,
    "save_code": False,
    "label_disable": True,
    "host": "",
    "program": "",
    "x_executable": "python",
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "init_timeout": INIT_TIMEOUT_S,
    # Less than FINISH_TIMEOUT_S: W&B gives up first and leaves in order, the thread's limit is the second net.
    "finish_timeout": FINISH_TIMEOUT_S - 2,
}

_SECRET_KEY = re.compile(r"(token|secret|password|passwd|api_?key)$", re.IGNORECASE)


def new_run_id() -> str:
    """A fresh W&B run id, to be kept in the checkpoint and given again on resume."""
    return secrets.token_hex(4)


class WandbSink:
    """One W&B run, or nothing where tracking is off. Any failure turns it off with one line given to `warn`."""

    def __init__(
        self,
        tracking: TrackingConfig,
        run_dir: Path,
        run_name: str,
        run_id: str,
        config: Mapping[str, Any],
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """Open the run: online, offline below `run_dir`/wandb, or not at all; see `mode` for which it became.

        `config` is sent as it is, apart from keys that name secrets and users in URLs: pass an allowlist.
        """
        self.run_id = run_id
        self.mode = requested_mode(tracking.wandb, os.environ.get("WANDB_MODE"))
        self._warn = warn or _print_warning
        self._run: Any = None
        self._opened = self.mode is not WandbMode.off
        if not self._opened:
            return
        identity: dict[str, Any] = {"project": tracking.project, "entity": tracking.entity, "tags": tracking.tags}
        identity |= {"id": run_id, "name": run_name, "dir": str(run_dir), "config": clean_config(config)}
        self._guarded("init", lambda: self._open(identity))

    def log(self, record: Record) -> None:
        """Mirror one record. Records of one step share a row; a step sent before a resume is not sent twice."""
        if self._run is not None:
            self._guarded("log", lambda: self._run.log(prefixed(record), step=record["step"]))

    def finish(self, summary: Record | None) -> None:
        """Upload what is left, at most FINISH_TIMEOUT_S; without a `summary` the run is marked as failed."""
        run, self._run = self._run, None
        if not self._opened:
            return
        self._opened = False
        worker = threading.Thread(target=self._guarded, args=("finish", lambda: _finish(run, summary)), daemon=True)
        worker.start()
        worker.join(FINISH_TIMEOUT_S)
        if worker.is_alive():
            self._warn(f"W&B: not finished after {FINISH_TIMEOUT_S:g} s and left alone; metrics.jsonl is complete")

    def _open(self, identity: dict[str, Any]) -> None:
        _prepare_environment()
        import wandb

        base_url = wandb.setup(wandb.Settings(**QUIET)).settings.base_url
        self.mode, reason = choose_mode(self.mode, base_url)
        if self.mode is WandbMode.online:
            try:
                self._run = _init(identity, "online")
                return
            except Exception as exc:  # whatever the server or the client came up with: the run goes on
                wandb.teardown()
                self.mode, reason = WandbMode.offline, f"the server gave no run ({type(exc).__name__})"
        if reason:
            self._warn(f"W&B: {reason}; recording offline, to be sent later with `wandb sync`")
        self._run = _init(identity, "offline")

    def _guarded(self, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as exc:  # the mirror must never stop the run; its text may hold secrets, so only its type
            self._run, self.mode = None, WandbMode.off
            self._warn(f"W&B: {what} failed ({type(exc).__name__}); tracking goes on in metrics.jsonl only")


def requested_mode(setting: WandbMode, environment: str | None) -> WandbMode:
    """`setting`, or where it is `auto` what WANDB_MODE (`environment`) says; `auto` where that says nothing."""
    if setting is not WandbMode.auto:
        return setting
    modes = {"run": WandbMode.online, "dryrun": WandbMode.offline, "disabled": WandbMode.off}
    modes |= {"online": WandbMode.online, "offline": WandbMode.offline}
    return modes.get((environment or "").strip().lower(), WandbMode.auto)


def choose_mode(wanted: WandbMode, base_url: str) -> tuple[WandbMode, str]:
    """Online or offline for `auto` and `online`, and the reason where offline is not what was to be expected."""
    if wanted is WandbMode.offline:
        return WandbMode.offline, ""
    if not key_configured(base_url, os.environ):
        no_key = "no API key is configured (`wandb login`)"
        return WandbMode.offline, no_key if wanted is WandbMode.online else ""
    if not reachable(base_url):
        return WandbMode.offline, "the server cannot be reached"
    return WandbMode.online, ""


def prefixed(record: Record) -> Record:
    """The record under its W&B names (`train/loss`, `perf/step_s`, ...), without what is null."""
    return {wandb_name(key): value for key, value in record.items() if value is not None}


def clean_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without keys that name secrets and without user names and passwords in URLs."""
    return {key: _clean(value) for key, value in config.items() if not _SECRET_KEY.search(key)}


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return clean_config(value)
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return without_users(value) if isinstance(value, str) else value


def _prepare_environment() -> None:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # exception texts are not sent to W&B
    if os.environ.get("WANDB_MODE") == "":
        del os.environ["WANDB_MODE"]  # W&B refuses an empty value; everybody else takes it as unset
    logging.raiseExceptions = False  # on a full disk each line of W&B's own log would be a traceback on stderr


def _init(identity: dict[str, Any], mode: Literal["online", "offline"]) -> Any:
    import wandb

    run = wandb.init(mode=mode, resume="allow", settings=wandb.Settings(**QUIET), **identity)
    for axis in (*WANDB_AXES, "flops/flops"):
        run.define_metric(axis)
    for group in WANDB_GROUPS:
        run.define_metric(f"{group}/*", step_metric="step")
    return run


def _finish(run: Any, summary: Record | None) -> None:
    import wandb

    try:
        if run is not None:
            run.summary.update(
                {key: value for key, value in (summary or {}).items() if isinstance(value, (int, float))}
            )
            run.finish(exit_code=0 if summary is not None else 1)
    finally:
        wandb.teardown()  # also after a failure: otherwise it is tried, unguarded and unbounded, when Python exits


def _print_warning(text: str) -> None:
    print(text, file=sys.stderr)
