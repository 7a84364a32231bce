"""Every key of est-analyze: typos, types, ranges, what has no meaning where, and the documents."""

from __future__ import annotations

import copy
import re
import shlex
import typing
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import yaml

from est_cli.analyze import main
from est_cli.cli.entry import enter
from est_cli.cli.help import SETTINGS
from est_cli.cli.launch.handover import load_job, save_job
from est_cli.common.errors import ConfigError
from est_cli.config import Analysis, AnalyzeConfig, AnalyzeSettings, Parameters, Part, SamplingConfig
from est_cli.config.analyze import READS, RatesConfig, check_analyze
from est_cli.config.compose import checked_overrides
from est_cli.config.groups import groups_of
from est_cli.config.schema import leaves_of, plain, typed
from est_cli.config.setting import settings_of
from tests.lab.commands import command, poisoned_path, tree, typed_in
from tests.lab.settings import out_of_range

KEYS = settings_of(AnalyzeConfig)

OUT_OF_RANGE = out_of_range(AnalyzeConfig) | {
    "checkpoint": "null",
    "baseline": "other",
    "seed": "-1",
    "dataset.files": "[a.txt]",
    "dataset.validation_files": "[a.txt]",
    "dataset.hub_ids": "[a/b]",
    "dataset.weights": "[0.0]",
    "dataset.exclude": "[no value]",
    "dataset.validation_fraction": "0.0",
    "dataset.token_dtype": "int64",
    "dataset.num_workers": "0",
    "stage.p_h": "0.0",
    "stage.p_m": "1.1",
    "stage.p_l": "nan",
    "sampling.per_layer": "false",
    "sampling.keep_ends": "true",
    "sampling.protect": "[0]",
    "analyze.tokens": "1",
    "analyze.seq_len": "1",
    "analyze.batch": "0",
    "analyze.probes": "0",
    "analyze.transitions": "true",
    "analyze.trace": "true",
    "analyze.directions": "0",
    "analyze.points": "4",
    "analyze.radius": "0.0",
    "analyze.draws": "1",
    "analyze.rates": "[1.0]",
    "analyze.units": "0",
    "analyze.steps": "0",
    "analyze.cooldown": "-1",
    "analyze.repeats": "1",
    "analyze.layer_parts": "-1",
    "launch.num_processes": "0",
    "launch.strategy": "fsdp",
    "launch.reduce_dtype": "bf16",
    "launch.gather_dtype": "bf16",
    "launch.shard_size": "2",
    "launch.reshard_after_forward": "true",
    "launch.sharded_checkpoints": "true",
    "launch.timeout_s": "0",
    "launch.check_every": "5",
}
"""`trace`, `transitions` and what is of sampling have no meaning under the analysis that is tried below."""


def composed(*args: str) -> AnalyzeConfig:
    config: AnalyzeConfig = typed_in("analyze", *args)[0]
    return config


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    return plain(composed("checkpoint=model", "analysis=flatness"))


def refused(good: dict[str, Any], key: str, value: str) -> str:
    changed = copy.deepcopy(good)
    group, _, name = key.rpartition(".")
    (changed[group] if group else changed)[name] = yaml.safe_load(value)
    with pytest.raises(ConfigError) as error:
        check_analyze(typed(changed, AnalyzeConfig))
    return str(error.value)


def is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


@pytest.mark.slow
@pytest.mark.parametrize("key", OUT_OF_RANGE)
def test_out_of_range(good: dict[str, Any], key: str) -> None:
    check_analyze(typed(copy.deepcopy(good), AnalyzeConfig))
    assert refused(good, key, OUT_OF_RANGE[key]).startswith(f"{key}: ")


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_a_wrong_type_is_told_with_the_right_one(good: dict[str, Any], key: str) -> None:
    hint = KEYS[key].hint
    lists = list in map(typing.get_origin, (hint, *typing.get_args(hint)))
    wrong = "{a: 1}" if lists else "[1,2]" if str in (hint, *typing.get_args(hint)) else "much"
    message = refused(good, key, wrong)
    assert message.startswith(f"{key}: ") and " is not " in message


def test_the_file_says_what_the_dataclasses_say() -> None:
    files, classes = leaves_of(plain(composed())), leaves_of(plain(AnalyzeConfig()))
    assert {key for key in files if files[key] != classes[key]} == {"dataset.validation_fraction"}
    assert files.keys() == classes.keys()


def test_a_checked_configuration_is_handed_over_as_it_is(tmp_path: Path) -> None:
    config = composed("checkpoint=model", "analysis=compare", "baseline=other", "stage.p_h=0.25", "dataset=text")
    save_job("analyze", config, None, tmp_path)
    command, tree, continued = load_job(tmp_path)
    assert (command, typed(tree, AnalyzeConfig), continued) == ("analyze", config, None)


