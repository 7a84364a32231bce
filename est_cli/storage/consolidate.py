"""python -m est_cli.storage.consolidate CHECKPOINT FOLDER: a checkpoint in shares as the plain folder of one process.

Transformers open it, and a run goes on from it. The host needs 8 bytes for each parameter, as much as two moments take.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from safetensors.torch import save_file

from est_cli.common.errors import CheckpointError, ConfigError, EstError
from est_cli.storage import store
from est_cli.storage.content import OPTIMIZER, WEIGHTS
from est_cli.storage.manifest import blaming
from est_cli.storage.shares import MOMENTS_SHARES, WEIGHTS_SHARES, opened_shares, share_names

PLAIN = {WEIGHTS_SHARES: (WEIGHTS, {"format": "pt"}), MOMENTS_SHARES: (OPTIMIZER, None)}
"""The file of each kind, and what its header says."""


def consolidate(path: Path, target: Path) -> None:
    """Write the checkpoint `path` as one process would have written it. Raises CheckpointError, StorageError."""
    manifest = store.verify_folder(path)
    with blaming(path):
        shares = {name for kind in PLAIN for name in share_names(manifest["files"], kind)}
    if not shares:
        raise CheckpointError(
            f"{path}: holds no shares (launch.sharded_checkpoints=true); it is a plain folder already"
        )

    def fill(tmp: Path) -> None:
        for kind, (name, header) in PLAIN.items():
            with opened_shares(path, kind) as file:
                save_file({entry: file.get_tensor(entry) for entry in file.keys()}, tmp / name, header)  # noqa: SIM118
        for name in manifest["files"].keys() - shares:
            shutil.copyfile(path / name, tmp / name, follow_symlinks=False)

    store.write_folder(target, fill, manifest["meta"])


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    try:
        if len(arguments) != 2:
            raise ConfigError("give a checkpoint and the folder to be made: CHECKPOINT FOLDER")
        path, target = map(Path, arguments)
        if not target.parent.is_dir():
            raise ConfigError(f"{target}: there is no folder {target.parent}")
        consolidate(path, target)
    except EstError as error:
        print(f"consolidate: error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{target}: a plain folder of the checkpoint {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
