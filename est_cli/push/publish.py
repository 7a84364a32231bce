"""From a run's folder to the files of a repository: checked, the card made anew, shown or sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from est_cli.common.errors import CheckpointError, ConfigError
from est_cli.common.redact import one_line
from est_cli.models.pretrained import model_digest
from est_cli.push.hub import WEIGHTS, check_login, check_repo, push
from est_cli.push.scores import scores_of
from est_cli.reporting.card import is_edited, model_card, write_card, write_picture
from est_cli.reporting.drawing import png_of
from est_cli.reporting.figures import loss_figure
from est_cli.reporting.runs import RunRecord, read_run
from est_cli.storage.manifest import CARD, CARD_PICTURE, MANIFEST, Manifest
from est_cli.storage.run_dir import RunDir, lock
from est_cli.storage.store import verify_folder


@dataclass(frozen=True)
class Order:
    """What est-push was asked for."""

    folder: Path
    repo: str
    license: str | None
    public: bool
    replace: bool
    dry_run: bool


def publish(order: Order) -> None:
    """Send the final model of a finished run with its card, or show what would be sent. Any EstError may come out."""
    check_repo(order.repo)
    run, manifest = _finished(order.folder)
    if not order.dry_run:
        check_login()
    card, edited = _card(order, run)
    files = _files(order, run, manifest, card)
    if edited:
        print(f"card      {order.folder / 'model' / CARD}: was edited, and goes as it is")
    if order.dry_run:
        print("\n".join(_shown(order, files, card)))
        return
    _keep(order, files)
    digest = manifest["files"][WEIGHTS]["sha256"]
    print(f"pushed    {push(files, digest, order.repo, order.public, order.replace)}")


def _finished(folder: Path) -> tuple[RunRecord, Manifest]:
    """The run and its final model's list of files, to the last bit as it was saved. ConfigError, CheckpointError."""
    place = RunDir(folder)
    if not place.config.is_file():
        raise ConfigError(
            f"{folder}: is no run of est-train (it has no config.yaml); give the folder of one, outputs/NAME"
        )
    if not place.is_finished():
        raise CheckpointError(f"{folder}: is not finished; resume={folder} continues it")
    run = read_run(folder)
    if lost := (run.summary or {}).get("not_finite"):
        raise CheckpointError(
            f"{folder}: has no model, for its {' and '.join(map(str, lost))} is not finite; train it anew with a lower "
            "optim.lr"
        )
    manifest = verify_folder(place.model)
    if WEIGHTS not in manifest["files"]:
        raise CheckpointError(f"{place.model / WEIGHTS}: missing, so this is no model")
    return run, manifest


def _card(order: Order, run: RunRecord) -> tuple[str, bool]:
    """The card, and whether it is one that somebody has written or changed."""
    model = RunDir(order.folder).model
    there = model / CARD
    if there.is_file() and not there.is_symlink():
        text = there.read_text(encoding="utf-8", errors="replace")
        if is_edited(text):
            if order.license is not None:
                raise ConfigError(f"--license: {there} was edited, so write it there, or remove the file for a new one")
            return text, True
    chosen = run.config.license if order.license is None else order.license
    try:
        return model_card(run, model, chosen, scores_of(order.folder, model_digest(model))), False
    except (KeyError, TypeError, AttributeError) as error:  # runs may be anybody's
        what = one_line(f"{type(error).__name__}: {error}")[:200]
        raise CheckpointError(f"{order.folder}: its files are not as est-train writes them ({what})") from error


def _files(order: Order, run: RunRecord, manifest: Manifest, card: str) -> dict[str, Path | bytes]:
    """What the repository is to hold, by name."""
    model = RunDir(order.folder).model
    files: dict[str, Path | bytes] = {name: model / name for name in (*manifest["files"], MANIFEST)}
    files[CARD] = card.encode()
    if run.train:
        files[CARD_PICTURE] = png_of(loss_figure(run.metrics, Path(run.name).resolve().name))
    return files


def _keep(order: Order, files: dict[str, Path | bytes]) -> None:
    """Put card and picture beside the model, as the run itself does since est has cards."""
    place = RunDir(order.folder)
    with lock(place):
        for name, write in ((CARD, write_card), (CARD_PICTURE, write_picture)):
            if isinstance(content := files.get(name), bytes):
                write(place, content)


def _shown(order: Order, files: dict[str, Path | bytes], card: str) -> Iterator[str]:
    """The lines of a dry run."""
    sizes = {name: len(what) if isinstance(what, bytes) else what.stat().st_size for name, what in files.items()}
    made = "public" if order.public else "private"
    yield f"would go to {order.repo} ({made}, if it is not there yet), {sum(sizes.values()):,} bytes:"
    yield from (f"{sizes[name]:>16,}  {name}" for name in sorted(sizes))
    yield f"\n{card}"
