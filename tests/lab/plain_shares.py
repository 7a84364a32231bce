"""A plain checkpoint as processes that hold its rows would have written it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from est_cli.storage import store
from est_cli.storage.consolidate import PLAIN

ROWS = 2
"""Processes."""


def in_shares(path: Path, target: Path) -> None:
    """Write the checkpoint `path` as the folder `target`, in shares."""
    manifest = store.verify_folder(path)

    def fill(tmp: Path) -> None:
        for kind, (name, _) in PLAIN.items():
            tensors = load_file(path / name)
            for number in range(ROWS):
                parts, begins = {}, {}
                for key, tensor in tensors.items():
                    rows = -(-len(tensor) // ROWS) if tensor.dim() else 0
                    if tensor.dim() or number == 0:
                        parts[key] = tensor[number * rows :][:rows].clone() if tensor.dim() else tensor
                        begins[key] = {"saved_offsets": [number * rows, *[0] * tensor.dim()][: tensor.dim()]}
                file = tmp / f"{kind}-{number + 1:05d}-of-{ROWS:05d}.safetensors"
                save_file(parts, file, {"DCP_SHARDING_INFO": json.dumps(begins)})
        for name in manifest["files"].keys() - {name for name, _ in PLAIN.values()}:
            shutil.copyfile(path / name, tmp / name)

    store.write_folder(target, fill, manifest["meta"])
