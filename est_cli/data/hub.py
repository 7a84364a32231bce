"""Data sets of the Hugging Face hub, and local folders of that layout, through `datasets`.

A data set of the hub is streamed: its text is never kept on the disk, only its tokens are. Its revision is looked up
once and then remembered in the cache, so that every process and every later run means the same text, with or without a
network. A folder is known by the content of its files. Units are groups of data files, or of rows where
HF_HUB_OFFLINE=1 asks for what was downloaded before.

Without a network its own calls retry for half a minute and then do not say what to do, so the hub is asked once first.
Set HF_HUB_OFFLINE=1 to use only what was downloaded before.
"""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants

from est_cli.common.errors import ConfigError, DataError, reason
from est_cli.config import DatasetConfig
from est_cli.data.document_ends import articles
from est_cli.data.pieces import MAX_UNITS, UNIT_BYTES, Advance, Piece, TextSource, Unit, Wanted, document
from est_cli.storage.cache import cached, intact
from est_cli.storage.digest import fingerprint, remembered_digests

TIMEOUT_S = 5.0
HUB_TIMEOUT_S = 60.0


def hub_source(dataset: DatasetConfig, names: Sequence[str], cache_root: Path, verify: bool) -> TextSource:
    """The data sets `names`, one after the other. Raises DataError where one cannot be loaded."""
    if dataset.hub_validation_split == dataset.hub_split:
        raise ConfigError(f"dataset.hub_validation_split: is {dataset.hub_split!r} as dataset.hub_split; name another")
    settings = Wanted(dataset.text_fields, dataset.exclude, articles=dataset.articles).settings

    def units(split: str) -> tuple[Unit, ...]:
        found = (_units(name, dataset.hub_config, split, settings, cache_root, verify) for name in names)
        return tuple(unit for part in found for unit in part)

    held = None if dataset.hub_validation_split is None else units(dataset.hub_validation_split)
    name = names[0] if dataset.weights is not None else "dataset.hub_ids"
    return TextSource(name, units(dataset.hub_split), held)


def read_shard(
    advance: Advance,
    name: str,
    config: str | None,
    split: str,
    revision: str | None,
    index: int,
    count: int,
    size: int,
    **settings: Any,
) -> Iterator[Piece]:
    """The documents of part `index` of `count` of a data set. Raises DataError."""
    part = "" if count == 1 else f", part {index + 1} of {count}"
    wanted = Wanted(**settings)
    shard = _open(name, config, split, revision).shard(num_shards=count, index=index)
    rows = enumerate(_rows_of(shard, wanted, name), start=1)
    pieces = (document(row, wanted, f"{name} ({split}{part}):{number}") for number, row in rows)
    yield from articles(pieces) if wanted.articles else pieces
    advance(size)


def _units(
    name: str, config: str | None, split: str, settings: dict[str, Any], cache_root: Path, verify: bool
) -> Iterator[Unit]:
    known = _identified(name, config, split, cache_root, verify)
    count = min(known["parts"], MAX_UNITS)
    for index in range(count):
        place = {"name": name, "config": config, "split": split, "revision": known["revision"]}
        arguments = {**place, "index": index, "count": count, "size": known["size"] // count, **settings}
        key = fingerprint("hub", known["identity"], config, split, index, count, settings)
        yield Unit("hub", arguments, key, known["size"] // count)


def _identified(name: str, config: str | None, split: str, cache_root: Path, verify: bool) -> dict[str, Any]:
    """What the text is known by (`identity`), its `revision`, of how many `parts` it is, and a `size` for the bar."""
    if Path(name).is_dir():
        return _of_folder(Path(name), config, split, cache_root, verify)

    def look_up(place: Path) -> dict[str, Any]:
        require_hub("dataset.hub_ids", name, "download it elsewhere and give its files with dataset=text dataset.files")
        revision = _revision(name)
        parts = int(_open(name, config, split, revision).num_shards)
        return {"identity": [name, revision], "revision": revision, "parts": parts, "size": parts * UNIT_BYTES}

    remembered = cache_root / f"hub-{fingerprint(name, config, split)[:16]}"
    if constants.HF_HUB_OFFLINE and intact(remembered) is None:
        return _downloaded(name, config, split)
    return cached(remembered, look_up)


def _of_folder(folder: Path, config: str | None, split: str, cache_root: Path, verify: bool) -> dict[str, Any]:
    parts = int(_open(str(folder), config, split, None).num_shards)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {path: path.relative_to(folder) for path in paths}
    paths = [path for path in paths if not any(part.startswith(".") for part in names[path].parts)]
    identity = [[names[path].as_posix() for path in paths], remembered_digests(paths, cache_root, verify)]
    size = sum(path.stat().st_size for path in paths)
    return {"identity": identity, "revision": None, "parts": parts, "size": size}


def _downloaded(name: str, config: str | None, split: str) -> dict[str, Any]:
    data = _open(name, config, split, None)
    size = int(data.data.nbytes)
    return {"identity": [name, data._fingerprint], "revision": None, "parts": 1 + size // UNIT_BYTES, "size": size}


def _revision(name: str) -> str:
    """The commit that the hub has now."""
    try:
        return str(HfApi().dataset_info(name, timeout=HUB_TIMEOUT_S).sha)
    except Exception as error:  # whatever the network raises
        raise DataError(f"dataset.hub_ids: {name!r} cannot be found on the hub ({reason(error)})") from error


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


@lru_cache(maxsize=16)
def _open(name: str, config: str | None, split: str, revision: str | None) -> Any:
    """A `datasets` object, streamed unless offline; a worker process opens it once for all of its units."""
    import datasets  # a second to import, and only this source needs it

    streaming = revision is not None or Path(name).is_dir()
    try:
        return datasets.load_dataset(name, config, split=split, streaming=streaming, revision=revision)
    except Exception as error:  # whatever its file readers and the network raise
        raise DataError(f"dataset.hub_ids: {name!r} has no loadable split {split!r} ({reason(error)})") from error


def _rows_of(data: Any, wanted: Wanted, name: str) -> Iterator[Any]:
    """The rows, of the columns that matter only where the columns are known."""
    if any(field in (data.column_names or []) for field in wanted.fields):
        data = data.select_columns(wanted.columns(data.column_names, name))
    rows = iter(data)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # whatever its file readers raise
            raise DataError(f"dataset.hub_ids: {name!r} cannot be read to the end ({reason(error)})") from error
        yield row
