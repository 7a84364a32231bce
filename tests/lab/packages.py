"""Packages as pip installs them, made in a folder: the metadata that importlib reads, and modules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install(
    folder: Path,
    name: str,
    entry_points: Mapping[str, str],
    modules: Mapping[str, str] | None = None,
    version: str = "1",
) -> Path:
    """`entry_points`: `GROUP:NAME` -> `module:attribute`; `modules`: name -> source. The folder belongs on sys.path."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"[{key.partition(':')[0]}]\n{key.partition(':')[2]} = {value}\n" for key, value in entry_points.items()]
    (info / "entry_points.txt").write_text("".join(lines))
    for module, source in (modules or {}).items():
        (folder / f"{module}.py").write_text(source)
    return folder
