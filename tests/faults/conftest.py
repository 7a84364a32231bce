"""What each test did to the product is counted by row of docs/faults.md, and written down at the end.

A test says with the mark `row("A2")` where it belongs, and with the fixture `tally` what it did: tally(kills=1),
tally(inputs=2000), tally(lost=3). The counts travel with the test's report, as pytest-xdist takes it from process to
process.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.report import Report
from tests.lab.fixtures import golden, lab, server, shared
from tests.lab.lab import Lab
from tests.training.test_start import SHORT, STOP_AT_5

__all__ = ["golden", "lab", "server", "shared"]
"""Fixtures of tests/training, for the victims of these tests."""

Tally = Callable[..., None]


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """tally(kills=1): processes that were killed or stopped; inputs: damaged or malformed ones that were given.

    lost: steps that a kill has undone, which must be done again.
    """

    def count(kills: int = 0, inputs: int = 0, lost: int = 0) -> None:
        request.node.user_properties.extend([("kills", kills), ("inputs", inputs), ("lost", lost)])

    return count


@pytest.fixture(scope="module")
def stopped(shared: Lab, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """outputs/x stopped after step 5 of 6, with checkpoints of steps 2 (a transition), 4 and 5; for `copied`."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "data").symlink_to(shared.folder / "data")
    lab = Lab(shared.server, folder, shared.corpus)
    assert lab.tiny("x", *SHORT, plants=[STOP_AT_5]).code == 143
    return lab


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(name): the row of docs/faults.md that a test belongs to")
    config.stash[REPORT] = Report()
    config.pluginmanager.register(config.stash[REPORT], "fault-report")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marked = item.get_closest_marker("row")
        if marked is not None:
            item.user_properties.append(("row", marked.args[0]))


REPORT = pytest.StashKey[Report]()
