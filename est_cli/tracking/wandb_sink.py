"""The mirror of the metrics in Weights & Biases: never needed, never a prompt, never a reason for a run to stop.

W&B receives the metrics, the configuration and the facts that the caller chose to send, redacted lines of the terminal,
and of its own collection what `tracking.*` asks for. All of it happens in a thread (wandb_mirror.py).
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from est_cli.common.redact import without_users
from est_cli.config import TrackingConfig, WandbMode
from est_cli.storage.run_dir import RunDir
from est_cli.storage.versions import git_commit
from est_cli.tracking import wandb_api
from est_cli.tracking.console import redacted
from est_cli.tracking.metrics import RunTail
from est_cli.tracking.names import NAMES
from est_cli.tracking.records import Record
from est_cli.tracking.wandb_host import reachable
from est_cli.tracking.wandb_identity import Job, identity_of, requested_mode
from est_cli.tracking.wandb_mirror import Ending, Mirror, Phase

LIMITS_S = {Phase.loading: 10.0, Phase.asking: 5.0, Phase.open: 5.0}
"""At the end of a run: how long one waits for W&B in each phase, where its rows are not on their way to a server."""
TOLD_S = 3.0
"""After so long a wait it is told."""
LOOK_S = 5.0
"""Between two looks whether the server that one waits for is still there."""

_SECRET_KEY = re.compile(r"(token|secret|password|passwd|api_?key)$", re.IGNORECASE)


@dataclass
class _Kept:
    """Rows of something that has no metrics.jsonl."""

    records: list[Record]
    after: int
    position: int = 0

    def new(self) -> list[Record]:
        begin, self.position = self.position, len(self.records)
        return [record for record in self.records[begin : self.position] if record["step"] > self.after]


@dataclass
class _Stop:
    """Somebody stopped the run on its page: the process gets the signal that a scheduler would send."""

    warn: Callable[[str], None]
    asked: bool = False

    def __call__(self) -> None:
        self.asked = True
        self.warn("W&B: the run is stopped on its page")
        os.kill(os.getpid(), signal.SIGTERM)


class WandbSink:
    """One W&B run, or nothing where tracking is off. Any failure turns it off with one line given to `warn`."""

    def __init__(
        self,
        tracking: TrackingConfig,
        job: Job,
        config: Mapping[str, Any],
        run_dir: RunDir | None = None,
        warn: Callable[[str], None] | None = None,
        names: int = NAMES,
        first_step: int = 0,
    ) -> None:
        """Begin to open the run, online or offline; see `mode` for which it became.

        `config` is sent as it is, apart from keys that name secrets and users in URLs: pass an allowlist. `run_dir`:
        whose records are mirrored; None: what is given to log(). `first_step`: steps done before this process began.
        """
        self.run_id, self._tracking, self._job = job.run_id, tracking, job
        self._warn = warn or _print_warning
        self._kept: list[Record] = []
        self._left = False
        self._stop = _Stop(self._warn)
        self._mode = requested_mode(tracking.wandb, os.environ.get("WANDB_MODE"))
        self._worker: threading.Thread | None = None
        self._mirror: Mirror | None = None
        if self._mode is WandbMode.off:
            return
        identity = identity_of(tracking, job, os.environ)
        opening = wandb_api.Opening(identity, clean_config(config), tracking, git_commit(), names, self._stop)

        def rows_after(step: int) -> RunTail | _Kept:
            return _Kept(self._kept, step) if run_dir is None else RunTail(run_dir.metrics, run_dir.layers, step)

        self._mirror = Mirror(opening, self._mode, rows_after, self._warn, first_step)
        self._worker = threading.Thread(target=self._guarded, args=(self._mirror,), name="wandb-mirror", daemon=True)
        self._worker.start()

    @property
    def mode(self) -> WandbMode:
        """What was asked for until the run is open, then what it became."""
        return self._mode if self._mirror is None or self._mode is WandbMode.off else self._mirror.mode

    @property
    def page(self) -> str:
        """The address of the run's page; empty while there is none."""
        return "" if self._mirror is None else self._mirror.page

    def log(self, record: Record) -> None:
        """Mirror one row of something that has no metrics file."""
        if self._worker is not None:
            self._kept.append(record)

    def line(self, text: str) -> None:
        """Mirror a line of the terminal, redacted."""
        if self._mirror is not None and self._tracking.console:
            self._mirror.lines.append(redacted(text.replace(str(self._job.run_dir), self._job.run_dir.name)))

    def finish(self, ending: Ending) -> None:
        """Send what is left: as long as a server takes it, at most `tracking.timeout_s`, and else some seconds."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        if ending.preempted and self._stop.asked:
            ending = Ending(ending.summary, ending.images, ending.model)
        assert self._mirror is not None
        self._mirror.ending = ending
        self._mirror.closing.set()
        if not self._wait(worker, self._mirror, ending):
            self._left = True
            wandb_api.end_process()
            self._warn(f"W&B: not finished after {self._waited:.0f} s and left alone; metrics.jsonl is complete")

    def _wait(self, worker: threading.Thread, mirror: Mirror, ending: Ending) -> bool:
        """Whether the run has ended in W&B in time."""
        begin = looked = time.monotonic()
        given_up = told = False
        while worker.is_alive():
            worker.join(0.05)
            now = time.monotonic()
            self._waited, waited = now - begin, now - max(begin, mirror.since)
            limit = LIMITS_S[mirror.phase]
            if mirror.phase is Phase.asking and waited > limit and not given_up:
                given_up = True
                if mirror.give_up():
                    wandb_api.end_process()  # whereupon the mirror goes on offline
            if given_up:
                limit += LIMITS_S[Phase.loading]
            if mirror.phase is Phase.open and mirror.mode is WandbMode.online and ending.summary is not None:
                limit = self._tracking.timeout_s
                if waited > TOLD_S and not told:
                    told = True
                    self._warn(f"W&B: the last rows are on their way, for {limit:g} s at most")
                if now - looked > LOOK_S:
                    looked = now
                    limit = limit if reachable(mirror.url) else 0.0
            if waited > limit:
                return False
        return True

    def _guarded(self, mirror: Mirror) -> None:
        try:
            mirror.work()
        except Exception as error:  # the mirror must never stop the run; its text may hold secrets, so only its type
            self._mode = WandbMode.off
            if self._left:
                return
            self._warn(f"W&B: it failed ({type(error).__name__}); tracking goes on in metrics.jsonl only")


def clean_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without keys that name secrets and without user names and passwords in URLs."""
    return {key: _clean(value) for key, value in config.items() if not _SECRET_KEY.search(key)}


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return clean_config(value)
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return without_users(value) if isinstance(value, str) else value


def _print_warning(text: str) -> None:
    print(text, file=sys.stderr)
