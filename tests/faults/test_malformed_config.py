"""F1: every key of every command, wrong in every way; contradictions, broken files and noise.

Told in one line with exit code 2 that names the key; nothing is written, and nothing heavy is imported.
"""

from __future__ import annotations

import random
import sys
import time
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from est_cli import analyze, plan, train
from est_cli import eval as evaluation
from est_cli.common.errors import ConfigError
from est_cli.config import AnalyzeConfig, EvalConfig, PlanConfig, RunConfig
from est_cli.config.groups import CONF
from est_cli.config.setting import Setting, settings_of
from tests.analysis import test_settings as analyze_settings
from tests.config import test_checks, test_compose
from tests.evaluation import test_settings as eval_settings
from tests.faults.conftest import Tally
from tests.faults.refused import Main, check_line, told_by_door, unchanged
from tests.faults.size import either, only_full
from tests.lab.commands import accepted, command, poisoned_path

pytestmark = pytest.mark.row("F1")

LIMIT_S = 2.0
"""Of processor time, as in the process of a user everything heavy would come on top of it."""


@dataclass(frozen=True)
class Command:
    """A command, its keys, and a value out of range for those that have a range."""

    main: Main
    keys: dict[str, Setting]
    out_of_range: dict[str, str]
    needs: dict[str, list[str]] = field(default_factory=dict)
    args: Sequence[str] = ()


TRAIN, PLAN = settings_of(RunConfig), settings_of(PlanConfig)
COMMANDS = {
    "est-train": Command(
        train.main,
        TRAIN,
        {key: value for key, value in test_compose.OUT_OF_RANGE.items() if key in TRAIN},
        test_compose.NEEDS,
    ),
    "est-plan": Command(
        plan.main,
        {key: hint for key, hint in PLAN.items() if key not in TRAIN},
        {key: value for key, value in test_compose.OUT_OF_RANGE.items() if key not in TRAIN},
    ),
    "est-eval": Command(
        evaluation.main, settings_of(EvalConfig), eval_settings.OUT_OF_RANGE, args=("checkpoint=model",)
    ),
    "est-analyze": Command(
        analyze.main,
        settings_of(AnalyzeConfig),
        analyze_settings.OUT_OF_RANGE,
        args=("checkpoint=model", "analysis=flatness"),
    ),
}
KEYS = [(name, key) for name, found in COMMANDS.items() for key in found.keys]
SOME_KEYS = either(KEYS, KEYS[::12])


def refused(capfd: pytest.CaptureFixture[str], name: str, *args: str) -> str:
    """What the command says, with exit code 2, soon, and with nothing changed in the current folder."""
    begin = time.process_time()
    with unchanged(Path.cwd()):
        line = told_by_door(capfd, name, COMMANDS[name].main, args, 2)
    assert time.process_time() - begin < LIMIT_S
    return line


@pytest.fixture(autouse=True)
def in_a_folder_with_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it is looked at before anything heavy is imported; what would be accepted is not run, but fails."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for name in ("training.build", "evaluation.run_evaluation", "analysis.run_analysis", "planning"):
        monkeypatch.setitem(sys.modules, f"est_cli.{name}", None)


def given(name: str, key: str, value: str) -> list[str]:
    """The command line with `key=value`, and what gives the key a meaning."""
    found = COMMANDS[name]
    args = [*(arg for arg in found.args if not arg.startswith(f"{key}=")), *found.needs.get(key, [])]
    return [*(arg for arg in args if not arg.startswith(f"{key}=")), f"{key}={value}"]


@pytest.mark.parametrize(("name", "key"), SOME_KEYS)
def test_typos_and_new_keys(capfd: pytest.CaptureFixture[str], tally: Tally, name: str, key: str) -> None:
    typo, group = key[:-2] + key[-1], key.rpartition(".")[0]
    for prefix in ("", "+", "++"):
        assert refused(capfd, name, f"{prefix}{typo}=1").startswith(f"{typo}: unknown key; did you mean '")
    for new in (f"{key}.new", f"{group}.qqqqqqq".lstrip(".")):
        assert refused(capfd, name, f"+{new}=1").startswith(f"{new}: unknown key; ")
    assert refused(capfd, name, f"+{key}=1") == f"{key}: is known; write it without the +"
    assert refused(capfd, name, f"~{key}").startswith(f"{key}: settings cannot be removed")
    tally(inputs=7)


