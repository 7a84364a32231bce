"""From trees of settings to dataclasses and back."""

from __future__ import annotations

import re
import typing
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from est_cli.common.errors import ConfigError
from est_cli.config import PlanConfig, RunConfig, SurveyConfig, TrackingConfig, WandbMode
from est_cli.config.schema import (
    ELSEWHERE,
    NO_KEY,
    describe_type,
    key_meant,
    leaves_of,
    plain,
    to_yaml,
    typed,
    unknown_key,
)
from est_cli.config.setting import settings_of
from tests.lab.commands import accepted


def test_the_settings_are_the_leaves_of_a_configuration() -> None:
    assert settings_of(RunConfig).keys() == leaves_of(plain(RunConfig())).keys()
    assert set(settings_of(PlanConfig)) - set(settings_of(RunConfig)) == {
        *("target_saving", "target_flops", "target_convention", "target_keep", "probe", "plot", "gpus", "mfu", "prices")
    }
    assert settings_of(RunConfig)["sampling.kv_groups"].choices == ("whole", "within")


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "an integer"),
        (bool, "true or false"),
        (str | None, "a word or null"),
        (int | float | None, "an integer or a number or null"),
        (list[str], "a list of words, [a,b]"),
        (WandbMode, "one of auto, online, offline, off"),
    ],
)
def test_types_in_words(hint: Any, words: str) -> None:
    assert describe_type(hint) == words


@pytest.mark.parametrize(
    ("key", "guess"),
    [
        ("train.max_step", "train.max_steps"),
        ("max_steps", "train.max_steps"),
        ("optim.max_steps", "train.max_steps"),
        ("train.lrr", "optim.lr"),
        ("stage.t1.x", "stage.t1"),
        ("zzzzzz", None),
    ],
)
def test_guesses(key: str, guess: str | None) -> None:
    known = [*settings_of(RunConfig)]
    told = unknown_key(key, known)
    assert told.startswith(f"{key}: unknown key; ")
    assert told.endswith("--help lists all keys") if guess is None else f"did you mean {guess!r}?" in told


SWITCHES = [key for key, known in settings_of(PlanConfig).items() if bool in (known.hint, *typing.get_args(known.hint))]


@pytest.mark.parametrize("number", [3, 1, 0, 0.5])
def test_a_number_is_no_switch(number: float) -> None:
    assert len(SWITCHES) > 5
    for key in SWITCHES:
        group, _, name = key.rpartition(".")
        with pytest.raises(ConfigError, match=rf"^{re.escape(key)}: {number} is not true or false"):
            typed({group: {name: number}} if group else {name: number}, PlanConfig)


STRINGS = [
    "off",
    "null",
    "1e3",
    "0x10",
    "1_000",
    "2024-01-01",
    "12:30:00",
    "~",
    "",
    "a: b",
    "é\nx",
    "- x",
    "&a",
    "*a",
    "'\"",
]


@pytest.mark.parametrize("text", STRINGS)
def test_yaml_gives_back_what_was_written(text: str) -> None:
    """Also to YAML 1.1, for which `off` is a boolean and `1e3` a string."""
    config = RunConfig(tokenizer=text, tracking=TrackingConfig(wandb=WandbMode.off, tags=[text, text]))
    config.stage.t1, config.stage.t2, config.optim.eps = 1, 1.0, 1e-8
    again = typed(yaml.safe_load(to_yaml(config)), RunConfig)
    assert again == config
    assert (type(again.stage.t1), type(again.stage.t2)) == (int, float)
    assert "&" not in to_yaml(config).replace("'&a'", "")  # equal lists are written twice, not linked


@pytest.mark.parametrize("value", [3, "auto", [3], [3, "auto", 1]])
def test_a_number_a_word_or_a_list_of_them_is_kept_as_it_is(value: Any) -> None:
    config = RunConfig()
    config.train.micro_batch = value
    again = typed(yaml.safe_load(to_yaml(config)), RunConfig).train.micro_batch
    assert (again, type(again)) == (value, type(value))


