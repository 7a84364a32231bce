"""What is looked at after a step: torch's limit of graphs is told before it is reached, garbage collected together."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import pytest

from est_cli.common.rank import Rank
from est_cli.training import watch


def test_many_graphs_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    run: Any = SimpleNamespace(progress=SimpleNamespace(line=lines.append))
    monkeypatch.setattr(watch, "_TOLD", [])
    for graphs in (3, 47, 48, 49, 64):
        monkeypatch.setattr(watch, "compiled_graphs", lambda graphs=graphs: graphs)
        watch.watch_graphs(run)
    assert len(lines) == 1 and lines[0].startswith("warning: 48 graphs are compiled; from 64 on")


@pytest.mark.parametrize("processes", [1, 2])
def test_garbage_of_several_processes_is_collected_on_schedule(monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    collected: list[int] = []
    monkeypatch.setattr(watch.gc, "collect", lambda generation=2: collected.append(generation))
    run: Any = SimpleNamespace(rank=Rank(0, processes))
    with watch.collecting(run) as collect:
        assert gc.isenabled() is (processes == 1)
        for step in range(100):
            collect(step)
    assert gc.isenabled() and collected == ([] if processes == 1 else [2, 1, 1])
