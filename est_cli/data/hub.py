"""Data sets of the Hugging Face hub, and local folders of that layout, through `datasets`.

Without a network its own calls retry for half a minute and then do not say what to do, so the hub is asked once first.
Set HF_HUB_OFFLINE=1 to use only what was downloaded before.
"""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from est_cli.config import DatasetConfig
from est_cli.data.digest import digest_files, fingerprint
from est_cli.data.pieces import Advance, Piece, Pieces, Source
from est_cli.data.readers import reason, row_text
from est_cli.errors import ConfigError, DataError

TIMEOUT_S = 5.0


def hub_source(dataset: DatasetConfig) -> Source:
    """The data sets of `dataset.hub_ids`, one after the other. Raises DataError where one cannot be loaded."""
    if not dataset.hub_ids:
        raise ConfigError("dataset.hub_ids: is empty; name data sets of the hub or folders, for example [user/name]")
    if dataset.hub_validation_split == dataset.hub_split:
        raise ConfigError(f"dataset.hub_validation_split: is {dataset.hub_split!r} as dataset.hub_split; name another")
    splits = [dataset.hub_split] + [split for split in [dataset.hub_validation_split] if split is not None]
    parts = [[(name, split, _load(name, dataset.hub_config, split)) for name in dataset.hub_ids] for split in splits]
    prints = [[_fingerprint(name, data) for name, _, data in part] for part in parts]
    return Source(
        name="dataset.hub_ids",
        train=_reading(parts[0], dataset.text_fields),
        validation=_reading(parts[1], dataset.text_fields) if len(parts) > 1 else None,
        fingerprint=fingerprint("hub", prints, dataset.hub_config, splits, dataset.text_fields),
        total=_row_count([data for part in parts for _, _, data in part]),
    )


def require_hub(key: str, name: str, way_out: str) -> None:
    """Return where the hub answers or HF_HUB_OFFLINE is set; otherwise raise DataError, within TIMEOUT_S."""
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):
        raise DataError(f"{key}: {name!r} is neither a folder nor the name of something on the hub")
    if constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT):
        return
    raise DataError(
        f"{key}: {name!r} cannot be fetched, {constants.ENDPOINT} does not answer; {way_out}, "
        "or set HF_HUB_OFFLINE=1 if it was downloaded here before"
    )


def _answers(url: str) -> bool:
    """Whether one small request gets any answer; in a thread, because name look-up knows no timeout."""
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                answered.set()
        except urllib.error.HTTPError:
            answered.set()
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    return answered.is_set()


def _load(name: str, config: str | None, split: str) -> Any:
    """A `datasets` object; a folder is streamed, so that no copy of it (and no outdated one) is ever kept."""
    import datasets  # a second to import, and only this source needs it

    folder = Path(name).is_dir()
    if not folder:
        require_hub("dataset.hub_ids", name, "download it elsewhere and give its files with dataset=text dataset.files")
    try:
        return datasets.load_dataset(name, config, split=split, streaming=folder)
    except Exception as error:  # whatever its file readers and the network raise
        raise DataError(f"dataset.hub_ids: {name!r} has no loadable split {split!r} ({reason(error)})") from error


def _fingerprint(name: str, data: Any) -> object:
    """The content of a folder, or what `datasets` knows a downloaded revision by."""
    folder = Path(name)
    if not folder.is_dir():
        return [name, data._fingerprint]
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    return [[path.as_posix() for path in paths], digest_files(folder / path for path in paths)]


def _reading(parts: list[tuple[str, str, Any]], fields: Sequence[str]) -> Pieces:
    def pieces(advance: Advance) -> Iterator[Piece]:
        for name, split, data in parts:
            for number, row in enumerate(_rows_of(data, fields, name), start=1):
                advance(1)
                yield Piece(row_text(row, fields, f"{name} ({split}):{number}"), ends=True)

    return pieces


def _rows_of(data: Any, fields: Sequence[str], name: str) -> Iterator[Any]:
    """The rows, of the text column only where the columns are known."""
    column = next((field for field in fields if field in (data.column_names or [])), None)
    rows = iter(data if column is None else data.select_columns([column]))
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # whatever its file readers raise
            raise DataError(f"dataset.hub_ids: {name!r} cannot be read to the end ({reason(error)})") from error
        yield row


def _row_count(data: list[Any]) -> int | None:
    counts = [part.num_rows for part in data if hasattr(part, "num_rows")]
    return sum(counts) if len(counts) == len(data) else None
