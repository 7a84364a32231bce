"""train.micro_batch: a number, `auto`, or one of these for each stage."""

from __future__ import annotations

from typing import Any

import pytest

from est_cli.common.errors import ConfigError
from est_cli.config import RunConfig
from est_cli.config.micro_batch import describe_micro_batches, requested, stage_problems
from est_cli.config.schema import typed
from tests.lab.commands import accepted, composed, told

WRONG = {
    "0": "0 is out of range; it must be at least 1",
    "-1": "-1 is out of range; it must be at least 1",
    "1.5": "1.5 is not an integer or auto",
    "16.0": "16.0 is not an integer or auto",
    "true": "True is not an integer or auto",
    "null": "null is not an integer or auto",
    "big": "'big' is not an integer or auto",
    "AUTO": "'AUTO' is not an integer or auto",
    "[]": "[] is not an integer or auto",
    "[1,2]": "[1, 2] has 2 entries; this run needs 3, one for each stage",
    "[1]": "[1] has 1 entry; this run needs 3",
    "[1,2,3,4]": "[1, 2, 3, 4] has 4 entries",
    "[1,[2],3]": "[2] is not an integer or auto",
    "[1,null,3]": "null is not an integer or auto",
    "[1,0,-3]": "0 is out of range; it must be at least 1",
    "[false,2,3]": "False is not an integer or auto",
    "'[32,24,16]'": "'[32,24,16]' is not an integer or auto",
    "{a:1}": "{'a': 1} is not an integer or auto",
    "[{a:1},2,3]": "{'a': 1} is not an integer or auto",
    "1,2": "a list of values to sweep over is not a value; write a list as [a,b]",
}


@pytest.mark.slow
@pytest.mark.parametrize("value", WRONG)
def test_what_it_cannot_be(capsys: pytest.CaptureFixture[str], value: str) -> None:
    line = told(capsys, f"train.micro_batch={value}")
    assert line.startswith(f"train.micro_batch: {WRONG[value]}") and len(line) < 200


@pytest.mark.parametrize("value", [["x" * 1000], ["x"] * 1000, [[1] * 1000], [{"x": "y" * 1000}], [1] * 1000])
def test_the_line_stays_short(value: Any) -> None:
    try:
        typed({"train": {"micro_batch": value}}, RunConfig)
        (line,) = [*stage_problems(value, 3, False)][:1]
    except ConfigError as error:
        line = str(error)
    assert len(line) < 250


@pytest.mark.parametrize(
    ("args", "value"),
    [
        (["train.micro_batch=1"], 1),
        (["train.micro_batch=auto"], "auto"),
        (["train.micro_batch=[32,auto,16]"], [32, "auto", 16]),
        (["train.micro_batch=[auto]", "scheduler=dense"], ["auto"]),
        (["train.micro_batch=${train.max_steps}", "train.max_steps=7"], 7),
        (["train.micro_batch=[${train.max_steps},2,1]", "train.max_steps=7"], [7, 2, 1]),
    ],
)
def test_what_it_can_be(args: list[str], value: Any) -> None:
    config, (_, given) = accepted(*args), composed(*args)
    assert config.train.micro_batch == value and type(config.train.micro_batch) is type(value)
    assert "train.micro_batch" in given


@pytest.mark.parametrize("random", ["sampling.redraw=forward", "sampling.layers_by=sequence", "model.dropout=0.1"])
@pytest.mark.parametrize("value", ["auto", "[32,24,auto]"])
def test_no_guess_where_the_training_depends_on_it(capsys: pytest.CaptureFixture[str], random: str, value: str) -> None:
    line = told(capsys, f"train.micro_batch={value}", random)
    assert line.startswith("train.micro_batch: auto may find another number when the run is resumed")
    accepted("train.micro_batch=[32,24,16]", random)


def test_each_stage_has_an_entry() -> None:
    assert requested(8, 3) == [8, 8, 8] and requested("auto", 1) == [None]
    assert requested([32, "auto", 16], 3) == [32, None, 16]


@pytest.mark.parametrize(
    ("chosen", "asked", "line"),
    [
        ({1: 32, 2: 24, 3: 16}, [None] * 3, "micro-batch 32 / 24 / 16 sequences in stages 1 / 2 / 3 (auto)"),
        ({1: 32, 2: 24, 3: 16}, [32, 24, 16], "micro-batch 32 / 24 / 16 sequences in stages 1 / 2 / 3"),
        ({1: 32, 2: 24, 3: 16}, [32, None, None], "micro-batch 32 / 24 / 16 sequences in stages 1 / 2 / 3 (auto in "
         "stages 2 / 3)"),
        ({2: 8, 3: 8}, [1, None, 8], "micro-batch 8 sequences (auto in stage 2)"),
        ({1: 1}, [1], "micro-batch 1 sequence"),
        ({3: 4096}, [None] * 3, "micro-batch 4,096 sequences (auto)"),
    ],
)  # fmt: skip
def test_what_a_person_is_told(chosen: dict[int, int], asked: list[int | None], line: str) -> None:
    assert describe_micro_batches(chosen, asked) == line
