"""A text as `datasets` opens it: of the hub, streamed or downloaded before, or in a local folder of that layout."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from est_cli.common.errors import ConfigError, DataError, reason
from est_cli.data.text.hub_access import how_to_enter, is_gated
from est_cli.data.text.pieces import Wanted

SLICE = re.compile(r"(?P<split>[^\[]+)\[(:(?P<rows>\d+)|.*)\]")
"""`train[:1%]`, `train[:1000]`, `train[10%:20%]`."""

TRAINING_SPLIT, VALIDATION_SPLIT = "dataset.hub_split", "dataset.hub_validation_split"


@dataclass(frozen=True)
class HubText:
    """What `load_dataset` is asked for; `files` and `folder` are its data_files of the split and its data_dir."""

    name: str
    config: str | None
    split: str
    revision: str | None = None
    files: tuple[str, ...] = ()
    folder: str | None = None
    key: str = TRAINING_SPLIT
    """The setting that names the split."""

    @property
    def arguments(self) -> dict[str, Any]:
        """In plain values: what was always there, and what is set."""
        some = {"files": list(self.files), "folder": self.folder}
        always = {"name": self.name, "config": self.config, "split": self.split, "revision": self.revision}
        return always | {key: value for key, value in some.items() if value}

    @property
    def chosen(self) -> list[Any]:
        """What of it is beside the name and the revision, for a digest."""
        return [self.config, self.split, *([list(self.files), self.folder] if self.files or self.folder else ())]


@lru_cache(maxsize=16)
def open_text(text: HubText) -> Any:
    """A `datasets` object, streamed unless offline; a worker process opens it once for all of its units."""
    import datasets  # a second to import, and only this source needs it

    name, split = text.name, text.split
    streaming = text.revision is not None or Path(name).is_dir()
    if streaming:
        _refuse_slice(text)
    try:
        return datasets.load_dataset(name, text.config, split=split, streaming=streaming, **_choice(text))
    except Exception as error:  # whatever its file readers and the network raise
        raise DataError(_refusal(text, error)) from error


def _choice(text: HubText) -> dict[str, Any]:
    """The other arguments of load_dataset."""
    some = {"data_files": {text.split: list(text.files)} if text.files else None, "data_dir": text.folder}
    return {"revision": text.revision} | {key: value for key, value in some.items() if value}


def _refuse_slice(text: HubText) -> None:
    """`datasets` has slices of what it has downloaded only."""
    found = SLICE.fullmatch(text.split)
    if found is not None:
        other = f"dataset.max_documents={found['rows']}" if found["rows"] else "dataset.max_tokens or max_documents"
        part = f" with {other}" if text.key == TRAINING_SPLIT else ", of which train.eval_tokens reads the beginning"
        raise ConfigError(
            f"{text.key}: {text.split!r} is a slice, and a data set that is streamed has none; use "
            f"{text.key}={found['split']}{part}"
        )


def data_files(text: HubText) -> list[str]:
    """Where the data files of the split lie, in the order in which they are read; none where that is not known."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(text.name, text.config, **_choice(text))
    except Exception:  # a data set of another kind: what is wrong with it is told where it is opened
        return []
    found = (builder.config.data_files or {}).get(text.split)
    return [str(file) for file in found or ()]


def row_count(file: str) -> int | None:
    """The rows of a parquet file, here or on the hub."""
    if not file.endswith(".parquet"):
        return None
    import fsspec
    import pyarrow.parquet as parquet

    try:
        with fsspec.open(file, "rb") as opened:
            return int(parquet.read_metadata(opened).num_rows)
    except Exception:  # it is opened again for its rows, and what is wrong with it is told there
        return None


def rows_of(data: Any, wanted: Wanted, name: str) -> Iterator[Any]:
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


def _refusal(text: HubText, error: Exception) -> str:
    """Why a data set cannot be loaded."""
    if is_gated(error):
        return f"dataset.hub_ids: {text.name!r} {how_to_enter(f'datasets/{text.name}')}"
    if isinstance(error, ConnectionError) and constants.HF_HUB_OFFLINE:
        return (
            f"dataset.hub_ids: {text.name!r} was not downloaded to this machine before, and HF_HUB_OFFLINE is set: "
            "unset it, or read files that are here, dataset=text dataset.files=[corpus/*.txt]"
        )
    chosen = {"data_files": ",".join(text.files), "data_dir": text.folder}
    of = "".join(f" with dataset.{key}={value}" for key, value in chosen.items() if value)
    return f"dataset.hub_ids: {text.name!r} has no loadable split {text.split!r}{of} ({reason(error)})"
