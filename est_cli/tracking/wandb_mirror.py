"""The thread that follows metrics.jsonl and has W&B hold the same: training neither waits for it nor hears of it.

The server may answer late or never. Until it has given a run for `tracking.timeout_s` nothing is recorded there; then
the run is recorded offline, and should the server answer after all, it gets everything from the first row on.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from est_cli.config import WandbMode
from est_cli.tracking import wandb_api
from est_cli.tracking.names import named
from est_cli.tracking.records import In, Record
from est_cli.tracking.wandb_api import Opening
from est_cli.tracking.wandb_content import Content
from est_cli.tracking.wandb_host import key_configured, reachable, serves

POLL_S = 1.0
"""How often new rows are looked for."""
AGAIN_S = 2.0
"""Between two looks for a server within the first `tracking.timeout_s`."""
RETRY_S = 60.0
"""The same of a run that is recorded offline since."""
MOST_LINES = 10_000


class Phase(StrEnum):
    """What a mirror is about."""

    loading = "loading"
    """Nothing that depends on a server."""
    asking = "asking"
    """A server is asked for a run."""
    open = "open"
    """There is one, online or offline."""


class Rows(Protocol):
    """Where the rows come from."""

    def new(self) -> list[Record]:
        """Those since the last call."""


@dataclass(frozen=True)
class Ending:
    """What there is to say when a run ends."""

    summary: Record | None = None
    """Of a finished run; None marks it as failed."""
    images: Mapping[str, Path] = field(default_factory=dict)
    model: Path | None = None
    preempted: bool = False
    """Whether a cluster took its machine: W&B's sweeps then give it to an agent once more."""


