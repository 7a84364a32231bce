import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _logging_left_as_found() -> Iterator[None]:
    """A test that silences our loggers fails itself, and not the one that happens to run after it in its process."""
    before = _silenced()
    yield
    assert _silenced() == before


def _silenced() -> dict[str, tuple[int, bool, bool]]:
    """The loggers of ours that say less, or to others, than they do from the start."""
    named = logging.root.manager.loggerDict
    ours = {name: it for name, it in named.items() if isinstance(it, logging.Logger) and name.startswith("est_cli")}
    states = {name: (it.level, it.propagate, it.disabled) for name, it in ours.items()}
    return {name: state for name, state in states.items() if state != (logging.NOTSET, True, False)}
