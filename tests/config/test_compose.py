"""Every key of every command, wrong in every way; and everything in conf/, right."""

from __future__ import annotations

import copy
import re
import sys
import typing
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from est_cli import train
from est_cli.cli.help import SETTINGS
from est_cli.common.errors import ConfigError
from est_cli.config import AnalyzeConfig, EvalConfig, PlanConfig, RunConfig
from est_cli.config.groups import CONF
from est_cli.config.resolve import check
from est_cli.config.schema import leaves_of, plain, typed
from est_cli.config.setting import Setting, settings_of
from tests.lab.commands import accepted, command, composed, poisoned_path, told, tree
from tests.lab.settings import is_enum, out_of_range, parts

KEYS = settings_of(PlanConfig)
"""All keys of est-train, and those that est-plan adds."""

OUT_OF_RANGE = out_of_range(PlanConfig) | {
    "run_name": "a/b",
    "sweep": "../out",
    "resume": "nowhere",
    "model.family": "bert",
    "dataset.token_dtype": "int64",
    "dataset.weights": "[0.0]",
    "dataset.exclude": "[no value]",
    "stage.t1": "1.5",
    "stage.t2": "301",
    "stage.p_h": "0.0",
    "stage.p_m": "1.1",
    "stage.p_l": "nan",
    "stage.boundaries": "[0.1,1.5]",
    "stage.rates": "[[0.5,0.5,0.5],[1,1,2]]",
    "stage.depths": "[0]",
    "stage.p_d": "0.0",
    "stage.theta": "1.1",
    "optim.lr": "0",
    "optim.warmup": "1.01",
    "optim.decay": "-1",
    "launch.strategy": "deepspeed",
    "target_saving": "1.0",
    "target_flops": "-1.0",
    "plot": "plan.pdf",
}
"""What lies just outside of each range, and what other rules refuse."""
NEEDS = {
    "stage.boundaries": ["scheduler=n_stage", "stage.boundaries=[0.2,0.5]", "stage.rates=[[1,1,1],[1,1,1],[1,1,1]]"],
    "stage.rates": ["scheduler=n_stage", "stage.boundaries=[0.5]", "stage.rates=[[1,1,1],[1,1,1]]"],
    "stage.depths": ["scheduler=g_stack"],
    "stage.levels": ["scheduler=linear"],
    "stage.p_d": ["scheduler=early_dropout"],
    "stage.theta": ["scheduler=pld"],
    "stage.gamma": ["scheduler=pld"],
    "model.rope_theta": ["model=llama_tiny"],
    "model.head_dim": ["model=mistral_tiny"],
    "model.sliding_window": ["model=mistral_tiny"],
    "model.state_size": ["model=mamba_tiny"],
    **{key: ["optim=muon"] for key in ("optim.muon_lr", "optim.momentum", "optim.ns_steps")},
}
"""What else must stand on the command line for a key to have a meaning."""


def wrong_type(known: Setting) -> str:
    hint = known.hint
    if known.items is not None or typing.get_origin(hint) is list:
        return "{a: 1}"
    return "[1,2]" if str in parts(hint) else "perhaps"


def refused(capsys: pytest.CaptureFixture[str], key: str, value: str) -> str:
    return told(capsys, *NEEDS.get(key, []), f"{key}={value}", schema=PlanConfig)


def test_the_ranges_of_the_fields_are_tried() -> None:
    assert {
        "seed": "-1",
        "train.keep_last": "1",
        "optim.lr": "0",
        "model.dropout": "-1.0",
    }.items() <= OUT_OF_RANGE.items()
    assert len(OUT_OF_RANGE) > 70


@pytest.mark.parametrize("schema", [PlanConfig, EvalConfig, AnalyzeConfig])
def test_every_setting_says_what_it_means(schema: type) -> None:
    for key, known in settings_of(schema).items():
        assert known.meaning.endswith("."), key


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_a_typo_is_told_with_the_right_key(capsys: pytest.CaptureFixture[str], key: str) -> None:
    typo = key[:-2] + key[-1]
    for prefix in ("", "+", "++"):
        assert refused(capsys, f"{prefix}{typo}", "1") == f"{typo}: unknown key; did you mean {key!r}?"


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_a_new_key_cannot_be_smuggled_in(capsys: pytest.CaptureFixture[str], key: str) -> None:
    for new in (f"{key}.new", f"{key.rpartition('.')[0]}.qqqqqqq".lstrip(".")):
        assert refused(capsys, f"+{new}", "1").startswith(f"{new}: unknown key; ")
    assert refused(capsys, f"+{key}", "1") == f"{key}: is known; write it without the +"
    assert refused(capsys, f"~{key}", "1").startswith(f"{key}: settings cannot be removed")
    assert refused(capsys, key, "1,2").startswith(f"{key}: a list of values to sweep over is not a value")