@pytest.mark.parametrize(("name", "key"), SOME_KEYS)
def test_wrong_types_ranges_and_null(capfd: pytest.CaptureFixture[str], tally: Tally, name: str, key: str) -> None:
    found, wrong = COMMANDS[name], [] if key == "task" else ["1,2"]
    known = found.keys[key]
    wrong.append(test_compose.wrong_type(known))
    if type(None) not in test_compose.parts(known.hint):
        wrong.append("null")
    if key in found.out_of_range:
        wrong.append(found.out_of_range[key])
    for value in wrong:
        line = refused(capfd, name, *given(name, key, value))
        assert line.startswith(f"{key}: ") or f"; also {key}: " in line, (value, line)
    tally(inputs=len(wrong))


def contradictions() -> Iterator[tuple[str, list[str], str]]:
    for args, changes, message in test_checks.CONTRADICTIONS:
        name = "est-plan" if "target_saving" in changes else "est-train"
        values = {key: "inf" if value == float("inf") else value for key, value in changes.items()}
        yield name, [*args, *(test_compose.as_override(key, value) for key, value in values.items())], message


SOME_CONTRADICTIONS = list(contradictions())[:: either(1, 9)]


@pytest.mark.parametrize(("name", "args", "message"), SOME_CONTRADICTIONS)
def test_contradictions(
    capfd: pytest.CaptureFixture[str], tally: Tally, name: str, args: list[str], message: str
) -> None:
    assert refused(capfd, name, *args).startswith(message)
    tally(inputs=1)


GLOBAL = "# @package _global_\n"
RECIPES = {
    "flow left open": "a: [1\nb: 2",
    "tab": "\ttab: 1",
    "NUL": "a: \x00",
    "bell": "a: \x07",
    "not UTF-8": b"a: \xff\xfe",
    "UTF-16": "a: 1\n".encode("utf-16"),
    "indent": "a:\n    b: 1\n  c: 2\n",
    "no colon": f"{GLOBAL}train\n",
    "two documents": f"{GLOBAL}seed: 1\n---\nseed: 2\n",
    "key twice": f"{GLOBAL}seed: 1\nseed: 2\n",
    "unknown tag": f"{GLOBAL}seed: !new 1\n",
    "python object": f"{GLOBAL}seed: !!python/object/apply:os.mkdir [canary]\n",
    "python name": f"{GLOBAL}seed: !!python/name:os.mkdir\n",
    "alias without anchor": f"{GLOBAL}seed: *there\n",
    "anchor left out": f"{GLOBAL}seed: &\n",
    "typo": f"{GLOBAL}train: {{max_stepz: 3}}",
    "typo of a group": f"{GLOBAL}trian: {{max_steps: 3}}",
    "number for a group": f"{GLOBAL}train: 3",
    "list for a group": f"{GLOBAL}train: [1]",
    "null for a group": f"{GLOBAL}train: null",
    "word for a number": f"{GLOBAL}train: {{max_steps: some}}",
    "group for a number": f"{GLOBAL}train: {{max_steps: {{a: 1}}}}",
    "target": f"{GLOBAL}_target_: os.mkdir",
    "target within": f"{GLOBAL}model: {{_target_: os.mkdir, path: canary}}",
    "partial": f"{GLOBAL}model: {{_partial_: true}}",
    "environment": f"{GLOBAL}run_name: ${{oc.env:HOME}}",
    "decoded": f"{GLOBAL}run_name: ${{oc.decode:a}}",
    "unknown resolver": f"{GLOBAL}run_name: ${{evil:a}}",
    "unknown interpolation": f"{GLOBAL}run_name: ${{no.where}}",
    "endless interpolation": f"{GLOBAL}run_name: ${{tokenizer}}\ntokenizer: ${{run_name}}",
    "itself": f"{GLOBAL}run_name: ${{run_name}}",
    "half an interpolation": f"{GLOBAL}run_name: ${{seed",
    "unknown option": f"{GLOBAL}defaults: [{{override /model: qqq}}]",
    "unknown group": f"{GLOBAL}defaults: [{{qqq: zzz}}]",
    "unknown file": f"{GLOBAL}defaults: [zzz]",
    "defaults a number": f"{GLOBAL}defaults: 3",
    "defaults of itself": f"{GLOBAL}defaults: [mine]",
    "a way out": f"{GLOBAL}defaults: [../../../etc/passwd]",
    "out of range": f"{GLOBAL}train: {{seq_len: 1}}",
    "no package": "train: {seq_len: 64}",
    "a list": "- 1",
    "a word": "seed",
    "deep": GLOBAL + "seed: " + "[" * 2000,
    "long": f"{GLOBAL}run_name: {'x' * 300}",
}


