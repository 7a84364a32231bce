"""paths.outputs, paths.data and their variables: the setting above the variable above the default."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from est_cli.analysis import check_analysis as analysis
from est_cli.analysis.check_analysis import default_folder
from est_cli.common.errors import ConfigError, StorageError
from est_cli.common.rank import rank_of_environment
from est_cli.config import EvalConfig, PathsConfig, RunConfig
from est_cli.config.paths import paths_problems
from est_cli.config.schema import to_yaml
from est_cli.config.setting import BRANCH, FREE, NO_RESULT, TRACKED, settings_of
from est_cli.config.stored import stored_config
from est_cli.distributed import Group
from est_cli.evaluation import check_evaluation as evaluation
from est_cli.evaluation.check_evaluation import results_folder
from est_cli.training.folder import owned_folder
from est_cli.training.start import Start, resolve_resume
from tests.lab.commands import composed, told, typed_in


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def start(*args: str) -> Start:
    return resolve_resume(*composed(*args))


def make_run(folder: Path, *args: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(composed(*args, f"run_name={folder.name}")[0]))
    return folder


@pytest.mark.parametrize(
    ("args", "variable", "expected"),
    [([], None, "outputs"), ([], "", "outputs"), ([], "v", "v"), (["paths.outputs=s"], "v", "s")],
)
def test_the_setting_stands_above_the_variable(
    monkeypatch: pytest.MonkeyPatch, args: list[str], variable: str | None, expected: str
) -> None:
    if variable is not None:
        monkeypatch.setenv("EST_OUTPUTS", variable)
        monkeypatch.setenv("EST_DATA_CACHE", variable and f"{variable}-data")
    for command in ("train", "plan", "eval", "analyze"):
        paths = typed_in(command, *args)[0].paths
        assert paths.outputs_folder == Path(expected)
        assert paths.data_folder == Path("v-data" if variable else "data")


@pytest.mark.parametrize("name", ["train", "eval"])
def test_neither_is_part_of_what_a_run_is(name: str) -> None:
    schema, other = (RunConfig, BRANCH) if name == "train" else (EvalConfig, NO_RESULT)
    for key in ("paths.outputs", "paths.data"):
        roles = settings_of(schema)[key].roles
        assert {FREE, other} <= roles and TRACKED not in roles


def test_a_run_is_found_where_the_setting_says_and_may_have_been_moved(tmp_path: Path) -> None:
    place = f"paths.outputs={tmp_path}/a"
    run = make_run(tmp_path / "a" / "s" / "x", place, "sweep=s", "paths.data=old")
    assert start("resume=auto", "run_name=x", "sweep=s").folder is None
    assert start("resume=auto", "run_name=x", "sweep=s", place).folder == run
    assert start("resume=auto", "sweep=s", place).folder == run
    (tmp_path / "b").mkdir()
    moved = run.rename(tmp_path / "b" / "x")
    again = start(f"resume={moved}", "paths.data=new")
    assert again.folder == moved and again.config.paths.data_folder == Path("new")
    assert start(f"resume={moved}").config.paths.data_folder == Path("old")


def test_a_run_is_named_alone_where_it_lies_among_the_outputs(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a" / "x")
    assert start("resume=x", "paths.outputs=a").folder == Path("a/x")
    with pytest.raises(ConfigError, match=r"^resume: x is not .*, and there is none of this name in outputs$"):
        start("resume=x")
    with pytest.raises(
        ConfigError,
        match=r"^resume: b/x is not the folder of a run \(it has no config.yaml\); the newest runs in a: x$",
    ):
        start("resume=b/x", "paths.outputs=a")
    with pytest.raises(ConfigError, match=r"; fork=a/x@8 begins a new run from that checkpoint$"):
        start("resume=a/x@8")
    run.rename(tmp_path / "x")
    assert start("resume=x", "paths.outputs=a").folder == Path("x")


def test_a_new_run_is_made_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EST_OUTPUTS", str(tmp_path / "scratch" / "runs"))
    with owned_folder(start("run_name=x", "sweep=s"), Group(rank_of_environment(), 60.0)) as run:
        assert run.root == tmp_path / "scratch" / "runs" / "s" / "x"
    assert stored_config(run.root).paths == PathsConfig()  # a variable is of the machine, and not written down
    assert not Path("outputs").exists()


def test_an_older_run_has_no_such_keys_and_goes_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "x")
    text = (run / "config.yaml").read_text()
    assert text.count("paths:\n  outputs: null\n  data: null\n") == 1
    (run / "config.yaml").write_text(text.replace("paths:\n  outputs: null\n  data: null\n", ""))
    assert start("resume=x", "paths.data=d").config.paths == PathsConfig(data="d")


def test_a_place_that_is_none_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"^file: is no folder, and results are written into file/runs; move"):
        start("paths.outputs=file/runs")


def test_names_that_are_none_are_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(capsys, "paths.outputs=''") == "paths.outputs: is empty; name a folder, or leave it null"
    assert told(capsys, "paths.data='~/d'").startswith("paths.data: '~/d' begins with ~, which only a shell replaces")
    monkeypatch.setenv("EST_DATA_CACHE", "~/d")
    assert told(capsys).startswith("EST_DATA_CACHE: '~/d' begins with ~")
    assert list(paths_problems(PathsConfig(outputs="a\0b", data="d"))) == [
        "paths.outputs: has a character that no path has"
    ]
    assert os.listdir() == []


def test_results_of_other_commands_go_there_too(tmp_path: Path) -> None:
    model = tmp_path / "m"
    model.mkdir()
    (model / "config.json").write_text("{}")
    args = f"checkpoint={model}", "paths.outputs=o"
    config = typed_in("eval", *args, "task=cola")[0]
    assert results_folder(config) == Path("o/eval-m")
    assert results_folder(replace(config, run_name="r", sweep="s")) == Path("o/s/r")
    assert default_folder(typed_in("analyze", *args)[0], 1) == Path("o/analyze-m-hessian_trace")
    (tmp_path / "o" / "r").mkdir(parents=True)
    (tmp_path / "o" / "r" / "page").touch()
    with pytest.raises(ConfigError, match=r"^run_name: o/r is there and is never overwritten"):
        analysis.preflight(typed_in("analyze", *args, "run_name=r")[0], set())
    for check, command in ((analysis.preflight, "analyze"), (evaluation.preflight, "eval")):
        with pytest.raises(ConfigError, match=r"^checkpoint: there is no folder o/none"):  # and no look-up on the hub
            check(typed_in(command, "checkpoint=o/none", "paths.outputs=o")[0], set())
