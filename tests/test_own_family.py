"""examples/own_family, installed: a family and a scheduler of another package, through the commands."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import ArceeForCausalLM

import est_cli.config.schedulers as schedulers
from est_cli import families
from est_cli.cli.entry import enter
from est_cli.common import plugins
from est_cli.common.errors import CheckpointError, ConfigError
from est_cli.config import RunConfig
from est_cli.config.resolve import check as resolved
from est_cli.config.schedulers import Scheduler, register_scheduler
from est_cli.config.schema import plain
from est_cli.config.stored import stored_config
from est_cli.est import ModelSpec, check, dense
from est_cli.families import Family, Numbers, register_family, spec_of
from est_cli.families.shared.attention import LLAMA_LIKE, head_problems, llama_settings, llama_spec
from est_cli.models import build_model, hf_config
from tests.lab.commands import accepted, command, told, typed_in
from tests.lab.lab import write_corpus
from tests.lab.packages import install

EXAMPLE = Path(__file__).parent.parent / "examples" / "own_family"
CHOSEN = ("--config-dir", str(EXAMPLE / "conf"), "model=squared_tiny", "scheduler=two_stage")
SMALL = (
    *("model.vocab_size=300", "model.hidden_size=16", "model.num_layers=2", "model.max_positions=32"),
    *("train.seq_len=32", "train.tokens_per_step=64", "train.eval_every=0"),
    *("dataset=text", "dataset.num_workers=1", "tracking.wandb=off"),
)


def entry_points() -> dict[str, str]:
    groups = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"]
    return {f"{group}:{name}": target for group, found in groups.items() for name, target in found.items()}


def installed(folder: Path, version: str = "0.1.0", name: str = "est-example") -> str:
    """The PYTHONPATH on which the example is an installed package."""
    return f"{install(folder, name, entry_points(), version=version)}:{EXAMPLE}"


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for registry in (families._others, schedulers._others):
        monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.setattr(plugins, "_in_use", {})
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "est_example"]:
        del sys.modules[name]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_loaded: None) -> None:
    for folder in installed(tmp_path / "site").split(":"):
        monkeypatch.syspath_prepend(folder)


@pytest.mark.usefixtures("example")
def test_the_preset_and_the_scheduler_are_chosen_as_ours_are() -> None:
    config = accepted(*CHOSEN)
    assert (config.model.family, config.scheduler.name) == ("squared", "two_stage")
    stage = {key: value for key, value in plain(config.stage).items() if value is not None}
    assert stage == {"t2": 0.5, "p_h": 0.5, "p_m": 0.5}  # its defaults, and nothing of stage/paper
    assert accepted(*CHOSEN, "stage.t2=7", "stage.p_m=0.25").stage.t2 == 7
    assert "torch" not in {name for name in sys.modules if name.startswith("est_example.model")}


@pytest.mark.usefixtures("example")
def test_a_file_of_its_name_gives_other_values(tmp_path: Path) -> None:
    own = tmp_path / "conf" / "scheduler" / "two_stage.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\nscheduler: {name: two_stage}\nstage: {t2: 0.25, p_h: 0.5, p_m: 1.0}\n")
    stage = accepted("--config-dir", str(tmp_path / "conf"), "scheduler=two_stage").stage
    assert (stage.t1, stage.t2, stage.p_m, stage.p_l) == (None, 0.25, 1.0, None)


@pytest.mark.usefixtures("example")
def test_what_is_wrong_is_told_as_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, *CHOSEN, "stage.p_l=0.5").startswith("stage.p_l: has no meaning under scheduler=two_stage")
    assert told(capsys, *CHOSEN, "stage.t2=9.5").startswith("stage.t2: ")
    assert "has no meaning in the family squared; leave it null" in told(capsys, *CHOSEN, "model.rope_theta=1")
    assert "did you mean squared?" in told(capsys, "model.family=square")
    assert "no option 'two_stages'; did you mean 'two_stage'?" in told(capsys, "scheduler=two_stages")
    assert told(capsys, "model.package=est-example==0.1.0").startswith("model.package: the run began with est-example")


def test_without_the_package_its_names_are_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nothing_loaded: None
) -> None:
    assert told(capsys, *CHOSEN[:3], "model.package=est-example==0.1.0").endswith(
        ", hf; the run began with that of est-example==0.1.0: pip install it"
    )
    assert told(capsys, "scheduler=two_stage").startswith("scheduler: no option 'two_stage'; ")
    tree = plain(RunConfig())
    tree["scheduler"] = {"name": "two_stage", "package": "est-example==0.1.0"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(CheckpointError, match=r"'two_stage' .*began with that of est-example==0.1.0: pip install it"):
        stored_config(tmp_path)


def test_a_program_registers_a_scheduler(nothing_loaded: None) -> None:
    register_scheduler("mine", Scheduler(meaning="mine", make=lambda steps, stage: dense(steps)))
    assert accepted("scheduler=mine").scheduler.name == "mine"
    with pytest.raises(ValueError, match="'three_stage' is one of est's own"):
        register_scheduler("three_stage", Scheduler(meaning="mine", make=lambda steps, stage: dense(steps)))


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda steps, stage: 5, "its make() gave int; a SamplingScheduler is needed"),
        (lambda steps, stage: {}["p"], "its make() raised KeyError: 'p'"),
        (lambda steps, stage: dense(10), "its stages end at step 10; the run has 300"),
    ],
)
def test_a_scheduler_that_gives_none_is_told_in_one_line(make: Any, words: str) -> None:
    register_scheduler("mine", Scheduler(meaning="mine", make=make))
    with pytest.raises(ConfigError) as error:
        resolved(accepted("scheduler=mine"))
    assert str(error.value) == f"scheduler=mine: {words}"


@pytest.mark.usefixtures("nothing_loaded")
def test_a_scheduler_that_reads_no_setting_is_told() -> None:
    register_scheduler("mine", Scheduler(meaning="mine", make=lambda steps, stage: dense(steps), reads=("t9",)))
    with pytest.raises(ConfigError, match=r"'mine' reads stage\.t9, which is no setting"):
        accepted("scheduler=mine")


@pytest.mark.usefixtures("example")
def test_a_sweep_goes_over_ours_and_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from est_cli.cli.command import command_named
    from est_cli.cli.sweep.overrides import combinations, take_apart
    from est_cli.config.command_line import parse

    line = ["est-train", *CHOSEN[:3], "scheduler=three_stage,two_stage", "-m"]
    parts = take_apart(command_named("train"), {}, parse(line, RunConfig, None))
    jobs = [typed_in("train", *CHOSEN[:3], *(f"{k}={v}" for k, v in job.items()))[0] for job in combinations(parts)]
    assert [job.scheduler.name for job in jobs] == ["three_stage", "two_stage"]


@pytest.mark.usefixtures("example")
def test_the_test_to_copy_passes() -> None:
    from examples.own_family import test_est_example

    test_est_example.test_the_specification_says_what_the_model_does()


@pytest.mark.long
@pytest.mark.processes
def test_it_trains_is_continued_and_opens_in_plain_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], nothing_loaded: None
) -> None:
    path, corpus = installed(tmp_path / "site"), write_corpus(tmp_path / "text.jsonl")
    small = [*SMALL, f"dataset.files=[{corpus}]", "run_name=own"]
    ended = command("est-train", *CHOSEN, *small, "train.max_steps=4", cwd=tmp_path, PYTHONPATH=path)
    assert ended.code == 0, ended.err
    run = tmp_path / "outputs" / "own"
    stored, summary = yaml.safe_load((run / "config.yaml").read_text()), json.loads((run / "summary.json").read_text())
    assert stored["model"]["package"] == stored["scheduler"]["package"] == "est-example==0.1.0"
    assert summary["versions"]["est-example"] == "0.1.0"
    assert 0 < summary["flops_saved_pct_blocks"] < 50
    newer = installed(tmp_path / "newer", version="0.2.0")
    ended = command("est-train", "resume=outputs/own", "train.max_steps=6", cwd=tmp_path, PYTHONPATH=newer)
    assert ended.code == 0 and "est-example 0.1.0 then, 0.2.0 now" in ended.err, ended.err
    monkeypatch.syspath_prepend(EXAMPLE)
    from est_example.model import SquaredForCausalLM

    model = SquaredForCausalLM.from_pretrained(run / "model")  # by plain transformers
    saved = load_file(run / "model" / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items() if name in saved)
    assert len(saved) > 20
    monkeypatch.syspath_prepend(tmp_path / "newer")
    monkeypatch.chdir(tmp_path)
    dropout = "checkpoint=outputs/own/model analysis=structural_dropout analyze.draws=2 analyze.tokens=128"
    for name, argv in (("plan", [*CHOSEN]), ("report", ["outputs/own"]), ("analyze", dropout.split())):
        program = import_module(f"est_cli.{name}")
        assert enter(f"est-{name}", program.main, [f"est-{name}", *argv]) == 0, capsys.readouterr().err


def test_a_family_whose_classes_transformers_has_takes_a_few_lines(nothing_loaded: None) -> None:
    def settings(numbers: Numbers) -> dict[str, Any]:
        return {**llama_settings(numbers), "head_dim": numbers.head_dim}

    def spec(config: Any) -> ModelSpec:
        return llama_spec(config, mlp=("mlp.up_proj", "mlp.down_proj"))

    register_family("arcee", Family(spec, settings, {**LLAMA_LIKE, "head_dim": None}, problems=head_problems))
    chosen = ["model.family=arcee", "model.vocab_size=31", "model.hidden_size=24", "model.num_layers=3"]
    config = accepted(*chosen, "model.num_heads=6", "model.num_kv_heads=3", "model.mlp_size=20")
    hf = hf_config(config.model)
    model = build_model(config.model, hf, seed=0)
    assert type(model) is ArceeForCausalLM
    assert check(model, spec_of(model), {"input_ids": torch.randint(31, (2, 7)), "use_cache": False}) < 1e-6


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    from est_cli import train

    code = enter("est-train", train.main, ["est-train", *argv])
    return code, capsys.readouterr().err


@pytest.mark.usefixtures("example")
def test_a_run_is_not_continued_with_what_another_package_brings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree: dict[str, Any] = plain(accepted(*CHOSEN))
    for group in ("model", "scheduler"):
        tree[group]["package"] = "est-other==3"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.chdir(tmp_path)
    code, line = refused(capsys, "resume=run")
    assert code == 4
    for group in ("model", "scheduler"):
        assert f"{group}.package: the run began with est-other==3, here it is of est-example==0.1.0" in line
