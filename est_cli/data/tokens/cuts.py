"""Long documents in parts whose ids, one part behind the other, are those of the whole document.

Tokenising takes more than a hundred times the memory of a single text, so it must be cut. Where a tokenizer splits text
into words first, each word gets its ids by itself: a text may be cut between two words. Where it does not (Llama 2,
Gemma), a BPE never joins what no token of its vocabulary holds together. What a tokenizer puts before a text (a space)
it must not put before a part. A place is used if all of this holds there and if the ids around it are the same with and
without the cut; all parts of a tokenizer that are looked at read only the characters nearby (`_reads_nearby`).

A document that has no such place, or any document where that cannot be known of the tokenizer, is tokenised whole, up
to WHOLE_CHARACTERS.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from tokenizers.models import BPE

from est_cli.common.errors import DataError, is_panic, reason
from est_cli.data.text.pieces import Labelled

PART_CHARACTERS = 65_536
WHOLE_CHARACTERS = 8_000_000
"""A document that cannot be cut may have this many: they take some 1.5 GB while they become ids."""
CONTEXT = 512
"""Characters on each side of a place that are tokenised to see whether it may be one."""
NEARBY = 1024
TRIES = 100
"""Places that are looked at among PART_CHARACTERS."""

PLACES = re.compile(r"(?<=\S)(?= \S)|(?<=\S\n)(?=\S)|(?<=\w)(?=[^\w\s])|(?<=[^\w\s])(?=\w)")
"""Before a single space, behind the end of a line, beside a sign."""

NORMALIZERS = {
    "BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend",
    "Replace", "Sequence", "Strip", "StripAccents",
}  # fmt: skip
PRE_TOKENIZERS = {
    "BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation", "Sequence", "Split",
    "UnicodeScripts", "Whitespace", "WhitespaceSplit",
}  # fmt: skip
MAX_GROWTH = 100
"""A tame tokenizer's normalizers make a text at most so many times longer, beside what Unicode itself does."""
PATTERNS = {" {2,}", r"\s+"}
"""Regular expressions that normalizers replace: those of SentencePiece and CLIP."""

EMPTY: dict[str, Any] = {
    "added_tokens": [],
    "post_processor": None,
    "model": json.loads(Tokenizer(BPE()).to_str())["model"],
}
"""Takes the place of what knows the vocabulary."""

Layout = Mapping[str, Any]
"""A tokenizer.json, or a part of it."""


class Part(NamedTuple):
    """`first` and `ends`: the first and the last part of its document; `held`: out for validation."""

    text: str
    first: bool
    ends: bool
    held: bool


class Cutter:
    """Cuts documents for a tokenizer that takes all text as plain text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def parts(self, pieces: Iterator[Labelled]) -> Iterator[Part]:
        """Raises DataError for a document that has to be tokenised whole and is too long for it."""
        text, start, reached, first = "", 0, 0, True
        for piece, held in pieces:
            text, start, reached = text[start:] + piece.text, 0, reached - start
            limit = len(text) - (0 if piece.ends else CONTEXT)
            while len(text) - start > PART_CHARACTERS and reached < limit:
                stop = min(reached + PART_CHARACTERS, limit)
                place = self._place(text, reached, stop)
                reached = stop if place is None else place
                if reached - start > WHOLE_CHARACTERS:
                    raise DataError(_too_long(text[start:]))
                if place is not None:
                    yield Part(text[start:place], first, False, held)
                    start, first = place, False
            if piece.ends:
                yield Part(text[start:], first, True, held)
                text, start, reached, first = "", 0, 0, True

    @cached_property
    def rest(self) -> Tokenizer:
        """What reads the parts of a document behind its first: as the tokenizer itself, but puts nothing before them.

        Where text can hold tokens that were added to the vocabulary, some put it behind each of these as well: then it
        is the tokenizer itself, and only places where that makes no difference are used.
        """
        if any(not token["special"] for token in self._layout["added_tokens"]):
            return self._tokenizer
        parts = {key: _without_prefix(self._layout[key]) for key in ("normalizer", "pre_tokenizer")}
        shell = Tokenizer.from_str(json.dumps({**self._layout, **parts, **EMPTY}))
        made = Tokenizer(self._tokenizer.model)  # the same one: scores that are written and read again may differ
        if shell.normalizer is not None:
            made.normalizer = shell.normalizer
        if shell.pre_tokenizer is not None:
            made.pre_tokenizer = shell.pre_tokenizer
        whole = _ids(self._tokenizer, "one two")
        fits = _ids(self._tokenizer, "one") + _ids(made, " two") == whole
        return made if fits else self._tokenizer

    @cached_property
    def _layout(self) -> Layout:
        return json.loads(self._tokenizer.to_str())

    @cached_property
    def _nearby(self) -> bool:
        return _reads_nearby(self._layout)

    @cached_property
    def _joins(self) -> Mapping[str, int] | None:
        """The tokens that text can become without being split into words; None where that is not known."""
        model = self._layout["model"]
        of_bytes = '"ByteLevel"' in json.dumps([self._layout["normalizer"], self._layout["pre_tokenizer"]])
        marked = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
        return None if model["type"] != "BPE" or of_bytes or marked else model["vocab"]

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._joins or {}), default=0)

    def _place(self, text: str, start: int, stop: int) -> int | None:
        """The last place in text[start:stop] where the document may be cut."""
        tries = 0
        for high in range(stop, start, -NEARBY) if self._nearby else ():
            low = max(start, high - NEARBY)
            for found in reversed([match.start() for match in PLACES.finditer(text, low + 1, high + 2)]):
                if self._may_cut(text[max(0, found - CONTEXT) : found], text[found : found + CONTEXT]):
                    return found
                tries += 1
                if tries == TRIES:
                    return None
        return None

    def _may_cut(self, left: str, right: str) -> bool:
        with tokenizer_errors():
            ids = _ids(self._tokenizer, left) + _ids(self.rest, right)
            return ids == _ids(self._tokenizer, left + right) and self._apart(left, right)

    def _apart(self, left: str, right: str) -> bool:
        """Whether no word, or where text is not split into words no token of the vocabulary, goes over the place."""
        normalizer, splitter = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        text = left + right if normalizer is None else normalizer.normalize_str(left + right)
        place = len(left if normalizer is None else normalizer.normalize_str(left))
        words = [(text, (0, len(text)))] if splitter is None else splitter.pre_tokenize_str(text)
        for word, (begin, end) in words:
            if begin < place < end:
                prefix = len(word) - (end - begin)  # of Metaspace
                return self._joins is not None and self._unjoined(word, place - begin + prefix)
        return True

    def _unjoined(self, word: str, place: int) -> bool:
        joins, longest = self._joins or {}, self._longest
        return longest <= CONTEXT and not any(
            word[begin:end] in joins
            for begin in range(max(0, place - longest), place)
            for end in range(place + 1, min(len(word), begin + longest) + 1)
        )


@contextmanager
def tokenizer_errors() -> Iterator[None]:
    """DataError for whatever the tokenizer's own code raises for a text: panics, and bare exceptions."""
    try:
        yield
    except BaseException as error:
        if type(error) is Exception or is_panic(error):
            raise DataError(f"tokenizer: cannot read a text ({reason(error)})") from error
        raise


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def _too_long(text: str) -> str:
    return (
        f"tokenizer: the document that begins {text[:40]!r} has more than {WHOLE_CHARACTERS:,} characters without a "
        "place where this tokenizer is sure to give the same ids when it is cut there; split the document, or train "
        "with dataset.cut=lines"
    )


