"""Words that look like numbers or switches arrive as they were typed, or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from est_cli import train
from est_cli.cli.entry import run_command
from est_cli.common.errors import ConfigError
from est_cli.config import PlanConfig, RunConfig
from est_cli.config.setting import settings_of
from est_cli.config.words import with_quotes, word_keys
from tests.lab.commands import composed, told

pytestmark = pytest.mark.slow

KNOWN = settings_of(PlanConfig)
LISTS = [key for key, known in KNOWN.items() if known.hint == list[str]]
WORDS = [key for key in word_keys(KNOWN, ()) if key not in LISTS and not KNOWN[key].choices]
LOOK_ALIKES = [
    *("123456_7", "1_11", "11_1", "007", "0x10", "1e3", "1.10", "1.", ".5", "+1", "-0", "1_000.5", "true", "TRUE"),
    *("no", "nan", "Inf", "12:30", "2024-01-01", "9" * 100, "9" * 5000),
]


def of(config: RunConfig, key: str) -> object:
    value: object = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.slow
def test_every_key_of_words_keeps_what_was_typed() -> None:
    """A list of one without brackets too."""
    assert len(WORDS) > 5 and len(LISTS) > 4
    for text in LOOK_ALIKES:
        config, _ = composed(*(f"{key}={text}" for key in (*WORDS, *LISTS)), schema=PlanConfig)
        assert {of(config, key) for key in WORDS} == {text}
        assert all(of(config, key) == [text] for key in LISTS)


def test_every_entry_of_a_list_keeps_what_was_typed() -> None:
    config, _ = composed(f"tracking.tags=[ {' , '.join(LOOK_ALIKES)}, a 1_1 b, '2_2', x-${{seed}}]", "seed=1_0")
    assert config.tracking.tags == [*LOOK_ALIKES, "a 1_1 b", "2_2", "x-10"]


def test_what_is_a_number_stays_one() -> None:
    config, _ = composed("seed=1_0", "stage.t1=1.0", "optim.lr=1e-3", "train.micro_batch=[1_0,auto,8]")
    assert (config.seed, config.stage.t1, config.train.micro_batch) == (10, 1.0, [10, "auto", 8])


@pytest.mark.parametrize(
    ("typed", "quoted"),
    [
        ("run_name=7", "run_name=7"),  # as before: names of sweeps are made of it
        ("++run_name=1_1", "++run_name='1_1'"),
        ("tokenizer=1_1,choice(2_2,a)", "tokenizer='1_1',choice('2_2',a)"),
        ("tokenizer=sort(1_1,true,reverse=true)", "tokenizer=sort('1_1','true',reverse=true)"),
        ("tokenizer=range(1_0,2_0)", "tokenizer=range(1_0,2_0)"),
        ("tokenizer='1_1,2_2'", "tokenizer='1_1,2_2'"),
        ("tokenizer=null", "tokenizer=null"),
        ("experiment=1_1", "experiment='1_1'"),
        ("seed=1_1", "seed=1_1"),
        ("run_name", "run_name"),
    ],
)
def test_only_what_would_be_changed_gets_quotes(typed: str, quoted: str) -> None:
    assert with_quotes(typed, word_keys(KNOWN, ["experiment"])) == quoted


def shown(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    run_command(train.COMMAND, ["est-train", "--cfg", "job", *args])
    return yaml.safe_load(capsys.readouterr().out)


def test_cfg_job_shows_it_so(capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(capsys, "run_name=123456_7", "tracking.tags=[1_1,true]")
    assert (found["run_name"], found["tracking"]["tags"]) == ("123456_7", ["1_1", "true"])


def file_with(folder: Path, settings: str, name: str = "mine") -> list[str]:
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{settings}\n")
    return [f"--config-dir={folder}", f"experiment={name}"]


@pytest.mark.some(3)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("run_name: 1_1", "run_name: YAML reads 11 there, and a word is asked for; write it in quotes, '1_1'"),
        ("run_name: 0x10", "run_name: YAML reads 16 there, "),
        ("run_name: 12:30", "run_name: YAML reads 750 there, "),
        ("tracking: {tags: [a, 1.10]}", "tracking.tags: YAML reads 1.1 there, "),
        ("tracking: {tags: [yes]}", "tracking.tags: YAML reads True there, "),
        ("tokenizer: 1e3", "tokenizer: YAML reads 1000.0 there, "),
        ("run_name: 16\nseed: 0x10", "run_name: YAML reads 16 there, "),  # which of the two the name is, nobody knows
    ],
)
def test_a_file_whose_text_is_not_certain_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: str, message: str
) -> None:
    assert told(capsys, *file_with(tmp_path, settings)).startswith(message)


def test_a_file_whose_text_is_certain_is_taken(tmp_path: Path) -> None:
    settings = 'run_name: 7\ntracking: {tags: [1.5, "1_1"], entity: "${seed}"}\nseed: 0x10'
    config, _ = composed(*file_with(tmp_path, settings))
    assert (config.run_name, config.tracking.tags, config.tracking.entity) == ("7", ["1.5", "1_1"], "16")


def test_a_group_option_keeps_what_was_typed(tmp_path: Path) -> None:
    config, _ = composed(*file_with(tmp_path, "seed: 5", name="2024_1"))
    assert config.seed == 5


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    config, _ = composed(*file_with(tmp_path, "run_name: 1_1"), "run_name=2_2")
    assert config.run_name == "2_2"


DIGITS = "9" * 400


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        (f"optim.beta1={DIGITS}", "optim.beta1: 999"),
        (f"seed={DIGITS}", "seed: 999"),
        (f"train.max_steps={DIGITS}{'9' * 4600}", "train.max_steps=999"),
        (f"stage.rates={'[' * 30}{']' * 30}", "stage.rates=[[["),
        (f"stage.rates={'[' * 3000}{']' * 3000}", "stage.rates=[[["),
        (f"stage.rates={'[' * 3000}", "stage.rates=[[["),
        ("optim.eps=1e-300", "optim.eps: 1e-300 is out of range; it must be at least 1.2e-38, "),
        ("model.norm_eps=1e-300", "model.norm_eps: 1e-300 is out of range; it must be at least 1.2e-38, "),
        ("seed=1.5e0", "seed: 1.5 is not an integer"),
    ],
)
def test_monsters_are_told_in_one_short_line(capsys: pytest.CaptureFixture[str], arg: str, message: str) -> None:
    found = told(capsys, arg)
    assert found.startswith(message) and len(found) < 200


def test_a_thousand_may_be_written_1e3() -> None:
    config, _ = composed("train.max_steps=1e3", "seed=1e18", "train.max_tokens=2.0")
    assert (config.train.max_steps, config.seed, config.train.max_tokens) == (1000, 10**18, 2)
    assert type(config.train.max_steps) is int


def test_cfg_job_refuses_the_types_that_a_run_refuses() -> None:
    with pytest.raises(ConfigError, match=r"^train.max_steps: 'some' is not an integer"):
        run_command(train.COMMAND, ["est-train", "--cfg", "job", "train.max_steps=some"])