@lru_cache
def accepted_tree(*args: str) -> dict[str, Any]:
    return plain(accepted(*args, schema=PlanConfig))


def refused_value(key: str, value: str) -> str:
    """What is told of `key=value`. Composition, the same for all values, is done once."""
    tree = copy.deepcopy(accepted_tree(*NEEDS.get(key, [])))
    group, _, name = key.rpartition(".")
    (tree[group] if group else tree)[name] = yaml.safe_load(value)
    with pytest.raises(ConfigError) as error:
        check(typed(tree, PlanConfig))
    assert "\n" not in str(error.value)
    return str(error.value)


def type_is_told(key: str, message: str) -> bool:
    hint = KEYS[key].hint
    words = ", ".join(member.value for member in hint) if is_enum(hint) else ", ".join(KEYS[key].choices)
    return message.startswith(f"{key}: ") and " is not " in message and words in message


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_a_wrong_type_is_told_with_the_right_one(key: str) -> None:
    assert type_is_told(key, refused_value(key, wrong_type(KEYS[key])))


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key, known in KEYS.items() if type(None) not in parts(known.hint)])
def test_null_is_refused_where_a_value_is_needed(key: str) -> None:
    assert refused_value(key, "null").startswith(f"{key}: null is not ")


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in OUT_OF_RANGE if key not in ("run_name", "sweep", "resume")])
def test_out_of_range(key: str) -> None:
    assert refused_value(key, OUT_OF_RANGE[key]).startswith(f"{key}: ")


@pytest.mark.some(8)
@pytest.mark.parametrize(
    "key", {str(Enum if is_enum(known.hint) else known.hint): key for key, known in KEYS.items()}.values()
)
def test_one_key_of_each_type_by_the_whole_way(capsys: pytest.CaptureFixture[str], key: str) -> None:
    for value in (wrong_type(KEYS[key]), *(["null"] if type(None) not in parts(KEYS[key].hint) else [])):
        assert type_is_told(key, refused(capsys, key, value))


def as_override(key: str, value: Any) -> str:
    return f"{key}={'null' if value is None else yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"


def test_every_key_can_be_given() -> None:
    plain_config, given = composed(schema=PlanConfig)
    leaves = leaves_of(plain(plain_config))
    assert leaves.keys() == KEYS.keys() and given == set()
    again, given = composed(*(as_override(key, value) for key, value in leaves.items()), schema=PlanConfig)
    assert again == plain_config and given == KEYS.keys()


def test_what_no_preset_sets_is_what_the_dataclasses_say() -> None:
    files, classes = (leaves_of(plain(config)) for config in (composed()[0], RunConfig()))
    differ = {key for key in files if files[key] != classes[key]}
    assert {key for key in differ if not key.startswith("stage.")} == {
        *("model.vocab_size", "model.hidden_size", "model.num_layers", "model.num_heads", "model.max_positions"),
        "dataset.validation_fraction",
    }


def test_values_of_every_kind_arrive() -> None:
    config, given = composed(
        *("stage.t1=1", "stage.t2=1.0", "dataset.files=one.txt", "tracking.tags=[a,b c]", "train.max_tokens=1_000"),
        *("optim.lr=3e-4", "tracking.wandb=off", "train.compile=null", 'run_name="x=1"'),
    )
    assert (config.stage.t1, config.stage.t2) == (1, 1.0)
    assert (type(config.stage.t1), type(config.stage.t2)) == (int, float)
    assert (config.dataset.files, config.tracking.tags) == (["one.txt"], ["a", "b c"])
    assert (config.train.max_tokens, config.optim.lr, config.tracking.wandb.value) == (1000, 3e-4, "off")
    assert given == {
        *("stage.t1", "stage.t2", "dataset.files", "tracking.tags", "train.max_tokens", "optim.lr"),
        *("tracking.wandb", "train.compile", "run_name"),
    }


