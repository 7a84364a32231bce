"""When and how a run's checkpoints are written: one at a time, in order, by a thread while training goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import Thread
from typing import Any

from est_cli.common.errors import StoppedBySignal, StorageError
from est_cli.distributed import Group
from est_cli.storage.content import save_checkpoint
from est_cli.storage.shares import Shares, take_shares
from est_cli.storage.store import retain, step_folders
from est_cli.storage.tensors import Buffers, Snapshot, take_snapshot
from est_cli.storage.together import Peers, help_to_save, save_together, tell_refused
from est_cli.training.parts import writes_shares
from est_cli.training.rewind import place_before
from est_cli.training.run import Run

MAX_FAILED_SAVES = 3
"""Saves in a row that the disk may refuse before the run stops."""


class Saver:
    """Writes the checkpoints of `run`. Use it in a `with` block, which never ends while a write is under way.

    Everything but the writing itself happens in the thread that calls `save`, `poll` and `wait`; what went wrong in
    the writing is told there too, by whichever of them comes next.
    """

    def __init__(self, run: Run, asynchronous: bool) -> None:
        self.saved_step = -1
        """The step of the last checkpoint that this object wrote; after `wait` there is no newer one on its way."""
        self._run = run
        # Writers are other threads than those that train: they talk in a group of their own.
        self._peers = Group(run.rank, run.config.launch.timeout_s) if writes_shares(run.config, run.rank) else None
        self._buffers: Buffers | None = {} if asynchronous else None
        self._writing: tuple[int, Future[None]] | None = None
        self._failed = 0

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let a write under way come to its end, because the run's lock must outlive it.

        Not so if a second signal ends the process: its writer dies with it (cli.entry.leave) and leaves what the next
        start cleans up.
        """
        if self._writing is None or (kind is not None and issubclass(kind, (KeyboardInterrupt, StoppedBySignal))):
            return
        if (error := self._writing[1].exception()) is not None:
            self._run.progress.line(f"warning: no checkpoint at step {self._writing[0]}: {error}")

    def save(self) -> None:
        """Save the run as it stands after a step. Not asynchronous: raises what `wait` raises.

        A disk that refuses is a warning as long as an older checkpoint is there, at most MAX_FAILED_SAVES - 1 times in
        a row; then StorageError.
        """
        self.wait()
        run, step = self._run, self._run.state.step
        refused = self._records_refused()
        if self._peers is not None:
            shares = take_shares(run.model, run.optimizer, self._buffers)
            self._begin(step, partial(self._write_share, step, shares, run.state.as_json(), refused, self._peers))
            return
        # Also where nothing can be written: the others are at it, and may need this process's share.
        snapshot = take_snapshot(run.model, run.optimizer, self._buffers, keep=run.rank.first and refused is None)
        if refused is not None:
            self._refused(step, refused)
            return
        if not run.rank.first:
            self.saved_step = step  # as far as this process knows
            return
        self._begin(step, partial(self._write, step, snapshot, run.state.as_json()))

    def _begin(self, step: int, write: Callable[[], None]) -> None:
        self._writing = step, _in_thread(write)
        if self._buffers is None:
            self.wait()

    def poll(self) -> None:
        """Report a write that has ended since the last call; raises as `wait` does. Cheap, for every step."""
        if self._writing is not None and self._writing[1].done():
            self.wait()

    def wait(self) -> None:
        """Block until nothing is under way. Raises StorageError, NumericsError or CheckpointError of a failed write."""
        if self._writing is None:
            return
        step, future = self._writing
        error = future.exception()
        self._writing = None
        if error is None:
            self._failed = 0
        elif isinstance(error, StorageError):
            self._refused(step, error)
        else:
            raise error

    def _records_refused(self) -> StorageError | None:
        """Have the disk hold the records, or say why it does not: a checkpoint must not be ahead of them."""
        try:
            self._run.tracker.sync()
        except StorageError as error:
            return error
        return None

    def _write(self, step: int, snapshot: Snapshot, state: dict[str, Any]) -> None:
        save_checkpoint(self._run.dir.checkpoints, step, snapshot, self._run.corpus.tokenizer, state, {"step": step})
        self._saved(step)

    def _write_share(
        self, step: int, shares: Shares, state: dict[str, Any], refused: StorageError | None, peers: Peers
    ) -> None:
        """This process's part of a checkpoint that all of them write; `refused`: why the first one cannot."""
        run = self._run
        if not run.rank.first:
            help_to_save(shares, peers)
            self.saved_step = step
        elif refused is not None:
            tell_refused(refused, peers)
            raise refused
        else:
            tokenizer = run.corpus.tokenizer
            save_together(run.dir.checkpoints, step, shares, tokenizer, state, {"step": step}, peers)
            self._saved(step)

    def _saved(self, step: int) -> None:
        """Of the first process: older checkpoints than are to be kept go."""
        run, train = self._run, self._run.config.train
        self.saved_step = step
        lasting, back = run.resolved.lasting, place_before(run, step)
        retain(
            run.dir.checkpoints,
            train.keep_last,
            lambda old: old == back or old in lasting or (train.keep_every > 0 and old % train.keep_every == 0),
        )

    def _refused(self, step: int, error: StorageError) -> None:
        self._failed += 1
        if self._failed >= MAX_FAILED_SAVES or not step_folders(self._run.dir.checkpoints):
            raise error
        failed = "old checkpoints not removed" if self.saved_step == step else "no checkpoint"
        self._run.progress.line(f"warning: {failed} at step {step}: {error}")


def _in_thread(work: Callable[[], None]) -> Future[None]:
    """What comes of `work`, done in a thread that does not keep the process from ending."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name="checkpoint", daemon=True).start()
    return future
