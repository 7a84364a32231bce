"""A checkpoint that several processes write together: the first makes the folder, each writes its shares into it.

The first leads. It says where to write, hears what came of it, and says what became of the whole, so that all know.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from est_cli.common.errors import CheckpointError, EstError, NumericsError, StorageError
from est_cli.storage import content, store
from est_cli.storage.manifest import Files
from est_cli.storage.shares import Shares, write_shares

_KINDS: dict[str, type[EstError]] = {kind.__name__: kind for kind in (StorageError, NumericsError, CheckpointError)}


class Peers(Protocol):
    """The processes of a run; each method is called by all of them."""

    def share(self, value: Any) -> Any:
        """The first process's value, whatever JSON can say, in every process."""

    def exchange(self, value: Any) -> list[Any]:
        """Each process's value, by rank."""


def save_together(
    folder: Path,
    step: int,
    shares: Shares,
    tokenizer: PreTrainedTokenizerBase | None,
    state: dict[str, Any],
    meta: dict[str, Any],
    peers: Peers,
) -> None:
    """Write folder/step-NNNNNN with the others, who call help_to_save(); one thread of the first process calls it.

    Else as content.save_checkpoint(). Whatever went wrong in any process is raised in all of them.
    """

    def fill(tmp: Path) -> Files:
        peers.share({"place": str(tmp)})
        files = _joined(peers.exchange(_outcome(tmp, shares)))
        # Behind the exchange, in which the others wait: what fails here is told them by tell_refused().
        content.write_beside(tmp, shares.snapshot, tokenizer, state)
        return files

    try:
        target = content.place_for(folder, step)
        if target is not None:
            store.write_folder(target, fill, {**meta, **content.environment()})
    except EstError as error:
        tell_refused(error, peers)
        raise
    peers.share({})


def tell_refused(error: EstError, peers: Peers) -> None:
    """Have the others, who are in help_to_save(), raise the first process's error."""
    peers.share(_words(error))


def help_to_save(shares: Shares, peers: Peers) -> None:
    """What the other processes do for a checkpoint: they write as the first one says, until it says how it ended."""
    while "place" in (told := peers.share(None)):
        peers.exchange(_outcome(Path(told["place"]), shares))
    _raise(told)


def _outcome(folder: Path, shares: Shares) -> dict[str, Any]:
    """What came of writing this process's shares, as the others can read it."""
    try:
        content.check_snapshot(shares.snapshot)
        return {"files": write_shares(folder, shares)}
    except EstError as error:
        return _words(error)


def _joined(outcomes: list[dict[str, Any]]) -> Files:
    for outcome in outcomes:
        _raise(outcome)
    return {name: entry for outcome in outcomes for name, entry in outcome["files"].items()}


def _words(error: EstError) -> dict[str, Any]:
    return {"failed": type(error).__name__, "said": str(error)}


def _raise(outcome: dict[str, Any]) -> None:
    if "failed" in outcome:
        raise _KINDS[outcome["failed"]](outcome["said"])
