"""Tokenizers that are made to take all time or memory: one line, exit code 3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from est_cli.common.errors import DataError
from est_cli.data import load_corpus
from est_cli.data.tokens import evaluated, token_cache
from est_cli.data.tokens.cuts import is_tame
from est_cli.data.tokens.evaluated import try_tokenizer
from tests.lab.corpora import files, write_jsonl
from tests.lab.tokenizer_layouts import LAYOUTS, tokenizer

END = "</s>"


def save(folder: Path, normalizer: Any = None, splitter: Any = None) -> str:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({token: number for number, token in enumerate([END, *alphabet])}, []))
    if normalizer is not None:
        made.normalizer = normalizer
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer = level if splitter is None else pre_tokenizers.Sequence([splitter, level])
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END).save_pretrained(folder / "tokenizer")
    return str(folder / "tokenizer")


def told(folder: Path, name: str, text: str, workers: int = 1) -> str:
    path = write_jsonl(folder / "a.jsonl", [text + str(number) for number in range(4)])
    with pytest.raises(DataError) as caught:
        load_corpus(files(path, num_workers=workers), name, 300, folder / "data")
    kept = [place for place in (folder / "data").glob("*/tokens.bin") if not place.parent.name.startswith(".tmp")]
    assert not kept
    return str(caught.value)


@pytest.mark.slow
def test_a_normalizer_that_blows_text_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "LIMIT_BYTES", 600_000_000)
    name = save(tmp_path, normalizers.Replace("x", "x" * 100_000))
    assert told(tmp_path, name, "x" * 20_000) == (
        "tokenizer: makes so much of a text that 0.6 GB of memory are not enough"
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_regular_expression_that_gives_up(tmp_path: Path, workers: int, capfd: pytest.CaptureFixture[str]) -> None:
    name = save(tmp_path, splitter=pre_tokenizers.Split(Regex("(x+x+)+y"), "isolated"))
    assert told(tmp_path, name, "x" * 3000, workers).startswith(
        "tokenizer: cannot read a text (Onig: Regex search error"
    )
    assert "panicked" not in capfd.readouterr().err


@pytest.mark.slow
def test_one_that_takes_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "LIMIT_S", 0.5)
    name = save(tmp_path, splitter=pre_tokenizers.Split(Regex("(x+x+)+y"), "isolated"))
    message = told(tmp_path, name, "xxxxxxxxxxxxxxxxxxxx " * 20_000)
    assert message == "tokenizer: takes more than 0.5 s of CPU time for a short text"


@pytest.mark.slow
def test_a_trial_before_this_process_reads_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splitter = pre_tokenizers.Split(Regex("(x+x+)+y"), "isolated")
    made = PreTrainedTokenizerFast.from_pretrained(save(tmp_path, splitter=splitter))
    try_tokenizer(made, ["a text", "another"])
    with pytest.raises(DataError, match=r"^tokenizer: cannot read a text \(Onig"):
        try_tokenizer(made, ["x" * 3000])
    monkeypatch.setattr(evaluated, "load_evaluated", lambda *args: pytest.fail("it is tame"))
    try_tokenizer(PreTrainedTokenizerFast.from_pretrained(save(tmp_path)), ["a text"])


def test_which_tokenizers_need_no_limits() -> None:
    tame = {name for name in LAYOUTS if is_tame(tokenizer(name))}
    assert tame >= {"llama2", "mistral", "gemma", "gpt2", "roberta", "bert", "t5_old"}
    assert not tame & {"llama3", "qwen", "falcon", "t5"}, "regular expressions of their own"


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Replace("x", "x" * 1000),
        normalizers.Sequence([normalizers.Replace("x", "x" * 40)] * 3),
        normalizers.Prepend("x" * 1000),
        normalizers.Replace(Regex("x"), ""),
    ],
)
def test_which_need_them(normalizer: Any) -> None:
    made = Tokenizer(models.BPE())
    made.normalizer = normalizer
    assert not is_tame(made)