def test_the_command_line_decides_what_it_names_and_what_its_groups_and_experiment_hold() -> None:
    _, given = composed("model=gpt2", "seed=0")
    assert given == {key for key in KEYS if key.startswith("model.")} | {"seed"}
    config, given = composed("experiment=paper_gpt2")
    assert {"model.hidden_size", "train.max_steps", "optim.warmup", "tokenizer", "dataset.source"} <= given
    assert "seed" not in given and config.train.max_steps == 150_000


OPTIONS = [(file.parent.name, file.stem) for file in sorted(CONF.glob("*/*.yaml"))]
COMPANY = {
    ("model", "hf"): ["model.name_or_path=some/model"],
    ("model", "gemma_2b"): ["sampling.kv_groups=within"],
    ("model", "gemma3_1b"): ["sampling.kv_groups=within"],
    ("dataset", "text"): ["dataset.files=[a.txt]"],
    ("dataset", "tokens"): ["dataset.files=[a.bin]", "tokenizer=gpt2"],
    ("dataset", "hub"): ["dataset.hub_ids=[some/data]"],
}
"""What an option needs that has no default."""


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_everything_in_conf_is_valid(group: str, option: str) -> None:
    config = accepted(f"{group}={option}", *COMPANY.get((group, option), []))
    if group in ("model", "dataset", "scheduler"):
        assert getattr(config, group).name == option


@pytest.mark.slow
@pytest.mark.parametrize("experiment", [option for group, option in OPTIONS if group == "experiment"])
def test_a_recipe_has_its_dense_baseline(experiment: str) -> None:
    config = accepted(f"experiment={experiment}", "scheduler=dense")
    assert set(plain(config.stage).values()) == {None} and config.scheduler.name == "dense"


def test_stages_chosen_for_a_dense_run_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^stage: has no meaning under scheduler=dense"):
        accepted("scheduler=dense", "stage=paper")


def test_the_walk_over_conf_sees_the_files() -> None:
    assert {("model", "gpt2"), ("experiment", "paper_gpt2"), ("stage", "paper")} <= set(OPTIONS)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["model=gpt3"],
            "model: no option 'gpt3'; did you mean 'gpt2'? --help lists all ",
        ),
        (["model=null"], "model: no option null; choose one of "),
        (["model=[gpt2]"], "model: no option ['gpt2']; did you mean 'gpt2'? --help lists all "),
        (
            ["experiment=paper_gtp2"],
            "experiment: no option 'paper_gtp2'; did you mean 'paper_gpt2'? choose one of gpt2_fineweb, paper_gpt2, ",
        ),
        (["experiment=[paper_gpt2,nothing]"], "experiment: no option 'nothing'; choose one of gpt2_fineweb, "),
        (["modle=gpt2"], "modle: unknown key; did you mean 'model'?"),
        (["model@here=gpt2"], "model@here: unknown key; did you mean 'model'?"),
        (["lr=1"], "lr: unknown key; did you mean 'optim.lr'?"),
        (["train.lrr=1"], "train.lrr: unknown key; did you mean 'optim.lr'?"),
        (["qqqqqqq=1"], "qqqqqqq: unknown key; --help lists all keys"),
        (["qqqqqqq"], "qqqqqqq: not an override; write KEY=VALUE"),
        (["=1"], "=1: unknown key"),
        (["seed=[1"], "seed=[1: not an override; write KEY=VALUE"),
        (["paths.outputs=~/runs"], "paths.outputs: no shell replaces a ~ behind a =; write paths.outputs=$HOME/runs"),
        (["hydra.run.dir=elsewhere"], "hydra.run.dir: a run's folder is paths.outputs with run_name in it"),
        (["hydra.job.env_set=1"], "hydra.job.env_set: Hydra has it, and it is fixed here"),
        (["hydra/launcher=basic"], "hydra/launcher: goes with -m"),
        (["--qqq"], "command line: unrecognized arguments: --qqq; "),
        (
            ["--max_steps", "10"],
            "command line: unrecognized arguments: --max_steps; a setting is written without dashes: ",
        ),
        (
            ["--train.seq-len=64"],
            "command line: unrecognized arguments: --train.seq-len=64; a setting is written without",
        ),
        (["--config", "my.yaml"], "--config: the configuration of a command is fixed; put your own into a file"),
        (["--config-dir"], "command line: argument --config-dir/-cd: expected one argument; "),
        (["--config-dir=nowhere"], "--config-dir: there is no folder nowhere"),
        (["--experimental-rerun=config.pickle"], "--experimental-rerun: est-train resume=outputs/NAME continues"),
        (["-cn", "plan"], "--config-name: the configuration of a command is fixed; put your own into a file"),
        (["--resolve"], "--resolve: goes with --cfg or --help"),
        (["seed=${oc.env:HOME}"], "seed: resolvers are not allowed"),
        (["seed=${nowhere.seed}"], "seed: Interpolation key 'nowhere.seed' not found"),
        (["run_name=${tokenizer}", "tokenizer=${run_name}"], "run_name: Recursive interpolation"),
        (["tracking.tags=[1,null]"], "tracking.tags: null is not a word"),
        (["stage.layer_rates=[1,x]"], "stage.layer_rates: 'x' is not a number"),
        (["stage.layer_rates=x"], "stage.layer_rates: 'x' is not a list of numbers, [1,2] or null"),
        (["tracking.also=[tensorbord]"], "tracking.also: 'tensorbord' is not one of tensorboard, mlflow, trackio"),
        (["train.seq_len={a: 1}"], "train.seq_len: {'a': 1} is not an integer"),
        (["train.max_steps=${stage}"], "train.max_steps: {'"),
    ],
)
def test_command_lines_that_are_refused(capsys: pytest.CaptureFixture[str], args: list[str], message: str) -> None:
    assert told(capsys, *args).startswith(message)