@pytest.mark.parametrize("analysis", Analysis)
def test_what_an_analysis_does_not_read_is_refused(analysis: Analysis) -> None:
    """Every key is read somewhere, and told where it is not."""
    assert set().union(*READS.values()) == vars(AnalyzeSettings()).keys()
    changes = {
        **{"tokens": 9, "seq_len": 9, "batch": 9, "probes": 9, "directions": 9, "draws": 9, "points": 9, "radius": 0.5},
        **{"rates": [0.25], "units": 9, "steps": 9, "cooldown": 9, "repeats": 9, "layer_parts": 9},
        **{"part": Part.training, "parameters": Parameters.mlp, "transitions": True, "trace": True},
    }
    baseline = "other" if analysis is Analysis.compare else None
    settings: dict[str, Any] = {"checkpoint": "model", "analysis": analysis, "baseline": baseline}
    for key, value in changes.items():
        config = AnalyzeConfig(**settings, analyze=AnalyzeSettings(**{key: value}))  # type: ignore[arg-type]
        if key in READS[analysis]:
            check_analyze(config)
            continue
        with pytest.raises(ConfigError, match=rf"^analyze\.{key}: has no meaning under analysis={analysis.value}"):
            check_analyze(config)
    for group in ({"stage": RatesConfig(p_h=0.25)}, {"sampling": SamplingConfig(kv_groups="within")}):
        config = AnalyzeConfig(**settings, **group)  # type: ignore[arg-type]
        if analysis is Analysis.structural_dropout or (
            "sampling" in group and analysis in (Analysis.draws, Analysis.prices)
        ):
            check_analyze(config)
        else:
            with pytest.raises(ConfigError, match="it goes with structural_dropout"):
                check_analyze(config)


def test_a_comparison_with_traces_reads_their_settings() -> None:
    needs = ["checkpoint=model", "baseline=other", "analysis=compare", "analyze.probes=3", "analyze.parameters=mlp"]
    check_analyze(composed(*needs, "analyze.trace=true"))
    with pytest.raises(ConfigError, match=r"analyze\.probes: .*; it needs analyze\.trace=true"):
        check_analyze(composed(*needs))


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ([], "checkpoint: is missing; give the folder of a model, such as outputs/NAME/model"),
        (["checkpoint=./nowhere"], "checkpoint: there is no folder ./nowhere"),
        (["checkpoint=m", "analysis=compare"], "baseline: is missing; analysis=compare needs a second checkpoint"),
        (["checkpoint=m", "analysis=compare", "baseline=./m"], "baseline: is the checkpoint itself"),
        (["checkpoint=m", "analysis=hessian"], "analysis: 'hessian' is not one of hessian_trace, flatness, compare"),
        (["checkpoint=m", "analyze.probe=3"], "analyze.probe: unknown key; did you mean 'analyze.probes'?"),
        (["checkpoint=m", "+analyze.new=3"], "analyze.new: unknown key"),
        (["checkpoint=m", "model=gpt2"], "model: unknown key"),
        (["-m", "checkpoint=m", "seed=1,2"], "--multirun: est-analyze takes one value of each key"),
        (["checkpoint=m", "run_name=a/b"], "run_name: 'a/b' is no folder name"),
        (["checkpoint=m", "dataset=text"], "dataset.files: is empty"),
        (["checkpoint=m", "analyze.transitions=true"], "checkpoint: m is no folder of a run with checkpoints"),
        (
            ["checkpoint=m", "analysis=structural_dropout", "stage.p_h=1", "stage.p_m=1", "stage.p_l=1"],
            "stage: all rates are 1, so nothing is sampled",
        ),
        (
            ["checkpoint=m", "analysis=structural_dropout", "sampling.ranks=independent"],
            "sampling.ranks: has no meaning here",
        ),
    ],
)
def test_command_lines_that_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert enter("est-analyze", main, ["est-analyze", *args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"est-analyze: error: {line}") and err.count("\n") == 1
    assert tree(tmp_path) == {}


def test_the_real_command_refuses_before_anything_heavy_and_its_help_tells_all_keys(tmp_path: Path) -> None:
    path = poisoned_path(tmp_path / "poison")
    ended = command("est-analyze", "checkpoint=./x", cwd=tmp_path, PYTHONPATH=path)
    assert ended.code == 2 and ended.err.startswith("est-analyze: error: checkpoint: ") and ended.cpu_s < 2.0
    ended = command("est-analyze", "--help", cwd=tmp_path, PYTHONPATH=path)
    assert (ended.code, ended.err) == (0, "") and ended.cpu_s < 2.0
    intro, _, settings = ended.out.partition(SETTINGS)
    assert set(re.findall(r"^  ([a-z_.]+)=", settings, re.MULTILINE)) == {*KEYS}
    assert intro and all(option in settings for option in groups_of(AnalyzeConfig, None)["dataset"])


def test_the_commands_of_the_document_can_be_typed() -> None:
    document = (Path(__file__).parents[2] / "docs" / "analyze.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"est-analyze [^`\n]*", document)
    given = [word for line in lines for word in shlex.split(line, comments=True)[1:] if "=" in word]
    assert {"analysis=flatness", "analysis=structural_dropout", "analyze.transitions=true"} <= set(given)
    checked_overrides(given, AnalyzeConfig, groups_of(AnalyzeConfig, None))