class Mirror:
    """One run in W&B. Its methods are for its own thread, but for give_up(); others may look at `phase` and append to
    `lines`, and set `closing` when there is nothing more to come."""

    def __init__(
        self, opening: Opening, wanted: WandbMode, rows_after: Callable[[int], Rows], warn: Callable[[str], None],
        first_step: int,
    ) -> None:  # fmt: skip
        """`rows_after(step)`: the rows from there on, first to last."""
        self.opening, self.mode = opening, wanted
        self.closing = threading.Event()
        self.phase, self.since = Phase.loading, time.monotonic()
        self._lock, self._given_up = threading.Lock(), False
        self.ending = Ending()
        self.lines: deque[str] = deque(maxlen=MOST_LINES)
        self.url = ""
        """Of the server."""
        self.page = ""
        """Of the run, once a server has given it."""
        self._rows_after, self._warn = rows_after, warn
        self._content = Content(opening.tracking.alerts, first_step)
        self._step = first_step
        self._sent_before = 0
        self._run: Any = None
        self._rows = rows_after(first_step)
        self._retry_at: float | None = None

    def work(self) -> None:
        """From the opening of the run to its end; whatever wandb raises comes out of it."""
        try:
            self._begin()
            while not self.closing.wait(POLL_S):
                self._turn()
            while self._turn():
                pass
            self._end()
        finally:
            wandb_api.teardown()

    def give_up(self) -> bool:
        """Ask no server for a run any more; whether one is asked now. By the thread that waits for this one."""
        with self._lock:
            self._given_up = True
            return self.phase is Phase.asking

    def _enter(self, phase: Phase) -> bool:
        """Whether the server is still waited for."""
        with self._lock:
            if phase is not Phase.asking or not self._given_up:
                self.phase, self.since = phase, time.monotonic()
            return not self._given_up

    def _begin(self) -> None:
        self.url = wandb_api.base_url()
        if self.mode is WandbMode.offline:
            self._open_offline()
        elif not key_configured(self.url, os.environ):
            told = self.mode is WandbMode.online
            self._open_offline("no API key is configured (`wandb login`)" if told else "")
        elif not self._open_online(self.opening.tracking.timeout_s):
            self._open_offline(self._reason)

    def _open_online(self, timeout_s: float) -> bool:
        """Whether the server has given a run in that time. Sets `_reason`, and `_retry_at` where that may change."""
        deadline, self._reason = time.monotonic() + timeout_s, "the server cannot be reached"
        while not reachable(self.url):
            if self.closing.is_set() or time.monotonic() + AGAIN_S > deadline:
                self._retry_at = time.monotonic() + RETRY_S
                return False
            self.closing.wait(AGAIN_S)
        if not self._enter(Phase.asking):
            return False
        try:
            run = wandb_api.open_run(self.opening, "online", max(deadline - time.monotonic(), 1.0))
        except Exception as error:  # whatever the server or the client came up with: the run goes on
            wandb_api.teardown()
            wandb_api.base_url()
            self._enter(Phase.loading)
            self._reason = f"the server gave no run ({type(error).__name__})"
            self._retry_at = None if self.closing.is_set() or serves(self.url) else time.monotonic() + RETRY_S
            return False
        if not self._enter(Phase.loading):  # W&B's process was ended with the run that it has just opened
            wandb_api.teardown()
            wandb_api.base_url()
            return False
        self.mode, self._retry_at, self.page = WandbMode.online, None, str(getattr(run, "url", None) or "")
        self._use(run, getattr(run, "starting_step", 0) - 1, self._rows_after(0))
        while self._turn():
            pass
        self._mark_sent()
        return True

    def _open_offline(self, reason: str = "") -> None:
        self.mode = WandbMode.offline
        if reason:
            later = " and sent once it answers" if self._retry_at is not None and not self.closing.is_set() else ""
            self._warn(f"W&B: {reason}; recorded offline{later}, or later with `wandb sync`")
        self._use(wandb_api.open_run(self.opening, "offline", self.opening.tracking.timeout_s), 0, self._rows)

    def _use(self, run: Any, sent_before: int, rows: Rows) -> None:
        self._run, self._sent_before, self._rows = run, sent_before, rows
        self._content.again()
        self._enter(Phase.open)

    def _turn(self) -> bool:
        """Send what is new; whether there may be more."""
        records = self._rows.new()
        for record in records:
            self._step = max(self._step, record["step"])
            if record["step"] > self._sent_before and record.get("event") != In.sample:
                self._run.log(named(record, self.opening.names), step=record["step"])
            self._content.take(self._run, record)
        while self.lines:
            self._run.write_logs(self.lines.popleft() + "\n")
        self._content.send_tables(self._run, self._step)
        if self._retry_at is not None and time.monotonic() >= self._retry_at and not self.closing.is_set():
            self._try_again()
        return bool(records)

    def _try_again(self) -> None:
        """A server that could not be reached: does it answer now? Then it gets the whole run."""
        self._retry_at = time.monotonic() + RETRY_S
        if not serves(self.url):
            return
        self._enter(Phase.loading)
        wandb_api.close_run(self._run, 0)
        if self._open_online(self.opening.tracking.timeout_s):
            self._warn("W&B: the server answers, and has the run from its first row on")
        else:
            self._open_offline(self._reason)

    def _mark_sent(self) -> None:
        """Have `wandb sync` pass over the parts of this run that were recorded offline."""
        for part in Path(self.opening.identity.dir).glob(f"wandb/offline-run-*/run-{self.opening.identity.id}.wandb"):
            part.with_name(f"{part.name}.synced").touch()

    def _end(self) -> None:
        ending, run = self.ending, self._run
        self._content.send_tables(run, self._step, last=True)
        if ending.summary is not None:
            numbers = {key: value for key, value in ending.summary.items() if isinstance(value, (int, float))}
            run.summary.update(numbers)
            self._content.diagnosed(run, ending.summary.get("diagnoses") or [])
        wandb_api.log_images(run, ending.images, self._step)
        if ending.preempted:
            run.mark_preempting()
        self._run = None
        with self._model_of(run, ending):
            wandb_api.close_run(run, 0 if ending.summary is not None else 1)

    def _model_of(self, run: Any, ending: Ending) -> AbstractContextManager[None]:
        if ending.model is None:
            return nullcontext()
        if self.mode is not WandbMode.online:
            self._warn("W&B: recorded offline, where the final model is not kept a second time; model/ has it")
            return nullcontext()
        return wandb_api.model_artifact(run, ending.model, {"step": self._step})
