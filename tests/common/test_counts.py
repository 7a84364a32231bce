from __future__ import annotations

import pytest

from est_cli.common.counts import counted, hours_minutes


def test_one_is_singular() -> None:
    assert [counted(count, "step") for count in (0, 1, 2, 1200)] == ["0 steps", "1 step", "2 steps", "1,200 steps"]
    assert counted(1, "record is", "records are") == "1 record is" and counted(2, "x", "ys") == "2 ys"


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "--:--"), (0.4, "00:00"), (59.6, "01:00"), (3599, "59:59"), (93784, "26:03:04")]
)
def test_hours_minutes(seconds: float | None, text: str) -> None:
    assert hours_minutes(seconds) == text
