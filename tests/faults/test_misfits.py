"""F3: a tokenizer, a model and a text that do not belong together are refused before the first step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from est_cli import eval as evaluation
from tests.faults.conftest import Tally
from tests.faults.refused import check_ended, told_by_door, unchanged
from tests.faults.size import either
from tests.lab.glue_folder import make_glue
from tests.lab.lab import Lab
from tests.lab.small_models import POSITIONS, byte_tokenizer, save
from tests.training.test_start import SHORT, STOP_AT_5

pytestmark = pytest.mark.row("F3")

Prepare = Callable[[Path], Sequence[str]]
"""Makes what is needed in a folder, and returns the overrides."""

TOKENS = 260
"""Of the byte-level tokenizer."""


def tokenizer(change: Callable[[dict], object] = lambda settings: None, name: str = "tokenizer.json") -> Prepare:
    """tokenizer=... of a folder with a byte-level one whose file of this name was changed."""

    def prepare(folder: Path) -> Sequence[str]:
        byte_tokenizer().save_pretrained(folder / "tokenizer")
        path = folder / "tokenizer" / name
        settings = json.loads(path.read_text())
        change(settings)
        path.write_text(json.dumps(settings))
        return ["tokenizer=./tokenizer"]

    return prepare


def without(name: str) -> Prepare:
    def prepare(folder: Path) -> Sequence[str]:
        overrides = tokenizer()(folder)
        (folder / "tokenizer" / name).unlink()
        return overrides

    return prepare


def given(*overrides: str) -> Prepare:
    return lambda folder: overrides


def hf(*overrides: str, change: Callable[[Path], object] = lambda folder: None, family: str = "gpt2") -> Prepare:
    """model=hf of a small model."""
    of_a_preset = ("model.vocab_size", "model.hidden_size", "model.num_layers", "model.num_heads", "model.max_pos")

    def prepare(folder: Path) -> Sequence[str]:
        change(save(folder / "model", family))
        unset = [f"~{key}" for key in of_a_preset]
        return ["model=hf", "model.name_or_path=./model", *overrides, *unset]

    return prepare


def edit(name: str, **changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("token*"):
        path.unlink()


CASES: dict[str, tuple[Prepare, int, str]] = {
    "larger than the model": (
        lambda folder: [*tokenizer()(folder), "model.vocab_size=259"],
        2,
        "tokenizer: './tokenizer' has 260 tokens, the model only 259",
    ),
    "an id beyond the model": (
        tokenizer(lambda found: found["model"]["vocab"].update(far=300)),
        2,
        "tokenizer: './tokenizer' has 301 tokens, the model only 300",
    ),
    "smaller than the bytes": (given("model.vocab_size=256"), 2, "model.vocab_size: is 256; a byte-level BPE needs"),
    "no end of text": (
        tokenizer(lambda found: found.pop("eos_token"), "tokenizer_config.json"),
        3,
        "tokenizer: './tokenizer' has no end-of-text token",
    ),
    "no tokenizer.json": (without("tokenizer.json"), 3, "tokenizer: './tokenizer' "),
    "damaged": (tokenizer(lambda found: found.pop("model")), 3, "tokenizer: './tokenizer' holds no tokenizer"),
    "no folder": (given("tokenizer=./nowhere"), 3, "tokenizer: './nowhere' is neither a folder nor"),
    "a file": (given("tokenizer=./corpus.jsonl"), 3, "tokenizer: './corpus.jsonl' is neither a folder nor"),
    "block longer than the positions": (given("train.seq_len=64"), 2, "train.seq_len: 64 is longer than the model's"),
    "heads that do not divide": (given("model.num_heads=5"), 2, "model.num_heads: 5 heads do not divide"),
    "a stage wider than the model": (given("stage.p_h=1.5"), 2, "stage.p_h: 1.5 is not a sampling rate"),
    "ends of too few layers": (
        given("sampling.keep_ends=true", "stage.p_l=0.25"),
        2,
        "sampling.keep_ends: p_l = 0.25 of 4 layers keeps only 1",
    ),
    "more text in a step than the block": (given("train.tokens_per_step=100"), 2, "train.tokens_per_step: 100 is not"),
    "positions of a foreign model": (
        hf(f"train.seq_len={POSITIONS * 2}", f"train.tokens_per_step={POSITIONS * 8}"),
        2,
        f"train.seq_len: {POSITIONS * 2} is longer than the model's {POSITIONS}",
    ),
    "foreign model without a tokenizer": (hf(change=no_tokenizer), 3, "tokenizer: './model' "),
    "foreign model with fewer tokens": (
        hf(change=edit("config.json", vocab_size=TOKENS - 1)), 2, "the model only 259",
    ),
    "foreign model of another width": (hf(change=edit("config.json", n_embd=64)), 2, "./model "),
    "foreign model of more layers": (hf(change=edit("config.json", n_layer=3)), 2, "./model "),
    "a family that is not supported": (hf(family="bert"), 2, "model.name_or_path: "),
    "no weights": (hf(change=lambda folder: (folder / "model.safetensors").unlink()), 2, "./model "),
}  # fmt: skip


@pytest.mark.parametrize("case", either(list(CASES), list(CASES)[::10]))
def test_what_does_not_belong_together(lab: Lab, tally: Tally, case: str) -> None:
    prepare, code, message = CASES[case]
    shutil.copy(lab.corpus, lab.folder / "corpus.jsonl")
    overrides = prepare(lab.folder)
    dropped = tuple(item[1:] for item in overrides if item.startswith("~"))
    kept = [item for item in overrides if not item.startswith("~")]
    arguments = [item for item in lab.arguments(*kept, "run_name=x") if not (dropped and item.startswith(dropped))]
    check_ended(lab.train(*arguments), code, message)
    assert not (lab.folder / "outputs").exists()
    tally(inputs=1)


def test_another_tokenizer_of_the_same_size_when_resumed(lab: Lab, tally: Tally) -> None:
    byte_tokenizer().save_pretrained(lab.folder / "tokenizer")
    assert lab.tiny("x", *SHORT, "tokenizer=./tokenizer", plants=[STOP_AT_5]).code == 143
    path = lab.folder / "tokenizer" / "tokenizer.json"
    found = json.loads(path.read_text())
    vocab = found["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    path.write_text(json.dumps(found))
    with unchanged(lab.at("x")):
        check_ended(lab.train("resume=outputs/x"), 4, "was made with another ")
    tally(inputs=1)


def test_ids_of_another_tokenizer(lab: Lab, tally: Tally) -> None:
    byte_tokenizer().save_pretrained(lab.folder / "tokenizer")
    (np.arange(2000) % 320).astype("<u2").tofile(lab.folder / "ids.bin")
    overrides = lab.arguments("dataset=tokens", "dataset.files=ids.bin", "tokenizer=./tokenizer", "run_name=x")
    check_ended(lab.train(*overrides), 3, "ids.bin: id 300 at position 300, but the model has 300 tokens")
    assert not (lab.folder / "outputs").exists()
    tally(inputs=1)


@pytest.mark.parametrize("task", either(["sst2", "perplexity"], ["sst2"]))
def test_a_model_to_evaluate_with_fewer_tokens_than_its_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tally: Tally, task: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "model", vocab_size=100)
    make_glue(tmp_path / "glue", names=["sst2"])
    (tmp_path / "a.txt").write_text("some text " * 100)
    what = {"sst2": ["eval.data_dir=glue"], "perplexity": ["eval.files=[a.txt]"]}[task]
    line = told_by_door(capfd, "est-eval", evaluation.main, ["checkpoint=model", f"task={task}", *what], 4)
    assert "model" in line and "260" in line and "100" in line
    assert not (tmp_path / "outputs").exists()
    tally(inputs=1)