@pytest.mark.parametrize(
    "case", either(list(RECIPES), ["tab", "python object", "defaults a number", "defaults of itself"])
)
def test_recipes(capfd: pytest.CaptureFixture[str], tally: Tally, case: str) -> None:
    text = RECIPES[case]
    write_recipe(text if isinstance(text, bytes) else text.encode())
    refused(capfd, "est-train", "--config-dir=.", "experiment=mine")
    assert not Path("canary").exists()
    tally(inputs=1)


def write_recipe(data: bytes) -> None:
    Path("experiment").mkdir(exist_ok=True)
    Path("experiment/mine.yaml").write_bytes(data)


def accepted_or_refused(*args: str) -> bool:
    """Whether it was refused, in one line; whatever else it raises is a bug of ours."""
    try:
        accepted(*args)
    except ConfigError as error:
        check_line(" ".join(str(error).split()))
        return True
    return False


GOOD = ("seed=3", "optim.lr=3e-4", "stage.t1=0.5", "dataset.files=[a.txt,b.txt]", "run_name=a", "model=llama_tiny",
        "train.micro_batch=[4,2,1]", "tracking.tags=[a,'b c']", "experiment=paper_gpt2", "train.compile=null",
        "stage.rates=[[1,1,1]]")  # fmt: skip
SIGNS = "[]{}()=,:'\"$\\~+@/. \t\n\0é%#&*!|>-_0aA"


def noisy(rng: random.Random, text: str, signs: Sequence[str]) -> str:
    """Some characters are replaced, put in or left out."""
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(("", rng.choice(signs))) + text[at + rng.randrange(2) :]
    return text


def test_noise_on_the_command_line(tally: Tally) -> None:
    rng, count = random.Random(0), either(200, 20)
    refusals = sum(accepted_or_refused(noisy(rng, rng.choice(GOOD), SIGNS)) for _ in range(count))
    assert refusals > count / 2
    tally(inputs=count)


def test_noise_in_a_recipe(tally: Tally) -> None:
    rng, count = random.Random(0), either(60, 6)
    text = (CONF / "experiment" / "paper_gpt2.yaml").read_text()
    refusals = 0
    for _ in range(count):
        write_recipe(noisy(rng, noisy(rng, text, SIGNS), SIGNS).encode())
        refusals += accepted_or_refused("--config-dir=.", "experiment=mine")
    assert 0 < refusals < count
    tally(inputs=count)


LINES: list[tuple[str, list[str]]] = [
    *((name, ["qqqqqqq"]) for name in COMMANDS),
    *((name, ["+qqqqqqq=1"]) for name in COMMANDS),
    *((name, ["launch.qqqqqqq=1"]) for name in ("est-train", "est-eval", "est-analyze")),
    ("est-train", ["run_name=${oc.env:HOME}"]),
    ("est-train", ["--config-dir=.", "experiment=mine"]),
    ("est-train", ["model=gpt3"]),
    ("est-train", ["train.seq_len=1"]),
    ("est-eval", ["checkpoint=nowhere/at/all"]),
    ("est-eval", ["checkpoint=model", "task=[qqq]"]),
    ("est-analyze", ["checkpoint=model", "analysis=qqq"]),
]


@only_full
@pytest.mark.parametrize(("name", "args"), LINES)
def test_the_real_commands(tmp_path: Path, tally: Tally, name: str, args: list[str]) -> None:
    """Without torch, transformers and the like, which raise here where they are imported."""
    poison = poisoned_path(tmp_path / "poison")
    place = tmp_path / "place"
    (place / "experiment").mkdir(parents=True)
    (place / "experiment" / "mine.yaml").write_text("a: [1")
    with unchanged(place):
        ended = command(name, *args, cwd=place, PYTHONPATH=poison)
    assert (ended.code, ended.out) == (2, ""), ended.err
    assert ended.err.startswith(f"{name}: error: ") and ended.err.count("\n") == 1
    assert ended.cpu_s < 2 * LIMIT_S, "both cores are busy with this suite"
    tally(inputs=1)


def test_the_generator_sees_all_keys_and_every_kind_of_type() -> None:
    """Or a kind of key would never be given a wrong type."""
    assert len(KEYS) > 150 and set(TRAIN) < set(PLAN)
    assert sum(len(found.out_of_range) for found in COMMANDS.values()) > 120
    hints = [known.hint for found in COMMANDS.values() for known in found.keys.values()]
    kinds: dict[str, Callable[[Any], bool]] = {
        "list": lambda hint: typing.get_origin(hint) is list,
        "union": lambda hint: typing.get_origin(hint) in (typing.Union, types.UnionType),
        "enum": test_compose.is_enum,
        "number": lambda hint: hint in (int, float),
        "switch": lambda hint: hint is bool,
        "word": lambda hint: hint is str,
    }
    assert all(any(of_kind(hint) for hint in hints) for of_kind in kinds.values())
