"""Long documents: their parts' ids are those of the whole."""

from __future__ import annotations

import random
from itertools import chain

import pytest

from est_cli.common.errors import DataError
from est_cli.data.text.pieces import Piece
from est_cli.data.tokens import cuts
from est_cli.data.tokens.cuts import Cutter
from tests.lab.tokenizer_layouts import LAYOUTS, TEXT, UNKNOWN, tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "PART_CHARACTERS", 700)


def document(seed: int, length: int = 12_000) -> str:
    """Lines of TEXT in a random order, with odd things between them."""
    draw = random.Random(seed)
    odd = ["\n", "  ", "\n\n\n", "\n    ", " \n", "\t", "\u3000", "\u200b", "e\u0301", "<tag>", "<s>", "1" * 90]
    odd += ["x" * 40, "。。", "</s> ", "'s", " " * 70, "\r\n"]
    words = [word for line in TEXT for word in line.split(" ")]
    found = ""
    while len(found) < length:
        found += draw.choice(odd) if draw.random() < 0.15 else draw.choice(words) + draw.choice([" ", " ", "\n", ""])
    return found


def ids_of_parts(name: str, text: str, step: int) -> tuple[list[int], int]:
    """The ids of `text`, which comes in pieces of `step` characters, and in how many parts it was cut."""
    made = tokenizer(name)
    cutter = Cutter(made)
    pieces = [Piece(text[at : at + step], at + step >= len(text)) for at in range(0, len(text), step)]
    parts = list(cutter.parts((piece, False) for piece in pieces))
    assert "".join(part.text for part in parts) == text
    assert [part.first for part in parts] == [True] + [False] * (len(parts) - 1)
    assert [part.ends for part in parts] == [False] * (len(parts) - 1) + [True]
    readers = [made if part.first else cutter.rest for part in parts]
    ids = [reader.encode(part.text, add_special_tokens=False).ids for reader, part in zip(readers, parts, strict=True)]
    return list(chain.from_iterable(ids)), len(parts)


@pytest.mark.parametrize("name", LAYOUTS)
def test_ids_are_those_of_the_whole_document(name: str) -> None:
    for seed in range(1 if "tag" in name else 4):
        text = document(seed)
        ids, parts = ids_of_parts(name, text, step=len(text) if seed % 2 else 1500)
        assert ids == tokenizer(name).encode(text, add_special_tokens=False).ids
        assert parts > (1 if "tag" in name else 10), "it was not cut"


@pytest.mark.parametrize("name", UNKNOWN)
def test_where_nothing_is_known_the_document_stays_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = document(0, 3000)
    ids, parts = ids_of_parts(name, text, step=1000)
    assert ids == tokenizer(name).encode(text, add_special_tokens=False).ids
    assert parts == 1
    monkeypatch.setattr(cuts, "WHOLE_CHARACTERS", 2000)
    with pytest.raises(DataError, match=r"^tokenizer: the document that begins .* has more than 2,000 characters"):
        ids_of_parts(name, text, step=1000)


@pytest.mark.parametrize("name", ["gpt2", "llama2"])
def test_a_word_without_end_stays_whole(name: str) -> None:
    text = "one two " + "x" * 9000 + " three four" * 200
    ids, parts = ids_of_parts(name, text, step=2000)
    assert ids == tokenizer(name).encode(text, add_special_tokens=False).ids
    assert 3 <= parts < 8


def test_a_token_over_words_forbids_the_cut() -> None:
    """Where text is not split into words, a token that holds two of them may be there a part further on, too."""
    made = tokenizer("llama2")
    cutter = Cutter(made)
    assert cutter._may_cut("The quick", " brown fox")
    vocabulary = {**made.get_vocab(), "ick▁br": 9999}
    cutter._joins = vocabulary  # type: ignore[misc]
    assert not cutter._may_cut("The quick", " brown fox")
