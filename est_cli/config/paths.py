"""`paths.*`: where runs and tokens lie. A run is the same wherever that is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from est_cli.config.setting import setting
from est_cli.storage.cache import DATA, DATA_VARIABLE
from est_cli.storage.run_dir import OUTPUTS, OUTPUTS_VARIABLE


@dataclass
class PathsConfig:
    outputs: str | None = setting(
        None, f"Folder of the folders of runs and results; null: ${OUTPUTS_VARIABLE}, or else {OUTPUTS}."
    )
    data: str | None = setting(
        None,
        "Folder of tokens and trained tokenizers; one that cannot be written serves where all that is needed is in it; "
        f"null: ${DATA_VARIABLE}, or else {DATA}.",
    )

    @property
    def outputs_folder(self) -> Path:
        """The folder that `outputs` means here and now."""
        return Path(self.outputs or os.environ.get(OUTPUTS_VARIABLE) or OUTPUTS)

    @property
    def data_folder(self) -> Path:
        """The same of `data`."""
        return Path(self.data or os.environ.get(DATA_VARIABLE) or DATA)


def paths_problems(paths: PathsConfig) -> Iterator[str]:
    """What is no name of a folder: nothing at all, or what a shell would have had to replace."""
    for key, variable in (("outputs", OUTPUTS_VARIABLE), ("data", DATA_VARIABLE)):
        chosen: str | None = getattr(paths, key)
        name, found = (variable, os.environ.get(variable, "")) if chosen is None else (f"paths.{key}", chosen)
        if chosen == "":
            yield f"paths.{key}: is empty; name a folder, or leave it null"
        if found.startswith("~"):
            yield f"{name}: {found!r} begins with ~, which only a shell replaces; write the whole path"
        if "\0" in found:
            yield f"{name}: has a character that no path has"
