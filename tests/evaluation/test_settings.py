"""Every key of est-eval: typos, types, ranges, and the file that says the same as the dataclasses."""

from __future__ import annotations

import copy
import re
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml

from est_cli.cli.entry import enter
from est_cli.cli.help import SETTINGS
from est_cli.cli.launch.handover import load_job, save_job
from est_cli.common.errors import ConfigError
from est_cli.config import EvalConfig
from est_cli.config.eval import check_eval, split_tasks
from est_cli.config.schema import leaves_of, plain, typed
from est_cli.config.setting import settings_of
from est_cli.eval import _listed, main
from tests.lab.commands import command, poisoned_path, tree, typed_in
from tests.lab.settings import out_of_range

KEYS = settings_of(EvalConfig)

OUT_OF_RANGE = out_of_range(EvalConfig) | {
    "checkpoint": "null",
    "task": "[]",
    "baseline": "model",
    "sweep": "together",
    "eval.data_dir": "nowhere",
    "eval.epochs": "0.0",
    "eval.seeds": "[1,1]",
    "eval.max_train_examples": "0",
    "eval.batch_size": "0",
    "eval.lr": "nan",
    "eval.warmup": "1.0",
    "eval.weight_decay": "-0.1",
    "eval.max_length": "7",
    "eval.dropout": "1.0",
    "eval.files": "[a.txt]",
    "eval.stride": "0",
    "launch.num_processes": "0",
    "launch.strategy": "fsdp",
    "launch.reduce_dtype": "bf16",
    "launch.gather_dtype": "bf16",
    "launch.shard_size": "2",
    "launch.reshard_after_forward": "true",
    "launch.sharded_checkpoints": "true",
    "launch.timeout_s": "0",
    "launch.check_every": "-1",
}


def composed(*args: str) -> EvalConfig:
    config: EvalConfig = typed_in("eval", *args)[0]
    return config


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    return plain(composed("checkpoint=model"))


def refused(good: dict[str, Any], key: str, value: str) -> str:
    changed = copy.deepcopy(good)
    group, _, name = key.rpartition(".")
    (changed[group] if group else changed)[name] = yaml.safe_load(value)
    with pytest.raises(ConfigError) as error:
        check_eval(typed(changed, EvalConfig))
    return str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("key", OUT_OF_RANGE)
def test_out_of_range(good: dict[str, Any], key: str) -> None:
    assert refused(good, key, OUT_OF_RANGE[key]).startswith(f"{key}: ")


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_a_wrong_type_is_told_with_the_right_one(good: dict[str, Any], key: str) -> None:
    hint = KEYS[key].hint
    wrong = (
        "{a: 1}" if typing.get_origin(hint) is list else "[1,2]" if str in (hint, *typing.get_args(hint)) else "much"
    )
    message = refused(good, key, wrong)
    assert message.startswith(f"{key}: ") and " is not " in message


def test_the_file_says_what_the_dataclasses_say() -> None:
    assert leaves_of(plain(composed())) == leaves_of(plain(EvalConfig()))


def test_a_checked_configuration_is_handed_over_as_it_is(tmp_path: Path) -> None:
    config = composed("checkpoint=model", "task=[cola,perplexity]", "eval.lr=3e-4", "eval.seeds=5")
    assert config.eval.seeds == [5]
    save_job("eval", config, None, tmp_path)
    command, tree, continued = load_job(tmp_path)
    assert (command, typed(tree, EvalConfig), continued) == ("eval", config, None)


def test_names_of_tasks_fall_into_three_kinds() -> None:
    assert split_tasks(["cola", "perplexity", "glue"]) == (["cola", "glue"], True, [])
    assert split_tasks(["lm_eval:hellaswag", "cola", "lm_eval:arc"]) == ([], False, ["hellaswag", "cola", "arc"])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("task=cola,sst2", "task=[cola,sst2]"),
        ("task=lm_eval:arc_easy,perplexity", "task=[lm_eval:arc_easy,perplexity]"),
        *((same, same) for same in ("task=cola", "task=[cola,sst2]", "task=[cola],[sst2]", "task=choice(cola,sst2)")),
        *((same, same) for same in ("eval.lr=1,2", "-m", "task", "xtask=a,b")),
    ],
)
def test_a_bare_comma_makes_a_list_of_tasks(typed: str, meant: str) -> None:
    assert _listed(typed) == meant


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ([], "checkpoint: is missing; give the folder of a model, such as outputs/NAME/model"),
        (["task=cola,sst"], "task: there is no GLUE task 'sst'; did you mean 'sst2'?"),
        (["task=[cola,sst]"], "task: there is no GLUE task 'sst'; did you mean 'sst2'?"),
        (["eval.lrr=1"], "eval.lrr: unknown key; did you mean 'eval.lr'?"),
        (["+eval.new=1"], "eval.new: unknown key"),
        (["train.lr=1"], "train.lr: unknown key; did you mean 'eval.lr'?"),
        (["model=gpt2"], "model: unknown key"),
        (["eval.seeds=0,1"], "eval.seeds: a list of values to sweep over is not a value; write a list as [a,b]"),
        (["eval.seeds=[a]"], "eval.seeds: 'a' is not an integer"),
        (["run_name=a/b"], "run_name: 'a/b' is no folder name"),
        (["task=perplexity"], "eval.files: is empty; task=perplexity needs"),
        (["sweep=a/b", "run_name=a"], "sweep: 'a/b' is no folder name"),
        (["checkpoint=a,b"], "checkpoint: a list of values to sweep over is not a value"),
        (["-m", "eval.lr=1,2"], "checkpoint: is missing"),
    ],
)
def test_command_lines_that_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    company = ["checkpoint=model"] if args and args[0] != "-m" else []
    assert enter("est-eval", main, ["est-eval", *args, *company]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"est-eval: error: {line}") and err.count("\n") == 1
    assert tree(tmp_path) == {}


def test_the_real_command_refuses_before_anything_heavy_and_its_help_tells_all_keys(tmp_path: Path) -> None:
    path = poisoned_path(tmp_path / "poison")
    ended = command("est-eval", "task=cola,sst", "checkpoint=x", cwd=tmp_path, PYTHONPATH=path)
    assert ended.code == 2 and ended.err.startswith("est-eval: error: task: ") and ended.cpu_s < 2.0
    ended = command("est-eval", "--help", cwd=tmp_path, PYTHONPATH=path)
    assert (ended.code, ended.err) == (0, "") and ended.cpu_s < 2.0
    settings = ended.out.partition(SETTINGS)[2]
    assert set(re.findall(r"^  ([a-z_.]+)=", settings, re.MULTILINE)) == {*KEYS}
