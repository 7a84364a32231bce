"""The sentence on top of a report: what it claims, and the very command for what is missing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from est_cli.config import RunConfig
from est_cli.config.command_line import parse
from est_cli.config.compose import composed
from est_cli.config.schema import leaves_of, plain, to_yaml
from est_cli.reporting.answer import FEW, HIGHER, LOWER, MISSING, OPEN, Answer, answers_of, headline
from est_cli.reporting.numbers import answer_row
from tests.lab.made_runs import groups_in, make_run, make_seeds


def answers_in(root: Path) -> list[Answer]:
    return answers_of(list(groups_in(root).values()))


def as_typed(folder: Path, *words: str) -> Path:
    """The run in `folder` has the settings of this command line."""
    line = parse(["est-train", *words], RunConfig)
    (folder / "config.yaml").write_text(to_yaml(composed("train", RunConfig, line.overrides, None).config))
    return folder


def test_what_was_saved_at_which_difference_and_how_sure(tmp_path: Path) -> None:
    make_seeds(tmp_path, "three_stage", [0.3, -0.25, 0.41])
    make_seeds(tmp_path, "dense", [0.0, 0.1, 0.05])
    (answer,) = answers_in(tmp_path)
    assert answer.found == OPEN and answer.commands == []
    assert answer.sentence.startswith("three_stage saved 37.5 % of block FLOPs, 30.0 % of all FLOPs and 25.0 % of step")
    assert "no difference in final validation loss from the dense twin is shown (95 % interval -0." in answer.sentence
    assert answer.sentence.endswith(", 3 seeds).")


@pytest.mark.parametrize(("shift", "found", "word"), [(0.3, HIGHER, "higher"), (-0.3, LOWER, "lower")])
def test_a_direction_only_where_the_interval_excludes_none(tmp_path: Path, shift: float, found: str, word: str) -> None:
    make_seeds(tmp_path, "three_stage", [shift, shift + 0.12, shift + 0.03])
    make_seeds(tmp_path, "dense", [0.0, 0.1, 0.05])
    (answer,) = answers_in(tmp_path)
    assert answer.found == found and f"0.3000 nats per token {word} than the dense twin's" in answer.sentence


def test_one_seed_is_not_enough_to_say(tmp_path: Path) -> None:
    make_run(tmp_path / "a", shift=0.5)
    make_run(tmp_path / "b", "dense")
    (answer,) = answers_in(tmp_path)
    assert answer.found == FEW and "not enough seeds to say (1 seed)" in answer.sentence
    assert "higher" not in answer.sentence and headline([answer], []) == answer.sentence


def test_no_saving_of_time_that_may_be_none(tmp_path: Path) -> None:
    make_seeds(tmp_path, "three_stage", [0.3, 0.25])
    make_seeds(tmp_path, "dense", [0.0, 0.1])
    slow = tmp_path / "three_stage-100-1" / "metrics.jsonl"
    slow.write_text(slow.read_text().replace('"step_s": 0.5', '"step_s": 0.9'))
    (answer,) = answers_in(tmp_path)
    assert "step time" not in answer.sentence and "30.0 % of all FLOPs" in answer.sentence


OPTIONS = (
    "model=llama_tiny", "stage.t1=0.1", "optim.lr=3e-4", "train.max_steps=100", "train.tokens_per_step=4096",
    "dataset=text", "dataset.files=['a b/x=1,y.txt',\"it's.txt\"]",
)  # fmt: skip


def test_the_command_asks_for_the_same_training_with_the_missing_seeds(tmp_path: Path) -> None:
    as_typed(make_run(tmp_path / "a"), *OPTIONS, "seed=5")
    (answer,) = answers_in(tmp_path)
    assert answer.found == MISSING and "needs a dense run of 100 steps" in answer.sentence
    mine, dense = map(shlex.split, answer.commands)
    assert mine[:3] == ["est-train", "-m", "seed=0,1"] and dense[:3] == ["est-train", "-m", "seed=0,1,5"]
    assert settings(mine[3:]) == settings(OPTIONS)
    without_stage = [word for word in OPTIONS if not word.startswith("stage.")]
    assert settings(dense[3:]) == settings([*without_stage, "scheduler=dense"])


def test_where_text_lies_is_told_on_the_terminal_alone(tmp_path: Path) -> None:
    places = ("tokenizer=/home/me/tok", "dataset.files=[secret.txt]", "dataset.validation_files=[./held/x.txt]")
    as_typed(make_run(tmp_path / "a"), "dataset=text", "optim.lr=0.01", *places)
    (answer,) = answers_in(tmp_path)
    for whole, shown in zip(answer.commands, answer.shown, strict=True):
        assert "secret.txt" in whole and "/home/me/tok" in whole and "held/x" in whole
        assert "optim.lr=0.01" in shown and "dataset=text" in shown and "tokenizer=..." in shown
        assert "secret" not in shown and "/home" not in shown and "held" not in shown
    assert answer_row(answer)["commands"] == answer.shown


def settings(words: Sequence[str]) -> dict[str, object]:
    line = parse(["est-train", *words], RunConfig)
    return leaves_of(plain(composed("train", RunConfig, line.overrides, None).config))


def test_presets_of_ones_own_and_odd_words_are_told_and_not_guessed(tmp_path: Path) -> None:
    make_run(tmp_path / "a", model__name="mine\n; rm -rf x")
    (answer,) = answers_in(tmp_path)
    assert all(command.startswith("# ") for command in answer.commands) and len(answer.commands) == 2


def test_a_twin_that_is_not_finished_is_named_as_what_it_is(tmp_path: Path) -> None:
    as_typed(make_run(tmp_path / "a", summary={"data_hash": "d"}), "train.max_steps=100")
    as_typed(make_run(tmp_path / "x=1", "dense", done=21), "train.max_steps=100", "scheduler=dense")
    (answer,) = answers_in(tmp_path)
    name = str(tmp_path / "x=1")
    assert f"the dense twin is not finished: {name} is at step 21 of 100" in answer.sentence
    resumes = [command for command in answer.commands if "resume=" in command]
    assert resumes == [f"est-train \"resume='{name}'\""]
    assert parse(shlex.split(resumes[0]), RunConfig).overrides == [f"resume='{name}'"]
    (seeds,) = [shlex.split(command)[2] for command in answer.commands if "scheduler=dense" in command]
    assert seeds == "seed=1,2"


def test_many_settings_are_counted_and_a_run_that_goes_on_is_told(tmp_path: Path) -> None:
    make_seeds(tmp_path, "dense", [0.0, 0.1, 0.05])
    make_seeds(tmp_path, "three_stage", [0.3, 0.41, 0.35])
    make_run(tmp_path / "one", stage__t1=0.1, shift=0.2)
    make_run(tmp_path / "goes-on", stage__t1=0.2, done=30)
    answers = answers_in(tmp_path)
    assert [answer.found for answer in answers] == [HIGHER, FEW, MISSING]
    told = headline(answers, [])
    assert told.startswith("3 settings against their dense twins: ") and "1 with not enough seeds to say" in told
    assert "goes-on is at step 30 of 100" in answers[-1].sentence
    assert headline([], []).startswith("Only dense runs are here")
