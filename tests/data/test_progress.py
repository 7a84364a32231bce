"""What those who wait are told where there is no terminal."""

from __future__ import annotations

import itertools
import logging

import pytest

from est_cli.data.tokens import token_cache as module
from est_cli.data.tokens.token_cache import progress


@pytest.mark.slow
def test_a_log_gets_a_line_a_minute(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ticks = itertools.count(0, 25)
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(ticks)))
    with progress("tokenising x", 1000, 200) as advance:
        for _ in range(6):  # at 25 s, 50 s, ...
            advance(100)
    assert caplog.messages == [
        "tokenising x",
        "50 % tokenised, about 2 minutes left",  # 300 in 75 s, 500 to go
        "80 % tokenised, about 1 minutes left",  # 600 in 150 s, 200 to go
    ]
