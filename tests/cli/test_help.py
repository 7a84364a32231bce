"""`--help`: groups and examples within 80 columns, one line a setting; of a group or a key everything."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from est_cli.cli.command import Command, command_named
from est_cli.cli.entry import enter
from est_cli.cli.help import SETTINGS, help_page, topic_page, topics
from est_cli.common.errors import ConfigError
from est_cli.config import PlanConfig, RunConfig
from est_cli.config.groups import groups_of
from est_cli.config.setting import settings_of
from est_cli.train import main

GROUPS = groups_of(RunConfig, None)


def page(command: Command, width: int) -> str:
    return help_page(f"est-{command.name}", command.usage, command.schema(), groups_of(command.schema, None), width)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["train", "plan", "data", "eval", "analyze"])
def test_one_line_for_each_setting_below_the_examples(name: str, width: int) -> None:
    command = command_named(name)
    examples, _, settings = page(command, width).partition(SETTINGS)
    assert f"\n  est-{name} " in examples
    assert max(map(len, (examples + settings).splitlines())) <= width
    lines = [line for line in settings.splitlines() if line.startswith("  ") and not line.startswith("   ")]
    assert sorted(line.split("=")[0].strip() for line in lines) == sorted(settings_of(command.schema))
    assert all(re.match(r"  \S+=.*?  \S", line) for line in lines)  # none without words


@pytest.mark.parametrize("name", ["train", "plan", "data", "eval", "analyze"])
def test_no_line_ends_in_the_middle_of_a_sentence(name: str) -> None:
    """Only further ones are left out: where the first does not fit, the setting has a `brief`."""
    lines = page(command_named(name), 80).splitlines()
    for key, known in settings_of(command_named(name).schema).items():
        (line,) = (line for line in lines if line.startswith(f"  {key}="))
        first = re.split(r"; |(?<!\.)\. ", known.meaning.rstrip("."))[0]
        assert (known.brief or first) in line and ("..." in line) <= (not known.brief or "..." in known.brief), line


def test_a_line_has_the_value_the_meaning_and_the_range() -> None:
    config = RunConfig()
    config.optim.lr = 0.5
    lines = help_page("est-train", "", config, GROUPS).splitlines()
    assert "  model.dropout=0.0            Dropout in training (in [0, 1))" in lines
    assert any(line.startswith("  optim.lr=0.5 ") for line in lines)
    assert any(line.startswith("  tracking.wandb=auto ") and line.endswith(" metrics.jsonl ...") for line in lines)


def test_values_without_end_leave_room_for_words() -> None:
    config = RunConfig()
    config.dataset.files = [f"corpus/{number}.txt" for number in range(100)]
    lines = help_page("est-train", "", config, GROUPS).splitlines()
    (line,) = (line for line in lines if line.startswith("  dataset.files="))
    assert len(line) <= 80 and "Text or token files" in line
    assert "corpus/99.txt" in topic_page(["dataset.files"], config, GROUPS)


def test_what_a_command_has_of_its_own_comes_first() -> None:
    lines = help_page("est-plan", "", PlanConfig(), GROUPS).splitlines()
    assert lines[lines.index("general") + 1].startswith("  target_saving=")


def test_one_group_in_full() -> None:
    shown = topic_page(["model"], RunConfig(), GROUPS)
    assert re.findall(r"^  ([a-z_.]+)=", shown, re.MULTILINE) == [k for k in settings_of(RunConfig) if "model." in k]
    told = " ".join(shown.split())
    for key in (key for key in settings_of(RunConfig) if key.startswith("model.")):
        assert settings_of(RunConfig)[key].meaning in told  # nothing is cut here
    assert "gpt2_medium" in told and "An integer or null; at least 1." in told
    assert max(map(len, shown.splitlines())) <= 80


def test_schedulers_tell_what_they_read() -> None:
    told = " ".join(topic_page(["scheduler"], RunConfig(), GROUPS).split())
    assert "dense: ordinary training of the complete model: the baseline. Reads stage.boundaries." in told
    assert "Reads stage.theta, stage.gamma." in told


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("modle", "--help: no group or key 'modle'; did you mean 'model'? the groups are general, experiment, model, "),
        ("lr", "--help: no group or key 'lr'; did you mean 'optim.lr'? "),
        ("train.max_step", "--help: no group or key 'train.max_step'; did you mean 'train.max_steps'? "),
        ("qqqq", "--help: no group or key 'qqqq'; the groups are general, "),
    ],
)
def test_a_wrong_name_is_told_with_the_nearest(asked: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        topic_page([asked], RunConfig(), GROUPS)


@pytest.mark.parametrize("order", [("--help", "optim.lr", "optim.lr=0.5"), ("optim.lr", "optim.lr=0.5", "-h")])
def test_the_command_answers_with_its_values(order: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert enter("est-train", main, ["est-train", *order]) == 0
    out = capsys.readouterr().out
    assert out.startswith("  optim.lr=0.5\n      The largest of the run; ") and "Default: 0.001." in out
    assert out.count("\n") < 6


def test_groups_without_settings_are_topics_too() -> None:
    assert topics(RunConfig, GROUPS)[:2] == ["general", "experiment"]
    assert "paper_gpt2" in topic_page(["experiment"], RunConfig(), GROUPS)


@pytest.mark.parametrize("name", ["report", "push"])
def test_commands_without_settings_fit_too(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        import_module(f"est_cli.{name}").main([f"est-{name}", "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
