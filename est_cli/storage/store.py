"""The folders of checkpoints: written whole, verified to the last bit, and what is kept of a series of them.

Whoever writes, deletes or cleans here holds the run's lock (see run_dir.py), so there is one writer at a time.
Standard library only: what a crash can leave behind is tested without torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from est_cli.common.errors import CheckpointError
from est_cli.storage import disk, manifest, strict_json
from est_cli.storage.manifest import CARD, CARD_PICTURE, MANIFEST, Files, Manifest, blaming

OPTIMIZER = "optim.safetensors"
"""Of a checkpoint that training can go on from: the optimizer's state, ..."""
MOMENTS = re.compile(r"optim(-[0-9]{5,}-of-[0-9]{5,})?\.safetensors")
"""... in one file, or in a share for each process (see shares.py)."""
_STEP = re.compile(r"step-([0-9]{6,})")
_RECORDS = r"config\.yaml|(metrics|layers)\.jsonl|(forked_from|zero_shot|analysis|tracked-[a-z]+)\.json"
_RECORDS += r"|tokens\.npy|(summary|results)\.(json|csv|md)"
_FINETUNED = r"[a-z0-9]+-seed\d+-[0-9a-f]{8}"
_WRITTEN = rf"{_FINETUNED}|step-\d{{6,}}|model|{_RECORDS}|[a-z0-9_-]+\.png|{re.escape(CARD)}"
_LEFTOVER = re.compile(rf"\.tmp-({_WRITTEN})-\d+|\.trash-step-\d{{6,}}-\d+", re.ASCII)


def write_folder(target: Path, fill: Callable[[Path], Files | None], meta: dict[str, Any]) -> None:
    """Make `target` with the files that `fill(folder)` writes and a manifest with `meta`; on any exception, nothing.

    `fill` returns the entries of files that other processes have written and synced, where there are some.
    CheckpointError: target exists, or `fill` left something that is not a plain file. StorageError: the disk refused.
    """
    _refuse_existing(target)

    def seal(tmp: Path, sealed: Files | None) -> None:
        # mkdir applied the umask, so the folder's mode says which file mode the user wants (safetensors makes 0600).
        files = manifest.seal_files(tmp, _check_entry, tmp.stat().st_mode & 0o666, sealed)
        disk.write_file(tmp / MANIFEST, manifest.render(files, meta))

    def place(tmp: Path, target: Path) -> None:
        _refuse_existing(target)
        disk.rename(tmp, target)

    with disk.storage_errors(target):
        disk.make_folder(target.parent)
        manifest.write_whole(target, target.parent / f".tmp-{target.name}-{os.getpid()}", fill, seal, place)


def _check_entry(entry: os.DirEntry[str]) -> None:
    if not entry.is_file(follow_symlinks=False):
        raise CheckpointError(f"{entry.path}: a checkpoint holds plain files only")
    with blaming(Path(entry.path)):
        manifest.check_name(entry.name)


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise CheckpointError(f"{target}: exists already and is never overwritten")


def verify_folder(path: Path) -> Manifest:
    """The manifest of `path`, after every file in it was found to be there, plain, and the same to the last bit.

    A card beside them may be anything: nothing reads it. CheckpointError names the file and what is wrong. Links are
    refused, also `path` itself: resolve it first.
    """
    with blaming(path), manifest.opened_folder(path) as folder:
        with blaming(path / MANIFEST), manifest.open_plain(folder, MANIFEST) as file:
            found = manifest.parse(file.read(strict_json.MAX_BYTES + 1))
        _check_listing(set(os.listdir(folder)), {*found["files"], MANIFEST})
        for name, entry in found["files"].items():
            with blaming(path / name), manifest.open_plain(folder, name) as file:
                manifest.check_file(file, entry)
    return found


def is_intact(path: Path) -> bool:
    """Whether `path` is a folder that verifies."""
    try:
        verify_folder(path)
    except CheckpointError:
        return False
    return True


def _check_listing(present: set[str], expected: set[str]) -> None:
    for name in sorted(expected - present):
        raise ValueError(f"{name} is missing")
    for name in sorted(present - expected - {CARD, CARD_PICTURE}):
        raise ValueError(f"{name!r} is not in {MANIFEST}, so it does not belong there")