def _reads_nearby(layout: Layout) -> bool:
    """Whether what happens to a character depends on those around it only, as far as the parts are known."""
    normalizers, splitters = _flat(layout["normalizer"]), _flat(layout["pre_tokenizer"])
    return (
        {part["type"] for part in normalizers} <= NORMALIZERS
        and {part["type"] for part in splitters} <= PRE_TOKENIZERS
        and all(_known_pattern(part["pattern"]) for part in normalizers if part["type"] == "Replace")
        and all(len(token["content"]) < CONTEXT for token in layout["added_tokens"])
        and not layout["model"].get("dropout")
    )


def is_tame(tokenizer: Tokenizer) -> bool:
    """Whether it is made of known parts that take time and memory in proportion to the text.

    A stranger's regular expression can take for ever, and what replaces a character can be a book.
    """
    layout = json.loads(tokenizer.to_str())
    normalizers, splitters = _flat(layout["normalizer"]), _flat(layout["pre_tokenizer"])
    growth = math.prod(map(_growth, normalizers))
    patterns = [part["pattern"] for part in (*normalizers, *splitters) if part["type"] in ("Replace", "Split")]
    return _reads_nearby(layout) and growth <= MAX_GROWTH and all("String" in pattern for pattern in patterns)


def _growth(normalizer: Layout) -> float:
    """How many times longer it can make a text, or a single character."""
    if normalizer["type"] == "Prepend":
        return 1 + len(normalizer["prepend"])
    if normalizer["type"] == "Replace":
        return 1 + len(normalizer["content"])
    return math.inf if normalizer["type"] == "Precompiled" else 1


def _known_pattern(pattern: Mapping[str, str]) -> bool:
    return len(pattern["String"]) < CONTEXT if "String" in pattern else pattern["Regex"] in PATTERNS


def _flat(part: Layout | None) -> list[Layout]:
    """A normalizer or pre-tokenizer and what is in it."""
    if part is None:
        return []
    inner = part.get("normalizers") or part.get("pretokenizers") or []
    return [part, *(one for each in inner for one in _flat(each))]


def _without_prefix(part: Layout | None) -> Layout | None:
    """The same, but it puts nothing before a text and takes nothing away there."""
    if part is None or part["type"] == "Prepend":
        return None
    if part["type"] == "Sequence":
        key = "normalizers" if "normalizers" in part else "pretokenizers"
        return {**part, key: [kept for each in part[key] if (kept := _without_prefix(each)) is not None]}
    changes: dict[str, dict[str, Any]] = {
        "Metaspace": {"prepend_scheme": "never"},
        "ByteLevel": {"add_prefix_space": False},
        "Strip": {"strip_left": False},
    }
    return {**part, **{key: value for key, value in changes.get(part["type"], {}).items() if key in part}}
