"""est-report --prices: what was expected of runs, beside what came of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from est_cli.cli.entry import enter
from est_cli.config.stored import stored_config
from est_cli.report import main
from est_cli.reporting.claim import claims_of
from est_cli.reporting.expected import with_predictions
from tests.lab.made_runs import groups_in, make_run
from tests.lab.price_files import price_content, write_prices

HALF = (0.5, 0.5, 1.0)
STAGES: dict[str, Any] = {"stage__boundaries": [50], "stage__rates": [[*HALF], [1, 1, 1]]}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two seeds that end 0.1 and 0.3 above their dense twins; each of 50 steps is expected to lose a fifth."""
    for seed, shift in ((0, 0.1), (1, 0.3)):
        make_run(tmp_path / f"runs/dense-{seed}", "dense", seed)
        make_run(tmp_path / f"runs/sampled-{seed}", "n_stage", seed, shift=shift, **STAGES)
    content = price_content(stored_config(tmp_path / "runs/dense-0"), {40: {HALF: 0.2}}, gain=0.016, error=0.05)
    write_prices(tmp_path / "prices", content)
    return tmp_path


def test_what_was_expected_and_what_was_seen(place: Path) -> None:
    (claim,) = with_predictions(claims_of(list(groups_in(place / "runs").values())), str(place / "prices"))
    worth = 0.016 * 40 / 80  # at step 80 the decay begins
    assert claim.expected is not None
    assert claim.expected.mean == pytest.approx(50 * 0.2 * worth)
    assert claim.expected.error == pytest.approx(50 * 0.05 * worth)
    assert claim.cautions[0].startswith("Expected by prices: +0.0800 (+0.0408 to +0.1192); seen: +0.2000 (")
    assert claim.cautions[0].endswith(") with 2 seeds.")


def test_rates_without_a_price_are_told(place: Path) -> None:
    make_run(place / "runs/other", "n_stage", 0, stage__boundaries=[50], stage__rates=[[0.25, 1, 1], [1, 1, 1]])
    claims = with_predictions(claims_of(list(groups_in(place / "runs").values())), str(place / "prices"))
    told = [claim.cautions[0] for claim in claims if claim.expected is None]
    assert len(claims) == 2 and len(told) == 1
    assert "no price was measured of steps at p_h=0.25 p_m=1 p_l=1" in told[0]


@pytest.mark.slow
def test_the_command_tells_it(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(place)
    command = ["est-report", "runs", "--out", "page", "--prices"]
    assert enter("est-report", main, [*command, "nowhere"]) == 2
    assert "prices: nowhere: No such file or directory" in capsys.readouterr().err
    assert enter("est-report", main, [*command, "prices"]) == 0
    assert "Expected by prices: +0.0800" in capsys.readouterr().out
    assert "Expected by prices: +0.0800" in Path("page/report.html").read_text()
    (card,) = json.loads(Path("page/report.json").read_text())["claims"]
    assert card["expected"] == pytest.approx({"mean": 0.08, "error": 0.02})
    assert enter("est-report", main, ["est-report", "--watch", "runs", "--prices", "prices"]) == 2
    assert "--prices: --watch does not show them" in capsys.readouterr().err
