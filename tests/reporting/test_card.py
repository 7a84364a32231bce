"""The model card: what it says of data, tokenizer and licence, and what it never says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.numpy import save_file

from est_cli.reporting.card import Score, is_edited, model_card
from est_cli.reporting.runs import read_run
from tests.lab.made_runs import make_run


def card_of(folder: Path, license_id: str | None = None, scores: tuple[Score, ...] = (), **settings: Any) -> str:
    make_run(folder, **settings)
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    save_file({"a": np.zeros((3, 500)), "b": np.zeros(1000)}, model / "model.safetensors")
    return model_card(read_run(folder), model, license_id, scores)


def head_of(card: str) -> dict[str, Any]:
    return ModelCard(card).data.to_dict()


def row(card: str, name: str) -> str:
    return next(line for line in card.splitlines() if line.startswith(f"| {name} |"))


def test_data_sets_of_the_hub_are_told_with_their_commits_and_folders_are_not(tmp_path: Path) -> None:
    local = str(tmp_path / "secret-folder")
    card = card_of(
        tmp_path / "x",
        dataset__source="hub",
        dataset__hub_ids=["org/web", local, "plain"],
        dataset__revision=["a" * 40, "-", "b" * 40],
        dataset__weights=[0.5, 0.25, 0.25],
    )
    assert head_of(card)["datasets"] == ["org/web", "plain"]
    assert f"(https://huggingface.co/datasets/org/web) at commit `{'a' * 40}`, split `train`" in row(card, "data")
    assert "; a local folder; mixed 0.5 : 0.25 : 0.25 |" in row(card, "data")
    assert "secret-folder" not in card and str(tmp_path) not in card


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"dataset__source": "files", "dataset__files": ["/secret/a.txt"]}, "| data | local files |"),
        ({"dataset__source": "tokens", "dataset__files": ["/secret/a.bin"]}, "| data | local files of token ids |"),
        ({"dataset__source": "files", "dataset__files": ["https://secret/a"]}, "files read from other servers"),
        ({"tokenizer": "/secret/tok"}, "| tokenizer | of a local folder |"),
        ({"tokenizer": "org/tok", "tokenizer_revision": "c" * 40}, f"| tokenizer | `org/tok` at commit `{'c' * 40}` |"),
        (
            {"model__family": "hf", "model__pretrained": True, "model__name_or_path": "/secret/m"},
            "trained on from a local model",
        ),
        (
            {"model__family": "hf", "model__pretrained": True, "model__name_or_path": "org/base"},
            "trained on from `org/base`",
        ),
    ],
)
def test_nothing_local_is_named(tmp_path: Path, settings: dict[str, Any], told: str) -> None:
    card = card_of(tmp_path / "x", **settings)
    assert told in card and "secret" not in card
    assert head_of(card).get("base_model") == ("org/base" if "org/base" in card else None)


def test_a_fork_says_which_steps_its_data_and_rate_are_not_of(tmp_path: Path) -> None:
    card = card_of(tmp_path / "x", fork="/secret/a@1200")
    assert "1,200, of another run" in row(card, "first steps") and "secret" not in card
    assert "| first steps |" not in card_of(tmp_path / "y")


def test_parameters_licence_and_scores(tmp_path: Path) -> None:
    score = Score("sst2", "score", 0.875, "fine-tuned", "(dev set, mean of 3 seeds, sd 0.0100)")
    card = card_of(tmp_path / "x", "cc-by-4.0", (score,))
    assert "A `llama` language model of 0.0 M parameters" in card  # 2,500
    assert "| sst2 | score | 0.8750 | fine-tuned (dev set, mean of 3 seeds, sd 0.0100) |" in card
    head = head_of(card)
    assert head["license"] == "cc-by-4.0" and head["metrics"] == ["loss", "score"]
    last = head["model-index"][0]["results"][-1]
    assert last["task"]["type"] == "text-classification" and last["metrics"][0]["value"] == 0.875
    without = card_of(tmp_path / "y")
    assert "| arc | acc | 0.5000 | zero-shot |" in card_of(tmp_path / "z", summary={"tasks": {"arc/acc": 0.5}})
    assert "license" not in head_of(without) and "No licence was chosen for this model" in without


def test_dense_training_is_not_called_est(tmp_path: Path) -> None:
    assert "Evolving Subnetwork Training (EST)" in card_of(tmp_path / "x")
    assert "with est, the schedule `dense`" in card_of(tmp_path / "y", scheduler="dense")


def test_words_of_others_cannot_break_the_table(tmp_path: Path) -> None:
    card = card_of(tmp_path / "x", summary={"hardware": "a | b\n<script>[x](y)", "versions": {"torch": "1 | 2"}})
    assert row(card, "hardware").count("|") == 3 and "<script>" not in card and "](y)" not in card


def test_an_edit_is_seen(tmp_path: Path) -> None:
    card = card_of(tmp_path / "x")
    assert not is_edited(card)
    for edited in (card.replace("# x", "# y"), card + "more\n", "", card.replace("<!--", "<!--  ")):
        assert is_edited(edited)
