"""The file of prices as est-plan and est-report read it: whatever is in it is told in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from est_cli.common.errors import ConfigError
from est_cli.config import Precision, RunConfig, SamplingConfig
from est_cli.config.prices import other_settings, read_prices, settings_of_prices
from est_cli.est.prices import Estimate
from est_cli.est.schedule import SamplingRates
from tests.lab.price_files import price_content, write_prices

OFFERS = {(0.5, 1.0, 1.0): 0.1, (1.0, 1.0, 0.5): 0.3}


def content() -> dict[str, Any]:
    return price_content(RunConfig(), {50: OFFERS, 80: OFFERS}, error=0.02)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    folder = write_prices(tmp_path / "p", content())
    for place in (folder, folder / "analysis.json"):
        prices, settings, steps = read_prices(str(place))
        assert [moment.step for moment in prices.moments] == [50, 80] and steps == 100
        assert prices.moments[1].lost[SamplingRates(p_l=0.5)] == Estimate(0.3, 0.02)
        assert not [*other_settings(RunConfig(), settings)]


def moment_of(found: dict[str, Any]) -> dict[str, Any]:
    moment: dict[str, Any] = found["result"]["moments"][0]
    return moment


DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another analysis": (lambda found: found.update(analysis="draws"), "it is of analysis=draws"),
    "no result": (lambda found: found.pop("result"), "has no 'result'"),
    "a result that is none": (lambda found: found.update(result=[]), "list indices"),
    "no moments": (lambda found: found["result"].update(moments=[]), "rising steps"),
    "moments that are none": (lambda found: found["result"].update(moments=3), "not iterable"),
    "two at one step": (lambda found: moment_of(found).update(step=80), "rising steps"),
    "a step that is none": (lambda found: moment_of(found).update(step=True), "the step of a moment is True"),
    "no offers": (lambda found: moment_of(found).update(offers=[]), "the offers of step 50 are none"),
    "other rates at another moment": (lambda found: moment_of(found)["offers"].pop(), "the same rates"),
    "a rate out of range": (lambda found: moment_of(found)["offers"][0].update(p_h=1.5), "not a sampling rate"),
    "the same rates twice": (lambda found: moment_of(found)["offers"][0].update(p_h=1.0, p_l=0.5), "twice"),
    "a word for a number": (lambda found: moment_of(found)["gain"].update(mean="x"), "x is no number"),
    "an error below 0": (lambda found: moment_of(found)["gain"].update(standard_error=-1), "a standard error is -1"),
    "a number that no float is": (lambda found: moment_of(found)["gain"].update(mean=10**400), "is no number, or over"),
    "a number beyond reason": (
        lambda found: moment_of(found)["offers"][0]["lost"].update(standard_error=1e300),
        "1e+300 is no number, or over 1e+09",
    ),
    "a step that no run has": (lambda found: moment_of(found).update(step=10**400), "the step of a moment is 1000"),
    "offers without end": (
        lambda found: moment_of(found).update(
            offers=[{**moment_of(found)["offers"][0], "p_m": 1 / n} for n in range(1, 102)]
        ),
        "over 100",
    ),
    "steps that are none": (lambda found: found["result"].update(run_steps="9"), "run_steps is 9"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_is_wrong_is_told(tmp_path: Path, damage: str) -> None:
    found, (change, told) = content(), DAMAGED[damage]
    change(found)
    folder = write_prices(tmp_path / "p", found)
    with pytest.raises(ConfigError) as caught:
        read_prices(str(folder))
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"prices: {folder / 'analysis.json'}: is not what est-analyze analysis=prices")


@pytest.mark.parametrize(
    "change",
    [
        lambda found: moment_of(found)["offers"][0].update(lost=None),
        lambda found: moment_of(found)["gain"].update(mean=0.0),
    ],
)
def test_a_measurement_that_told_nothing_is_no_broken_file(tmp_path: Path, change: Callable[[Any], None]) -> None:
    found = content()
    change(found)
    folder = write_prices(tmp_path / "p", found)
    told = "what complete steps gain at step 50 is not told from 0, so nothing has a price there; measure with more"
    with pytest.raises(ConfigError, match=f"^prices: {folder / 'analysis.json'}: {told}"):
        read_prices(str(folder))


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"[" * 9999])
def test_files_that_are_no_json_are_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "analysis.json").write_bytes(data)
    with pytest.raises(ConfigError, match="give the folder of an analysis=prices") as caught:
        read_prices(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere", ".", "a\0b"])
def test_files_that_are_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="prices: "):
        read_prices(str(tmp_path / name))


def test_settings_that_prices_do_not_hold_for() -> None:
    settings = json.loads(json.dumps(settings_of_prices(RunConfig(), SamplingConfig())))
    other = RunConfig(seed=5)
    other.train.max_steps, other.scheduler.name, other.train.log_every = 9, "dense", 7
    assert not [*other_settings(other, settings)]
    other.optim.lr, other.sampling.keep_ends = 0.5, True
    assert [*other_settings(other, settings)] == [
        "sampling.keep_ends (False, here True)",
        f"optim.lr ({RunConfig().optim.lr}, here 0.5)",
    ]


def test_a_setting_that_the_file_does_not_know_was_its_default(tmp_path: Path) -> None:
    """As where est got it after the prices were taken."""
    settings = settings_of_prices(RunConfig(), SamplingConfig())
    del settings["sampling.protect"], settings["train.precision"]
    other = RunConfig()
    other.train.precision = Precision.fp32  # settled since
    assert not [*other_settings(other, settings)]
    other.sampling.protect = [0]
    assert [*other_settings(other, settings)] == ["sampling.protect (None, here [0])"]
    (name,) = other_settings(RunConfig(), {**settings, "model.name": "\x1b[2J\n" + "x" * 999})
    assert name.startswith(f"model.name (?[2J {'x' * 35},")