@pytest.mark.parametrize(
    "args",
    [
        ["run_name=${oc.env:SECRET}"],
        ["dataset.files=['${oc.env:SECRET}']"],
        ['run_name="${${tokenizer}:SECRET}"', "tokenizer=oc.env"],
        ['run_name="a${oc.decode:${oc.env:SECRET}}"'],
        ["train.max_steps=${oc.env:SECRET}"],
        [r"run_name='\${oc.env:SECRET}'"],
    ],
)
def test_resolvers_are_refused_and_tell_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    monkeypatch.setenv("SECRET", "canary-value")
    message = told(capsys, *args)
    assert message.startswith(args[0].partition("=")[0])
    assert "resolvers are not allowed" in message or "${oc.env:SECRET} is not read" in message
    assert "canary" not in message


def test_a_setting_may_follow_another() -> None:
    config, _ = composed("run_name=${model.name}-${seed}", "train.micro_batch=${train.max_steps}", "train.max_steps=7")
    assert (config.run_name, config.train.micro_batch) == ("gpt2_tiny-0", 7)


GLOBAL = "# @package _global_\n"


@pytest.mark.some(3)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2", "configuration: a file cannot be read as YAML: while parsing a flow sequence in "),
        ("\ttab: 1", "configuration: a file cannot be read as YAML: "),
        ("a: \x00", "configuration: a file cannot be read as YAML: "),
        (f"{GLOBAL}train: {{max_stepz: 3}}", "train.max_stepz: unknown key; did you mean 'train.max_steps'?"),
        (f"{GLOBAL}trian: {{max_steps: 3}}", "trian: unknown key; did you mean 'train'?"),
        (f"{GLOBAL}train: 3", "train: '3' is not a group of settings"),
        (f"{GLOBAL}train: null", "train: 'None' is not a group of settings"),
        (f"{GLOBAL}train: {{max_steps: some}}", "train.max_steps: 'some' is not an integer or null"),
        (f"{GLOBAL}_target_: os.system", "_target_: unknown key"),
        (f"{GLOBAL}model: {{_target_: os.system}}", "model._target_: unknown key"),
        (f"{GLOBAL}run_name: ${{oc.env:HOME}}", "run_name: ${oc.env:HOME} is not read"),
        (f"{GLOBAL}defaults: [{{override /model: qqq}}]", "configuration: In 'train': Could not find 'model/qqq'"),
        (f"{GLOBAL}defaults: [{{qqq: zzz}}]", "configuration: In 'experiment/mine': Could not find "),
        (f"{GLOBAL}train: {{seq_len: 1}}", "train.seq_len: 1 is out of range"),
        (
            f"{GLOBAL}hydra: {{run: {{dir: zz}}}}",
            "hydra.run.dir: of Hydra's own settings a recipe may have hydra.sweeper.params",
        ),
        ("train: {seq_len: 64}", "experiment: its file must hold settings by name, below a first line `# @package"),
        ("- 1", "experiment: its file must hold settings by name"),
    ],
)
def test_recipes_that_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, message: str
) -> None:
    write_recipe(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    assert told(capsys, "--config-dir=.", "experiment=mine").startswith(message)
    assert tree(tmp_path) == before


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    write_recipe(tmp_path, f"{GLOBAL}defaults: [{{override /scheduler: dense}}]\ntrain: {{seq_len: 64}}")
    config, given = composed(f"--config-dir={tmp_path}", "experiment=mine", "train.micro_batch=2")
    assert (config.train.seq_len, config.train.micro_batch, config.scheduler.name) == (64, 2, "dense")
    assert {"train.seq_len", "train.micro_batch", "scheduler.name", "stage.t1"} <= given


def write_recipe(folder: Path, text: str) -> None:
    (folder / "experiment").mkdir()
    (folder / "experiment" / "mine.yaml").write_text(text)


@pytest.mark.some(4)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "args", "key"),
    [
        ("est-train", ["train.max_stepz=3"], "train.max_stepz"),
        ("est-train", ["+train.new=3"], "train.new"),
        ("est-train", ["optim.lr=fast", "run_name=x"], "optim.lr"),
        ("est-train", ["stage.t1=0.6", "stage.t2=0.5"], "stage.t1"),
        ("est-train", ["model=llama_tiny", "model.num_kv_heads=1"], "sampling.kv_groups"),
        ("est-train", ["--config-dir=.", "experiment=mine"], "configuration"),
        ("est-train", ["resume=nowhere"], "resume"),
        ("est-train", ["-m", "train.max_stepz=3,4"], "train.max_stepz"),
        ("est-train", ["-m", "stage.t1=0.6,0.7", "stage.t2=0.5"], "stage.t1"),
        ("est-train", ["-m", "seed=1,2", "hydra/launcher=qqq"], "hydra/launcher"),
        ("est-plan", ["-m", "seed=-1"], "seed"),
        ("est-plan", ["target_saving=2"], "target_saving"),
    ],
)
def test_the_real_command_refuses_quickly_and_leaves_nothing(
    tmp_path: Path, name: str, args: list[str], key: str
) -> None:
    path = poisoned_path(tmp_path / "poison")
    folder = tmp_path / "empty"
    folder.mkdir()
    write_recipe(folder, "a: [1")
    before = tree(folder)
    ended = command(name, *args, cwd=folder, PYTHONPATH=path)
    assert (ended.code, ended.out) == (2, ""), ended.err
    assert ended.err.startswith(f"{name}: error: {key}: ") and ended.err.count("\n") == 1
    assert ended.cpu_s < 2.0
    assert tree(folder) == before


