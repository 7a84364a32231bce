"""Nothing that a command line or a recipe says is run, looked up in the environment, or taken for a folder's path."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from est_cli import analyze, eval, plan, train
from est_cli.config import RunConfig
from est_cli.config.schema import typed
from tests.faults.conftest import Tally
from tests.faults.refused import Main, told_by_door, unchanged
from tests.faults.size import either
from tests.lab.commands import composed

pytestmark = pytest.mark.row("S")

SECRET = "canary-of-the-environment"
LINES: dict[str, str] = {
    "_target_=os.mkdir": "_target_",
    "+_target_=os.mkdir": "_target_",
    "++_target_=os.mkdir": "_target_",
    "model._target_=os.mkdir": "model._target_",
    "+model._target_=os.mkdir": "model._target_",
    "++model._target_=builtins.eval": "model._target_",
    "+model._partial_=true": "model._partial_",
    "+optim._args_=[canary]": "optim._args_",
    "+train._recursive_=true": "train._recursive_",
    "+_convert_=all": "_convert_",
    "train={_target_: os.mkdir, path: canary}": "train",
    "dataset.files={_target_: os.mkdir, path: canary}": "dataset.files",
    "dataset.files=[{_target_: os.mkdir, path: canary}]": "dataset.files",
    "stage.rates=[{_target_: os.mkdir, path: canary}]": "stage.rates",
    "train.micro_batch={_target_: os.mkdir, path: canary}": "train.micro_batch",
    "run_name={_target_: os.mkdir}": "run_name",
    "+hydra.searchpath=[pkg://evil]": "hydra.searchpath",
    "hydra.searchpath=[file://.]": "hydra.searchpath",
    "hydra/launcher=basic": "hydra/launcher",
    "+hydra.launcher._target_=os.mkdir": "hydra.launcher._target_",
    "hydra.run.dir=canary": "hydra.run.dir",
    "hydra.job.env_set.EST_DEBUG=1": "hydra.job.env_set.EST_DEBUG",
    "+hydra.callbacks.x._target_=os.mkdir": "hydra.callbacks.x._target_",
    "+experiment@hydra.job=mine": "experiment",
    "model@hydra.launcher=gpt2": "model",
    "run_name=${oc.env:SECRET}": "run_name",
    "dataset.files=['${oc.env:SECRET}']": "dataset.files",
    'run_name="a${oc.decode:${oc.env:SECRET}}"': "run_name",
    "seed=${oc.env:SECRET}": "seed",
    "run_name=${oc.select:seed}": "run_name",
    'run_name="${oc.create:1}"': "run_name",
    "tokenizer=${oc.deprecated:seed}": "tokenizer",
    "run_name=${hydra:runtime.cwd}": "run_name",
    "run_name=${now:%Y}": "run_name",
    "run_name=${eval:1+1}": "run_name",
    "run_name=${python_code:1+1}": "run_name",
    "run_name=../canary": "run_name",
    "run_name=/canary": "run_name",
    "sweep=../canary": "sweep",
    "dataset.files=[https://me:canary@example.org/a.txt]": "dataset.files",
    "model.name_or_path=https://canary@example.org/model": "model.name_or_path",
    "tracking.project=http://me:canary@example.org": "tracking.project",
    "+wandb_api_key=canary": "wandb_api_key",
    "tracking.password=canary": "tracking.password",
    "+hub_token=canary": "hub_token",
}
"""Words of a command line, and the key that the one line about them begins with."""
HYDRA = ("--experimental-rerun=job.pickle", "--config-path=canary", "--config-name=canary")
"""The first of these has Hydra read a pickle."""

GLOBAL = "# @package _global_\n"
RECIPES = {
    f"{GLOBAL}_target_: os.mkdir\npath: canary": "_target_",
    f"{GLOBAL}model: {{_target_: os.mkdir, path: canary}}": "model._target_",
    f"{GLOBAL}model: {{_partial_: true}}": "model._partial_",
    f"{GLOBAL}train: {{micro_batch: {{_target_: os.mkdir, path: canary}}}}": "train.micro_batch",
    f"{GLOBAL}dataset: {{files: [{{_target_: os.mkdir, path: canary}}]}}": "dataset.files",
    f"{GLOBAL}run_name: !!python/object/apply:os.mkdir [canary]": "configuration",
    f"{GLOBAL}run_name: !!python/name:os.mkdir": "configuration",
    f"{GLOBAL}run_name: ${{oc.env:SECRET}}": "run_name",
    f"{GLOBAL}dataset: {{files: ['${{oc.env:SECRET}}']}}": "dataset.files",
    f"{GLOBAL}run_name: ${{eval:1}}": "run_name",
    f"{GLOBAL}tracking: {{password: canary}}": "tracking.password",
    f"{GLOBAL}run_name: ../canary": "run_name",
    f"{GLOBAL}dataset: {{files: ['https://me:canary@example.org/a.txt']}}": "dataset.files",
}


def grown(first: str, line: str) -> str:
    """Ten of the former in each of eight lines: 10^8 values in a few hundred bytes."""
    return first + "".join(line.format(new=f"&a{n}", old=", ".join([f"*a{n - 1}"] * 10)) for n in range(1, 9))


BOMBS = {
    "lists of aliases": grown(f"{GLOBAL}dataset:\n files:\n - &a0 [x]\n", " - {new} [{old}]\n"),
    "merged keys": grown(f"{GLOBAL}a: &a0 {{k: 1}}\nb:\n", " - {new} {{<<: [{old}]}}\n"),
    "part of itself": f"{GLOBAL}dataset: &a {{files: [*a]}}",
    "nested": f"{GLOBAL}run_name: {'[' * 500}",
    "2 MB": f"{GLOBAL}run_name: {'x' * (2 << 20)}",
}
"""What memory or time would not be enough for, if it were loaded."""

COMMANDS: dict[str, tuple[Main, str]] = {
    "est-eval": (eval.main, "eval"),
    "est-plan": (plan.main, "train"),
    "est-analyze": (analyze.main, "analyze"),
}
"""The other commands, and a group of settings that each has."""


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", SECRET)
    return tmp_path


def refuses(capfd: pytest.CaptureFixture[str], folder: Path, name: str, main: Main, args: list[str]) -> str:
    """The line in which the command refuses; it tells no secret and has done nothing."""
    with unchanged(folder):
        line = told_by_door(capfd, name, main, args, 2)
    assert SECRET not in line
    return line


@pytest.mark.parametrize("word", either(list(LINES), list(LINES)[::4]))
def test_command_lines(capfd: pytest.CaptureFixture[str], empty: Path, tally: Tally, word: str) -> None:
    line = refuses(capfd, empty, "est-train", train.main, [word])
    assert line.startswith(f"{LINES[word]}: ") or line.startswith(f"{LINES[word]}@"), line
    assert "me:canary" not in line and "=canary" not in line.partition(": ")[2]
    assert ("resolvers are not allowed" in line) == ("${" in word), line
    tally(inputs=1)


def test_options_of_hydra(capfd: pytest.CaptureFixture[str], empty: Path, tally: Tally) -> None:
    for option in HYDRA:
        assert refuses(capfd, empty, "est-train", train.main, [option]).startswith(option.partition("=")[0])
    tally(inputs=len(HYDRA))


@pytest.mark.parametrize("text", either(list(RECIPES), list(RECIPES)[::3]))
def test_recipes(capfd: pytest.CaptureFixture[str], empty: Path, tally: Tally, text: str) -> None:
    (empty / "experiment").mkdir()
    (empty / "experiment" / "mine.yaml").write_text(text)
    line = refuses(capfd, empty, "est-train", train.main, ["--config-dir=.", "experiment=mine"])
    assert line.startswith(f"{RECIPES[text]}: "), line
    assert "me:canary" not in line and ("resolvers are not allowed" in line) == ("${" in text), line
    tally(inputs=1)


@pytest.mark.parametrize("case", BOMBS)
def test_recipes_that_grow_without_limit(
    capfd: pytest.CaptureFixture[str], empty: Path, tally: Tally, case: str
) -> None:
    (empty / "experiment").mkdir()
    (empty / "experiment" / "mine.yaml").write_text(BOMBS[case])
    begin = time.process_time()
    line = refuses(capfd, empty, "est-train", train.main, ["--config-dir=.", "experiment=mine"])
    assert line.startswith("configuration: ") and time.process_time() - begin < 5
    tally(inputs=1)


def test_aliases_in_a_recipe_of_ones_own_are_read(empty: Path) -> None:
    (empty / "experiment").mkdir()
    text = f"{GLOBAL}dataset: {{files: [&a b.txt], validation_files: [*a]}}\n"
    (empty / "experiment" / "mine.yaml").write_text(text)
    found, _ = composed("--config-dir=.", "experiment=mine")
    assert found.dataset.files == found.dataset.validation_files == ["b.txt"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_other_commands(capfd: pytest.CaptureFixture[str], empty: Path, tally: Tally, name: str) -> None:
    main, group = COMMANDS[name]
    words = {
        "+_target_=os.mkdir": "_target_",
        f"+{group}._target_=os.mkdir": f"{group}._target_",
        f"+{group}._partial_=true": f"{group}._partial_",
        "hydra.run.dir=canary": "hydra.run.dir",
        "run_name=${oc.env:SECRET}": "run_name",
        "run_name=http://me:canary@example.org": "run_name",
    }
    for word, key in words.items():
        assert refuses(capfd, empty, name, main, [word]).startswith(f"{key}: ")
    tally(inputs=len(words))


SWEEPS = {
    "hydra.launcher._target_=os.mkdir": "hydra.launcher._target_",
    "+hydra.sweeper._target_=os.mkdir": "+hydra.sweeper._target_",
    "hydra.launcher.name=${oc.env:SECRET}": "hydra.launcher.name",
    "hydra.sweep.dir=canary": "hydra.sweep.dir",
    "model._target_=os.mkdir,os.rmdir": "model._target_",
    "run_name=a,${oc.env:SECRET}": "run_name",
    "sweep=../canary": "sweep",
    "sweep=/canary": "sweep",
}


@pytest.mark.parametrize("word", either(list(SWEEPS), list(SWEEPS)[::3]))
def test_sweeps(capfd: pytest.CaptureFixture[str], empty: Path, tally: Tally, word: str) -> None:
    line = refuses(capfd, empty, "est-train", train.main, ["-m", "seed=1,2", word])
    assert line.startswith(f"{SWEEPS[word]}: "), line
    tally(inputs=1)


def test_a_url_without_a_user_is_no_secret() -> None:
    files = ["http://example.org/a@b/c.txt", "a@b.txt", "mail: me@example.org"]
    assert typed({"dataset": {"files": files}}, RunConfig).dataset.files == files
