"""Tokenizers in the layouts of well-known models' tokenizer.json, trained on a few lines of text."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

SPECIAL = ["<unk>", "<s>", "</s>"]
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
TEXT = [
    "The quick brown fox, don't you know, jumps over 12,345 lazy dogs and runs home to the others.",
    "def walk(tree):\n    for node in tree:\n        if node.kind == 'leaf':\n            yield node\n\n\nclass T:\n",
    "短い文です。もう一つの文があります。 Äöü ééé naïve ﬁne ½ … “quoted” dash",
    "a  b   c    d\n\n\n\t\tx <tag> y\r\nz " + " ".join(str(n * n) for n in range(40)),
]
"""What the tokenizers know."""


def _trained(model: Any, trainer: Any, normalizer: Any, splitter: Any, taught_with: Any = None) -> Tokenizer:
    """`taught_with`: splits the text in training only, as SentencePiece does."""
    made = Tokenizer(model)
    if normalizer is not None:
        made.normalizer = normalizer
    made.pre_tokenizer = taught_with or splitter
    made.train_from_iterator(TEXT * 2, trainer)
    layout = json.loads(made.to_str())
    if splitter is None:
        layout["pre_tokenizer"] = None
        made = Tokenizer.from_str(json.dumps(layout))
    else:
        made.pre_tokenizer = splitter
    return made


def _sentencepiece_bpe(normalizer: Any, splitter: Any, added: list[str] | None = None) -> Tokenizer:
    """Llama 2, Mistral, Gemma: words are not split apart, what a space was is a mark before them."""
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, show_progress=False)
    model = models.BPE(unk_token="<unk>", fuse_unk=True)
    spaces = normalizers.Replace(" ", "▁")
    made = _trained(model, trainer, spaces, splitter, pre_tokenizers.Split(Regex("▁*[^▁\n]*"), "isolated"))
    layout = json.loads(made.to_str())
    layout["normalizer"] = None
    made = Tokenizer.from_str(json.dumps(layout))
    if normalizer is not None:
        made.normalizer = normalizer
    made.add_tokens([AddedToken(token, normalized=False) for token in added or []])
    return made


def _bytes_bpe(splitter: Any, normalizer: Any = None) -> Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|endoftext|>"], initial_alphabet=sorted(alphabet), show_progress=False
    )
    return _trained(models.BPE(), trainer, normalizer, splitter)


def _unigram(normalizer: Any, splitter: Any) -> Tokenizer:
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    return _trained(models.Unigram(), trainer, normalizer, splitter)


def _bert() -> Tokenizer:
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    model = models.WordPiece(unk_token="[UNK]")
    return _trained(model, trainer, normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer())


def _by_pattern(pattern: str) -> Any:
    split, level = pre_tokenizers.Split, pre_tokenizers.ByteLevel
    return pre_tokenizers.Sequence([split(Regex(pattern), "isolated"), level(add_prefix_space=False, use_regex=False)])


def _falcon() -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
        ]
    )


def _marked() -> Any:
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def _t5() -> Any:
    parts = [normalizers.NFKC(), normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")]
    return normalizers.Sequence(parts)


LAYOUTS: dict[str, Callable[[], Tokenizer]] = {
    "llama2": lambda: _sentencepiece_bpe(_marked(), None),
    "mistral": lambda: _sentencepiece_bpe(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "gemma": lambda: _sentencepiece_bpe(
        normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"), ["\n\n", "\n\n\n", "<tag>"]
    ),
    "llama3": lambda: _bytes_bpe(_by_pattern(GPT4)),
    "qwen": lambda: _bytes_bpe(_by_pattern(GPT4.replace("{1,3}", "")), normalizers.NFC()),
    "gpt2": lambda: _bytes_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "roberta": lambda: _bytes_bpe(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "falcon": lambda: _bytes_bpe(_falcon()),
    "t5": lambda: _unigram(_t5(), pre_tokenizers.Metaspace(prepend_scheme="always")),
    "t5_old": lambda: _unigram(
        normalizers.NFKC(), pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    ),
    "bert": _bert,
    "llama2_with_a_tag": lambda: _sentencepiece_bpe(_marked(), None, ["<tag>"]),
}
"""By the model that has such a layout; `t5` with NFKC in the place of SentencePiece's own table."""

UNKNOWN: dict[str, Callable[[], Tokenizer]] = {
    "whole_patterns": lambda: _bytes_bpe(
        pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.Replace(Regex("<[^>]*>"), "")
    ),
    "unsplit_unigram": lambda: _unigram(None, pre_tokenizers.Metaspace(split=False)),
}
"""Those whose documents cannot be cut."""


@cache
def tokenizer(name: str) -> Tokenizer:
    """One of LAYOUTS or UNKNOWN, that takes all text as plain text."""
    made = (LAYOUTS | UNKNOWN)[name]()
    made.encode_special_tokens = True
    return made