def test_the_poison_works(tmp_path: Path) -> None:
    ended = command("est-train", cwd=tmp_path, PYTHONPATH=poisoned_path(tmp_path / "poison"))
    assert ended.code == 1 and "imported before the configuration was accepted" in ended.err


def test_debugging_adds_the_traceback(tmp_path: Path) -> None:
    ended = command("est-train", "sed=1", cwd=tmp_path, EST_DEBUG="1")
    lines = ended.err.splitlines()
    assert ended.code == 2 and lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "est-train: error: sed: unknown key; did you mean 'seed'?"


@pytest.mark.parametrize(("name", "schema"), [("est-train", RunConfig), ("est-plan", PlanConfig)])
def test_help_teaches(tmp_path: Path, name: str, schema: type[RunConfig]) -> None:
    ended = command(name, "--help", cwd=tmp_path, PYTHONPATH=poisoned_path(tmp_path / "poison"))
    assert (ended.code, ended.err) == (0, "") and ended.cpu_s < 2.0
    intro, _, lines = ended.out.partition(SETTINGS)
    told = {line.strip().partition("=")[0] for line in lines.splitlines() if re.match(r"  [a-z0-9_.]+=", line)}
    assert told == {*settings_of(schema)}
    assert f"{name} experiment=paper_gpt2" in intro
    assert all(option in lines for _, option in OPTIONS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["poison"]


def test_hydra_answers_about_the_command_line_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    before = list(sys.argv)
    train.main(["est-train", "--cfg", "job", "seed=5"])
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 5
    assert sys.argv == before
