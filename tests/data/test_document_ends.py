"""Documents between separators, and wikitext's articles."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from est_cli.common.errors import ConfigError
from est_cli.config.data import dataset_problems
from est_cli.data import load_corpus
from est_cli.data.text import document_ends
from est_cli.data.text.document_ends import articles, lines, separated
from est_cli.data.text.pieces import Piece
from tests.lab.corpora import all_ids, documents, files, write_jsonl

END = "<|endoftext|>"
ROWS = [
    "", " = First = \n", "", " A line of it . \n", " = = Section = = \n", "", " = no title = x\n",
    " = 3 = \n", "", " = Second one = \n", "", " Its only line \n", "",
]  # fmt: skip
ARTICLES = [
    " = First = \n\n A line of it . \n = = Section = = \n\n = no title = x\n = 3 = \n",
    " = Second one = \n\n Its only line \n",
]


def cut(text: str, step: int) -> list[Piece]:
    return [Piece(text[at : at + step], at + step >= len(text)) for at in range(0, len(text), step)]


def whole(pieces: list[Piece]) -> list[str]:
    """The documents that are in pieces."""
    found, held = [], ""
    for piece in pieces:
        held += piece.text
        if piece.ends:
            found.append(held)
            held = ""
    assert not held
    return found


@pytest.mark.parametrize("held", [document_ends.HELD_CHARACTERS, 40])
def test_separators_end_documents_wherever_the_file_is_cut(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_ends, "HELD_CHARACTERS", held)
    stories = ["Once upon a time.\n\nThe end.", "x" * 100, "\t indented < | not an end |>", "a\n" * 50 + "b"]
    for text in (f"\n{END}\n".join(stories), f"\n{END}\n".join(stories) + f"\n{END}\n", END.join(stories)):
        for step in (1, 7, 64, 1000):
            assert whole(list(separated(iter(cut(text, step)), END))) == stories


def test_rows_of_wikitext_become_articles(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Piece(row, ends=True) for row in ROWS]
    assert whole(list(articles(iter(rows)))) == ARTICLES
    text = "".join(row.rstrip("\n") + "\n" for row in ROWS)
    for step in (1, 10, 1000):
        assert whole(list(articles(lines(iter(cut(text, step)))))) == ARTICLES
    left_out = Piece("", ends=True, excluded=True)
    found = list(articles(iter([rows[1], left_out, *rows[2:]])))
    assert [piece for piece in found if piece.excluded] == [left_out]
    monkeypatch.setattr(document_ends, "HELD_CHARACTERS", 20)
    pieces = list(articles(iter(rows)))
    assert whole(pieces) == ARTICLES and len(pieces) > 3


def test_a_corpus_with_separators(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = [text.strip("\n") for text in documents(60)]
    (tmp_path / "stories.txt").write_text(f"\n{END}\n".join(texts) + f"\n{END}\n")
    write_jsonl(tmp_path / "rows.jsonl", texts)
    with caplog.at_level("INFO"):
        plain = load_corpus(files(tmp_path / "stories.txt"), "bpe", 300, tmp_path / "data")
    assert f"of 1 document; 0 blank ones left out; {END} is written in it 60 times, as plain text" in caplog.text
    assert f"dataset.separator='{END}' ends them there" in caplog.text
    plain.tokenizer.save_pretrained(tmp_path / "tokenizer")
    tokenizer = str(tmp_path / "tokenizer")
    split = files(tmp_path / "stories.txt", separator=END, validation_fraction=0.3)
    found = load_corpus(split, tokenizer, 300, tmp_path / "data")
    rows = files(tmp_path / "rows.jsonl", validation_fraction=0.3)
    expected = load_corpus(rows, tokenizer, 300, tmp_path / "data")
    assert found.data_hash == expected.data_hash
    assert len(all_ids(plain)) > len(all_ids(found))
    with pytest.raises(ConfigError, match=r"^dataset\.separator: none of dataset\.files is a \.txt file"):
        load_corpus(files(tmp_path / "rows.jsonl", separator=END), tokenizer, 300, tmp_path / "data")


def test_lines_as_documents_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw = random.Random(0)
    rows = [row for n in range(40) for row in ["", f" = Title {n} = \n", "", f" {draw.random()} . \n", ""]]
    path = write_jsonl(tmp_path / "wiki.jsonl", rows)
    load_corpus(files(path), "bpe", 300, tmp_path / "data")
    assert "most documents have fewer than 20 tokens" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        load_corpus(files(path, articles=True), "bpe", 300, tmp_path / "data")
    assert "of 40 documents" in caplog.text and "most documents" not in caplog.text


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"separator": ""}, "separator"),
        ({"separator": "\n"}, "separator"),
        ({"articles": True, "separator": "x"}, "articles"),
    ],
)
def test_what_has_no_meaning_is_refused(settings: dict[str, object], key: str) -> None:
    assert [problem.partition(":")[0] for problem in dataset_problems(files("a.txt", **settings), "bpe")] == [
        f"dataset.{key}"
    ]
    assert not list(dataset_problems(files("a.txt"), "bpe"))
