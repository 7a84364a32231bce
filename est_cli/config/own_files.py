"""The files of --config-dir, as Hydra reads them."""

from __future__ import annotations

from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult

from est_cli.common.errors import reason
from est_cli.config.bounded_yaml import bounded_text


class _OwnFiles(FileConfigSource):
    """Hydra's reader of files, for those alone that cannot grow without limit when they are loaded."""

    @staticmethod
    def scheme() -> str:
        return "est"

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        try:
            bounded_text(path, aliases=True)
        except (ValueError, OSError) as error:
            raise ValueError(f"{path}: {reason(error)}") from error
        return super().load_config(config_path)


def search_path(config_dir: str) -> str:
    """The override with which Hydra looks into this folder, too."""
    SourcesRegistry.instance().register(_OwnFiles)
    return f"hydra.searchpath=['{_OwnFiles.scheme()}://{Path(config_dir).resolve()}']"
