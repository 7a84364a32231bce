from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab import Lab, Server, write_corpus


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def shared(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The lab that makes the tokens of the corpus and the golden runs."""
    folder = tmp_path_factory.mktemp("loop")
    lab = Lab(server, folder, write_corpus(folder / "corpus.jsonl"))
    lab.golden()
    return lab


@pytest.fixture
def lab(shared: Lab, tmp_path: Path) -> Lab:
    """A lab of one's own, with the tokens that are there already."""
    (tmp_path / "data").symlink_to(shared.folder / "data")
    return Lab(shared.server, tmp_path, shared.corpus)


@pytest.fixture
def golden(shared: Lab) -> Callable[..., dict[str, Any]]:
    """golden(*overrides): the outcome of that tiny run when nothing interrupts it."""
    return shared.golden