def holds_moments(path: Path) -> bool:
    """Whether a checkpoint has the optimizer's state, by the names of its files."""
    with blaming(path):
        return any(map(MOMENTS.fullmatch, os.listdir(path)))


def step_folders(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of everything named step-NNNNNN in `folder`, oldest first; [] if there is no such folder."""
    with disk.storage_errors(folder):
        names = os.listdir(folder) if folder.exists() else []
    matches = [match for name in names if (match := _STEP.fullmatch(name))]
    return sorted((int(match[1]), folder / match[0]) for match in matches)


def newest_valid(folder: Path, warn: Callable[[str], None], until: int | None = None) -> tuple[Path, Manifest] | None:
    """The newest checkpoint that verifies, with its manifest; None if there are none. One warning for each newer one.

    `until`: of this step or an earlier one.

    CheckpointError if there are some and none verifies: a run must not start anew over the remains of another.
    """
    found = [(step, path) for step, path in step_folders(folder) if until is None or step <= until]
    for _, path in reversed(found):
        try:
            return path, verify_folder(path)
        except CheckpointError as err:
            warn(f"{err}; this checkpoint is skipped")
    if found:
        raise CheckpointError(f"{folder}: none of its {len(found)} checkpoints is intact; start a new run_name instead")
    return None


def retain(folder: Path, keep_last: int, keep: Callable[[int], bool]) -> None:
    """Delete checkpoints, except the `keep_last` newest (at least 2) and those whose step `keep` wants.

    Call it after a successful save only. Folders without a manifest and links are neither counted nor touched.
    """
    ours = [(step, path) for step, path in step_folders(folder) if not path.is_symlink() and (path / MANIFEST).exists()]
    doomed = [path for step, path in ours[: -max(keep_last, 2)] if not keep(step)]
    _discard(folder, doomed)


def remove_later(folder: Path, step: int) -> None:
    """Delete the checkpoints of steps after `step`, of a run that is to go another way from there; the newest first."""
    _discard(folder, [path for found, path in reversed(step_folders(folder)) if found > step])


def _discard(folder: Path, doomed: Sequence[Path]) -> None:
    with disk.storage_errors(folder):
        trash = [disk.rename(path, disk.unused(folder / f".trash-{path.name}")) for path in doomed]
        if trash:
            disk.sync_folder(folder)
        for path in trash:
            disk.remove(path)


def set_aside(path: Path) -> Path | None:
    """Rename `path` to an unused aside-NAME-N beside it, which nothing reads or deletes; None if it is not there."""
    if not os.path.lexists(path):
        return None
    with disk.storage_errors(path):
        moved = disk.rename(path, disk.unused(path.parent / f"aside-{path.name}"))
        disk.sync_folder(path.parent)
    return moved


def set_aside_later(folder: Path, step: int) -> None:
    """Set aside the checkpoints of steps after `step`, which a run that continues from `step` has gone back behind.

    They are damaged, or left by going back by hand. Counted as the newest, they would make `retain` delete intact ones.
    """
    for found, path in reversed(step_folders(folder)):
        if found > step:
            set_aside(path)


def is_leftover(name: str) -> bool:
    """Whether a file or folder of a run has the name of what a killed writer of ours leaves."""
    return _LEFTOVER.fullmatch(name) is not None


def clean_leftovers(folder: Path, within: Path | None = None) -> None:
    """Remove the .tmp-* and .trash-* of killed writers of ours. Call it holding the lock: no writer lives then.

    Nothing where `folder` is a link that leads out of the folder `within`: what lies there may be somebody else's.
    """
    if not folder.is_dir() or (within is not None and leads_out(folder, within)):
        return
    with disk.storage_errors(folder):
        for name in filter(is_leftover, os.listdir(folder)):
            disk.remove(folder / name)


def leads_out(folder: Path, within: Path) -> bool:
    """Whether `folder`, which stands in the folder `within` (that may itself be a link), is a link to outside of it."""
    return folder.is_symlink() and not folder.resolve().is_relative_to(within.resolve())
