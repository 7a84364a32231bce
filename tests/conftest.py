import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from est_cli.config.command_line import CONFIG_DIR_VARIABLE
from est_cli.planning.memory_cache import FOLDER_VARIABLE
from est_cli.storage.cache import DATA_VARIABLE
from est_cli.storage.run_dir import OUTPUTS_VARIABLE

HERE = Path(__file__).parent
PROCESSES = ("faults", "cli/launch", "distributed")
"""Folders all of whose tests start trainings or other processes of ours."""
LABS = {"server", "shared", "lab", "eval_lab"}
"""Fixtures that start such processes, in whatever folder."""
assert all((HERE / folder).is_dir() for folder in PROCESSES), "a folder in PROCESSES has another name now"


def pytest_configure() -> None:
    for name in (
        OUTPUTS_VARIABLE,
        DATA_VARIABLE,
        CONFIG_DIR_VARIABLE,
    ):  # or tests would write into the places of whoever runs them
        os.environ.pop(name, None)
    _hear_signals()


@pytest.fixture(scope="session", autouse=True)
def _own_plans(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of est-plan's estimates nothing is kept where those of whoever runs the tests are."""
    os.environ[FOLDER_VARIABLE] = str(tmp_path_factory.mktemp("plans"))


def _hear_signals() -> None:
    """A shell has its background jobs ignore Ctrl-C, and nohup SIGHUP: tests that send these rely on being heard."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what `make test-fast` leaves out: here where it can be seen, with @pytest.mark.slow where it cannot."""
    for item in items:
        place = item.path.relative_to(HERE).as_posix()
        if place.startswith(tuple(f"{folder}/" for folder in PROCESSES)) or LABS & set(
            getattr(item, "fixturenames", ())
        ):
            item.add_marker("processes")
    _leave_out_cases(items)
    for item in items:
        if item.get_closest_marker("long") and os.environ.get("EST_LONG") != "1":
            item.add_marker(pytest.mark.skip(reason="a long case: make test-long"))
    started = {item.path for item in items if item.get_closest_marker("processes")}
    items.sort(key=lambda item: item.path not in started)  # or the longest files come last, and one core waits


def _leave_out_cases(items: list[pytest.Item]) -> None:
    """Of a function with @pytest.mark.some(n) all but n cases, evenly spread, are long ones."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("some"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for found in cases.values():
        count = next(found[0].iter_markers("some")).args[0]
        kept = {round(n * (len(found) - 1) / max(count - 1, 1)) for n in range(count)}
        for number, item in enumerate(found):
            if number not in kept:
                item.add_marker("long")


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