def test_plain_has_no_classes_of_ours() -> None:
    tree = plain(RunConfig())
    assert tree["tracking"]["wandb"] == "auto" and type(tree["tracking"]["wandb"]) is str
    assert all(type(value) in (str, int, float, bool, list, type(None)) for value in leaves_of(tree).values())


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"sed": 1}, "sed: unknown key; did you mean 'seed'?"),
        ({"train": {"new": 1}}, "train.new: unknown key"),
        ({1: 2}, "1: unknown key"),
        ({"train": 3}, "train: '3' is not a group of settings"),
        ({"train": None}, "train: 'None' is not a group of settings"),
        ({"train": {"seq_len": None}}, "train.seq_len: null is not an integer"),
        ({"train": {"seq_len": "long"}}, "train.seq_len: 'long' is not an integer"),
        ({"train": {"seq_len": True}}, "train.seq_len: True is not an integer"),
        ({"stage": {"t1": True}}, "stage.t1: True is not an integer or a number or null"),
        ({"stage": {"t1": "0.1"}}, "stage.t1: '0.1' is not an integer or a number or null"),
        ({"seed": 1.5}, "seed: 1.5 is not an integer"),
        ({"seed": "${oc.env:HOME}"}, "seed: resolvers are not allowed"),
        ({"tracking": {"tags": ["a", "${oc.env:HOME}"]}}, "tracking.tags: resolvers are not allowed"),
        ({"seed": "${"}, "seed: "),
        ({"seed": object()}, "seed: "),
        ({"run_name": {"a": "x" * 1000}}, "run_name: {'a': 'xxxx"),
        ({"train": {"micro_batch": {"a": "x" * 1000}}}, "train.micro_batch: {'a': 'xxxx"),
        ({"train": {"micro_batch": object()}}, "train.micro_batch: "),
        ({"train": {"micro_batch": [1, "${oc.env:HOME}"]}}, "train.micro_batch: resolvers are not allowed"),
    ],
)
def test_what_is_no_configuration(tree: dict[Any, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        typed(tree, RunConfig)
    assert str(error.value).startswith(message) and "\n" not in str(error.value) and len(str(error.value)) < 200


def test_what_other_tools_call_a_setting_leads_to_it() -> None:
    known = settings_of(RunConfig)
    last = {key.rpartition(".")[2] for key in known}
    for name, here in ELSEWHERE.items():
        assert here.partition(" ")[0] in known and name not in last, name
    assert unknown_key("optim.learning_rate", known) == "optim.learning_rate: unknown key; here it is optim.lr"
    assert unknown_key("num_train_epochs", known).endswith("here it is train.max_tokens")
    assert key_meant("batch-size".replace("-", "_"), known) == "train.tokens_per_step"
    assert key_meant("train.seq_len", known) == "train.seq_len" and key_meant("qqqqqqqq", known) is None
    assert "ACCELERATE_USE_CPU=true" in unknown_key("train.device", known) and not last & NO_KEY.keys()
    assert "here it is" not in unknown_key("learning_rate", settings_of(SurveyConfig).keys() - {"optim.lr"})


@pytest.mark.parametrize(
    "args", [(), ("experiment=paper_gpt2",), ("model=llama_tiny", "stage.t1=3", "launch.num_processes=2")]
)
def test_a_tree_with_nothing_to_resolve_is_typed_as_by_omegaconf(args: tuple[str, ...]) -> None:
    tree = plain(accepted(*args))
    found = typed(tree, RunConfig)
    assert plain(found) == plain(typed(OmegaConf.create(tree), RunConfig)) == tree
    found.dataset.files.append("other.txt")
    assert plain(typed(tree, RunConfig)) == tree, "no part of the tree is in what was made of it"


@pytest.mark.parametrize("value", ["${seed}", "a ${oc.env:HOME}", "???"])
def test_what_omegaconf_gives_a_meaning_is_left_to_it(value: str) -> None:
    tree = plain(accepted()) | {"run_name": value, "seed": 3}
    if value == "${seed}":
        assert typed(tree, RunConfig).run_name == "3"
    else:
        with pytest.raises(ConfigError):
            typed(tree, RunConfig)
