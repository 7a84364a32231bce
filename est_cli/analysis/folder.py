"""The folder of an analysis: a new one, whose analysis.json is written last."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from est_cli.analysis.preflight import default_folder
from est_cli.common.errors import ConfigError, StorageError
from est_cli.config import AnalyzeConfig
from est_cli.reporting.drawing import DPI
from est_cli.storage import disk, strict_json
from est_cli.storage.run_dir import OUTPUTS

RESULT = "analysis.json"
MAX_BYTES = 1 << 26


@contextmanager
def new_folder(config: AnalyzeConfig) -> Iterator[Path]:
    """Made here, and taken away again where nothing was written into it. ConfigError if `run_name` is taken."""
    with disk.storage_errors(OUTPUTS):
        OUTPUTS.mkdir(exist_ok=True)
        folder = _made(config)
    try:
        yield folder
    finally:
        with suppress(OSError):  # it is not empty
            folder.rmdir()


def _made(config: AnalyzeConfig) -> Path:
    if config.run_name is not None:
        folder = OUTPUTS / config.run_name
        folder.mkdir(exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"run_name: {folder} is there and is never overwritten; choose another one")
        return folder
    for number in itertools.count(1):
        folder = default_folder(config, number)
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("there is always a number")


def write_results(folder: Path, result: dict[str, Any], figures: dict[str, Figure]) -> None:
    """The pictures, then analysis.json. StorageError if the disk refuses, or the numbers are too many."""
    for name, figure in figures.items():
        file = BytesIO()
        figure.savefig(file, dpi=DPI, format="png")
        disk.replace_file(folder / name, file.getvalue())
    try:
        data = strict_json.write_object(result, MAX_BYTES)
    except ValueError as error:
        raise StorageError(f"{folder / RESULT}: {error}") from error
    disk.replace_file(folder / RESULT, data)
