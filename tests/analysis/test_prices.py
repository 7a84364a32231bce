"""analysis=prices: its estimates by hand, and the command on a run of a few steps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.state import AcceleratorState

from est_cli.analysis.prices import KINDS, cells_of, cost_of, lost_steps, variance_of_draws
from est_cli.analyze import main
from est_cli.cli.entry import enter
from est_cli.config import Analysis, AnalyzeConfig
from est_cli.config.prices import read_prices
from est_cli.est import IndexGenerator, SamplingRates, forward_flops, sample_sizes
from est_cli.est.sizes import DEFAULTS, full_sizes
from est_cli.families import spec_of
from tests.lab.commands import tree
from tests.lab.est_models import config_of
from tests.lab.plain_shares import in_shares
from tests.lab.short_runs import trained

SHORT = ["analysis=prices", "analyze.steps=2", "analyze.cooldown=1", "analyze.tokens=64", "analyze.rates=[0.5]"]


def test_rates_of_one_cost_nothing_at_all() -> None:
    same = np.zeros((2, 5))
    assert cost_of(same, 0.0) == {"mean": 0.0, "standard_error": 0.0}
    assert lost_steps(same, np.array([0.2, 0.1, 0.2, 0.1, 0.3]), 0.0) == {"mean": 0.0, "standard_error": 0.0}


def test_the_errors_of_a_cost() -> None:
    """Over sequences of the mean over draws, and over draws of the mean over sequences."""
    rng = np.random.default_rng(0)
    found = rng.normal(0.1, 0.02, (3, 4, 50)) + rng.normal(0.0, 0.1, (3, 4, 1))
    of_draws = variance_of_draws(found)
    assert of_draws == pytest.approx(np.mean([np.var(row.mean(1), ddof=1) for row in found]))
    cost = cost_of(found[0], of_draws)
    by_sequence = found[0].mean(0)
    assert cost["mean"] == pytest.approx(found[0].mean())
    assert cost["standard_error"] == pytest.approx(np.sqrt(by_sequence.var(ddof=1) / 50 + of_draws / 4))


def test_the_error_of_lost_steps_is_that_of_a_ratio() -> None:
    """Against made texts: the cost of a sequence is half of its gain, and noise beside it."""
    rng = np.random.default_rng(1)

    def text() -> dict[str, float]:
        gained = rng.normal(0.2, 0.05, 64)
        found = lost_steps((0.5 * gained + rng.normal(0.0, 0.02, 64))[None].repeat(2, 0), gained, 0.0)
        assert found is not None
        return found

    made = [text() for _ in range(400)]
    spread = np.std([one["mean"] for one in made])
    assert np.mean([one["mean"] for one in made]) == pytest.approx(0.5, abs=0.005)
    assert np.mean([one["standard_error"] for one in made]) == pytest.approx(spread, rel=0.1)


def test_a_gain_that_is_not_told_from_zero_gives_no_price() -> None:
    assert lost_steps(np.full((2, 4), 0.1), np.array([0.1, -0.1, 0.2, -0.1]), 0.0) is None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense run; nothing is ever written there."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        trained(folder, "dense")
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


def est_analyze(*args: str, code: int = 0) -> None:
    assert enter("est-analyze", main, ["est-analyze", *args]) == code


def result(folder: str) -> dict[str, Any]:
    return json.loads(Path("outputs", folder, "analysis.json").read_text())["result"]


@pytest.mark.slow
def test_the_command(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = place / "outputs/dense"
    files = tree(run)
    est_analyze(f"checkpoint={run}", *SHORT, "analyze.layer_parts=2")
    out = capsys.readouterr().out
    found = result("analyze-dense-prices")
    assert "60 tokens in 4 sequences of 16" in out, "as many as the run trains on, not all that its model could read"
    (moment,) = found["moments"]
    assert moment["step"] == 9, "the newest that leaves three steps before the decay, at 12"
    assert [offer["kind"] for offer in moment["offers"]] == list(KINDS) and "heads and columns at 0.5" in out
    blocks = [round(offer["saved"]["blocks"], 3) for offer in moment["offers"]]
    assert blocks == [0.167, 0.333, 0.5, 0.5, 0.75, 0.0, 0.75]
    assert moment["offers"][5]["price"]["blocks"] is None and moment["offers"][5]["saved"]["total"] > 0.1, "positions"
    for offer in moment["offers"]:
        assert offer["price"]["total"]["mean"] == pytest.approx(offer["lost"]["mean"] / offer["saved"]["total"])
        assert offer["cost"]["mean"] == pytest.approx(np.mean(offer["each"]))
        assert offer["lost"]["mean"] * 2 * moment["gain"]["mean"] == pytest.approx(offer["cost"]["mean"])
    assert moment["loss"] - moment["loss_complete"] == pytest.approx(2 * moment["gain"]["mean"])
    assert [(part["kind"], part["layers"]) for part in moment["parts"]] == [
        (kind, [layer, layer]) for layer in (0, 1) for kind in ("heads", "columns")
    ], "of one layer none can be left out"
    assert [round(part["saved"]["blocks"], 3) for part in moment["parts"]] == [0.083, 0.167] * 2
    assert "columns at 0.5 of layer 1" in out
    assert tree(run) == files and (Path("outputs/analyze-dense-prices/prices.png")).read_bytes()[:4] == b"\x89PNG"
    prices, settings, steps = read_prices("outputs/analyze-dense-prices")
    assert (steps, settings["train.seq_len"], prices.moments[0].step) == (16, 16, 9)
    assert prices.moments[0].lost[SamplingRates(p_h=0.5)].mean == moment["offers"][0]["lost"]["mean"]


def test_parts_of_the_layers_are_sampled_alone() -> None:
    """Of four layers the first or the last two; half of two layers is three quarters of four."""
    config = AnalyzeConfig(analysis=Analysis.prices)
    config.analyze.layer_parts, config.analyze.rates = 2, [0.75, 0.5]
    spec = spec_of(config_of("gpt2", n_layer=4))
    found = [cell for cell in cells_of(config, spec) if cell.layers is not None]
    assert [(cell.kind, cell.rate, cell.layers) for cell in found] == [
        (kind, 0.5, layers) for layers in ((0, 1), (2, 3)) for kind in ("heads", "columns", "layers")
    ]
    for cell in found:
        drawn = IndexGenerator(spec, 0, cell.options).draw(0, cell.rates)
        first, last = cell.layers or (0, 3)
        running = drawn.layer_idx or (0, 1, 2, 3)
        assert {n for n in range(4) if not first <= n <= last} <= set(running)
        assert len(running) == (3 if cell.kind == "layers" else 4)
        rates = SamplingRates(p_l=0.5) if cell.kind == "layers" else cell.rates
        saved = [
            forward_flops(spec, full_sizes(spec), 1, 8).blocks - forward_flops(spec, sizes, 1, 8).blocks
            for sizes in (sample_sizes(spec, cell.rates, cell.options), sample_sizes(spec, rates, DEFAULTS))
        ]
        assert 2 * saved[0] == saved[1]


@pytest.mark.slow
def test_the_seed_decides_the_draws_alone(place: Path) -> None:
    at = f"checkpoint={place / 'outputs/dense/checkpoints/step-000005'}"
    for name, seed in (("a", 0), ("b", 1)):
        est_analyze(at, *SHORT, f"run_name={name}", f"seed={seed}")
    (one,), (other,) = (result(name)["moments"] for name in "ab")
    assert one["loss_complete"] == other["loss_complete"] and one["loss"] == other["loss"]
    assert all(a["each"] != b["each"] for a, b in zip(one["offers"], other["offers"], strict=True))


@pytest.mark.slow
def test_a_checkpoint_in_shares_has_the_prices_of_the_same_in_whole(place: Path) -> None:
    shutil.copytree(place / "outputs/dense", "run")
    step = "checkpoints/step-000005"
    shutil.rmtree(Path("run", step))
    in_shares(place / "outputs/dense" / step, Path("run", step))
    for name, run in (("whole", place / "outputs/dense"), ("shares", "run")):
        est_analyze(f"checkpoint={run}/{step}", *SHORT, f"run_name={name}")
    (whole,), (shares,) = (result(name)["moments"] for name in ("whole", "shares"))
    assert [offer["each"] for offer in whole["offers"]] == [offer["each"] for offer in shares["offers"]]


REFUSED = [
    (["checkpoint=RUN/model"], 4, "RUN/model: has no optimizer state to train on with; give RUN, or a checkpoint in"),
    (["checkpoint=RUN", "analyze.steps=12"], 2, "has the steps 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16;"),
    (["checkpoint=RUN/checkpoints/step-000011"], 2, "none lies 3 (analyze.steps and analyze.cooldown) before step 12"),
    (["checkpoint=RUN", "dataset=stdlib"], 2, "dataset: has no meaning under analysis=prices"),
    (["checkpoint=RUN", "tokenizer=x"], 2, "tokenizer: has no meaning under analysis=prices"),
    (["checkpoint=RUN", "analyze.part=training"], 2, "analyze.part: has no meaning under analysis=prices"),
    (["checkpoint=RUN", "stage.p_h=0.25"], 2, "analyze.rates says which are drawn"),
    (
        ["checkpoint=RUN", "sampling.ranks=independent"],
        2,
        "sampling.ranks: has no meaning here, where one",
    ),
    (["checkpoint=RUN", "launch.num_processes=2"], 2, "launch.num_processes: analysis=prices trains in one process"),
    (["checkpoint=nowhere/x"], 2, "checkpoint: "),
    (["checkpoint=."], 2, "checkpoint: . is of no run of est-train"),
]


@pytest.mark.parametrize(("args", "code", "told"), REFUSED)
def test_what_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], args: list[str], code: int, told: str
) -> None:
    run = str(place / "outputs/dense")
    est_analyze(*SHORT, *(arg.replace("RUN", run) for arg in args), code=code)
    err = capsys.readouterr().err
    assert told.replace("RUN", run) in err and err.count("\n") == 1
    assert not Path("outputs").exists()


def test_a_checkpoint_without_moments_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(place / "outputs/dense", "run")
    Path("run/checkpoints/step-000009/optim.safetensors").unlink()
    est_analyze("checkpoint=run", *SHORT, code=4)
    assert "step-000009/optim.safetensors: missing" in capsys.readouterr().err


def test_a_model_that_grows_has_no_prices(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(place / "outputs/dense", "run")
    config = Path("run/config.yaml")
    text = config.read_text().replace("name: dense", "name: g_stack")
    config.write_text(text.replace("depths: null", "depths: [1]").replace("boundaries: null", "boundaries: [2]"))
    est_analyze("checkpoint=run", *SHORT, code=2)
    assert "grows its model" in capsys.readouterr().err
