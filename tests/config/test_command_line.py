"""Command lines as Hydra's users type them: options anywhere, own presets, lists of recipes, paths as tables show."""

from __future__ import annotations

from pathlib import Path

import pytest

from est_cli.cli.entry import enter
from est_cli.config import RunConfig
from est_cli.config.command_line import parse
from est_cli.config.compose import composed
from est_cli.train import main
from tests.lab.commands import told

GLOBAL = "# @package _global_\n"
FILES = {
    "experiment/first.yaml": GLOBAL + "defaults:\n  - override /model: llama_tiny\nseed: 3\noptim: {lr: 0.5}",
    "experiment/second.yaml": "# @package _global_\ndefaults:\n  - override /model: gemma_tiny\nseed: 4\n",
    "experiment/sweeping.yaml": "# @package _global_\nseed: 5\nhydra: {sweeper: {params: {stage.t1: '0.1,0.2'}}}\n",
    "experiment/launching.yaml": "# @package _global_\nhydra: {launcher: {n_jobs: 4}}\n",
    "experiment/elsewhere.yaml": "# @package _global_\nhydra: {run: {dir: x}}\n",
    "model/team/small.yaml": "defaults:\n  - gpt2_tiny\nnum_layers: 7\n",
}


@pytest.fixture
def own(tmp_path: Path) -> str:
    for name, text in FILES.items():
        path = tmp_path / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(tmp_path / "own")


def read(*args: str) -> RunConfig:
    line = parse(["est-train", *args], RunConfig)
    return composed("train", RunConfig, line.overrides, line.config_dir).config


def test_options_may_stand_anywhere(own: str) -> None:
    line = parse(["est-train", "seed=1", "-m", "optim.lr=0.1", "--config-dir", own, "run_name=a"], RunConfig)
    assert line.multirun and line.config_dir == own and line.overrides == ["seed=1", "optim.lr=0.1", "run_name=a"]
    assert line.argv == ["est-train", f"--config-dir={own}", *line.overrides]


def test_recipes_are_stacked_and_the_last_one_decides(own: str) -> None:
    for chosen, seed, model in (("[first,second]", 4, "gemma_tiny"), ("[second,first]", 3, "llama_tiny")):
        config = read(f"experiment={chosen}", f"--config-dir={own}")
        assert (config.seed, config.model.name, config.optim.lr) == (seed, model, 0.5)


def test_a_plus_before_a_recipe_is_taken(own: str) -> None:
    assert read("+experiment=first", f"--config-dir={own}").seed == 3


def test_presets_lie_in_folders_of_groups(own: str) -> None:
    config = read("model=team/small", f"--config-dir={own}")
    assert (config.model.num_layers, config.model.hidden_size) == (7, read().model.hidden_size)


def test_the_environment_names_a_folder_of_presets(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EST_CONFIG_DIR", own)
    assert read("experiment=second").seed == 4


def test_a_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EST_CONFIG_DIR", "nowhere")
    assert told(capsys, "seed=1") == "EST_CONFIG_DIR: there is no folder nowhere"


@pytest.mark.parametrize("key", ["resume", "run_name"])
def test_a_path_is_taken_as_a_table_shows_it(key: str) -> None:
    line = parse(["est-train", f"{key}=outputs/s/t1=0.1,t2=0.4"], RunConfig)
    assert line.overrides == [f"{key}='outputs/s/t1=0.1,t2=0.4'"]
    assert composed("train", RunConfig, line.overrides, None).config.__dict__[key] == "outputs/s/t1=0.1,t2=0.4"
    quoted = f"{key}='outputs/s/t1=0.1,t2=0.4'"
    assert parse(["est-train", quoted], RunConfig).overrides == [quoted]


def test_in_a_sweep_a_comma_stands_between_values_unless_the_path_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = parse(["est-train", "-m", "tokenizer=s/a=1,b=2", "seed=1,2"], RunConfig)
    assert line.overrides == ["tokenizer=s/a=1,b=2", "seed=1,2"]
    (tmp_path / "s" / "a=1,b=2").mkdir(parents=True)
    line = parse(["est-train", "-m", "tokenizer=s/a=1,b=2"], RunConfig)
    assert line.overrides == ["tokenizer='s/a=1,b=2'"]


def test_one_run_of_a_recipe_that_sweeps_is_told_but_not_in_its_sweep(
    own: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("est_cli.cli.dispatch.execute", lambda *_: None)
    for more, told_so in (((), True), (("sweep=s", "run_name=a"), False)):
        line = ["est-train", f"--config-dir={own}", "experiment=sweeping", *more]
        assert enter("est-train", main, line) == 0
        assert ("-m makes the recipe's sweep over stage.t1" in capsys.readouterr().err) is told_so


def test_nothing_is_told_before_the_configuration_is_accepted(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["est-train", f"--config-dir={own}", "experiment=sweeping", "resume=nowhere"]
    assert enter("est-train", main, line) != 0
    assert "recipe's sweep" not in (said := capsys.readouterr().err) and said.count("\n") == 1


def test_a_recipe_tells_what_it_sweeps_and_nothing_else_of_hydra(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert composed("train", RunConfig, ["experiment=sweeping"], own).swept == {"stage.t1": "0.1,0.2"}
    for name, key in (("launching", "hydra.launcher.n_jobs"), ("elsewhere", "hydra.run.dir")):
        said = told(capsys, f"--config-dir={own}", f"experiment={name}")
        assert said == f"{key}: of Hydra's own settings a recipe may have hydra.sweeper.params alone"


def test_a_package_that_there_is_not_is_told_as_every_wrong_word_is(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("nope", "train.nope", "trai"):
        said = told(capsys, "--cfg=job", f"--package={name}")
        assert said == f"--package: there is no group or setting {name}; name one, such as train"
    for name in ("_global_", "train", "train.log_every", "seed"):
        assert f"--package={name}" in parse(["est-train", "--cfg=job", "-p", name], RunConfig).argv
