"""The order of samples of a text that is tokenised ahead: against its definition, and whatever is known when."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from est_cli.common.errors import ConfigError, DataError, StorageError
from est_cli.config import DatasetConfig, Source
from est_cli.config.data import Tokenize, dataset_problems
from est_cli.config.setting import refuse
from est_cli.data import BlockOrder, Corpus, load_corpus
from est_cli.data.parts import PartOrder
from est_cli.data.text import units
from est_cli.data.text.shares import drawn
from est_cli.data.tokens import ahead
from est_cli.data.tokens.encode_workers import Pace
from tests.lab.corpora import documents, files, ids, write_jsonl

SEQ_LEN, SEED, FILES = 16, 3, 5


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "UNIT_BYTES", 9000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(FILES):
        write_jsonl(tmp_path / f"{number}.jsonl", documents(10 + 2 * number, seed=number))
    return tmp_path


def load(folder: Path, *patterns: str, **settings: object) -> Corpus:
    chosen = {"tokenize": Tokenize.ahead, "validation_fraction": 0.2} | settings
    dataset = files(*(folder / pattern for pattern in patterns or ("*.jsonl",)), **chosen)
    return load_corpus(dataset, "bpe", 500, folder / "cache", SEQ_LEN)


def whole(folder: Path, *patterns: str, **settings: object) -> tuple[Corpus, PartOrder]:
    """With all parts made and admitted."""
    corpus = load(folder, *patterns, **settings)
    assert corpus.ahead is not None
    with corpus.ahead.working():
        while any(text.look() < len(text.units) for text in corpus.ahead.texts):
            corpus.ahead.reach([text.look() for text in corpus.ahead.texts])
            assert corpus.ahead.failure is None
    order = PartOrder(corpus.ahead.texts, SEQ_LEN, SEED, corpus.weights)
    order.admit([len(text.units) for text in corpus.ahead.texts])
    return corpus, order


def blocks_of(corpus: Corpus, source: int, part: int) -> set[bytes]:
    """The blocks that a part is cut into."""
    assert corpus.ahead is not None
    tokens = corpus.ahead.texts[source].stream(part).read()
    return {block.tobytes() for block in np.split(tokens[: len(tokens) // SEQ_LEN * SEQ_LEN], len(tokens) // SEQ_LEN)}


def taken(order: PartOrder, first: int, count: int) -> list[bytes]:
    return [row.tobytes() for row in order.take(order.blocks(first, count)).numpy()]


def test_an_epoch_is_every_block_once_part_by_part(folder: Path) -> None:
    corpus, order = whole(folder)
    assert corpus.ahead is not None
    text, first = corpus.ahead.texts[0], 0
    assert len(text.units) == FILES
    for part in range(FILES):
        expected = blocks_of(corpus, 0, part)
        assert set(taken(order, first, len(expected))) == expected
        assert taken(order, first, len(expected)) != sorted(expected)
        first += len(expected)
    second, everything = taken(order, first, first), taken(order, 0, first)
    assert sorted(second) == sorted(everything) and second != everything
    assert (order.blocks(first, first) == BlockOrder(first, SEED).blocks(first, first)).all(), "mixed as ever"


def test_a_sample_depends_on_no_later_part(folder: Path) -> None:
    corpus, order = whole(folder)
    assert corpus.ahead is not None
    growing, first = PartOrder(corpus.ahead.texts, SEQ_LEN, SEED), 0
    for part in range(FILES):
        count = len(blocks_of(corpus, 0, part))
        assert growing.needed(first, 1) == growing.needed(first, count) == [part]
        growing.admit([part + 1])
        assert growing.needed(first, count + 1) == [min(part + 1, FILES - 1)]
        assert taken(growing, first, count) == taken(order, first, count)
        first += count
    assert growing.needed(10 * first, 4) == [FILES - 1], "all is there for any epoch"


def test_the_order_of_parts_is_drawn(folder: Path) -> None:
    named = [
        [unit.arguments["parts"][0][0] for unit in load(folder, part_seed=seed).ahead.texts[0].units] for seed in (0, 1)
    ]  # type: ignore[union-attr]
    paths = [str(folder / f"{number}.jsonl") for number in range(FILES)]
    assert named == [drawn(paths, 0), drawn(paths, 1)] and named[0] != named[1]


def test_the_digest_is_of_all_of_the_text(folder: Path) -> None:
    before = load(folder).data_hash
    corpus, _ = whole(folder)
    assert corpus.data_hash == before
    last = folder / f"{drawn(range(FILES), 0)[-1]}.jsonl"
    write_jsonl(last, documents(11, seed=99))
    assert load(folder).data_hash != before
    assert load(folder, tokenize=Tokenize.first).data_hash != before


def test_validation_is_what_the_first_parts_hold_out(folder: Path) -> None:
    corpus, order = whole(folder)
    assert corpus.ahead is not None
    text = corpus.ahead.texts[0]
    held = ids(corpus.validation)
    assert len(held) >= SEQ_LEN and (held == text.stream(0, held=True).read()).all()
    everything = [ids for part in range(FILES) for ids in [text.stream(part, held=True).read()]]
    assert sum(map(len, everything)) > len(held), "what later parts hold out is read by nobody"
    trained = b"".join(taken(order, 0, sum(len(blocks_of(corpus, 0, part)) for part in range(FILES))))
    assert everything[-1][:SEQ_LEN].tobytes() not in trained


def test_sources_are_mixed_by_weight(folder: Path) -> None:
    corpus, order = whole(folder, "[01].jsonl", "[234].jsonl", weights=[1.0, 3.0])
    assert corpus.ahead is not None
    own = [
        set().union(*(blocks_of(corpus, source, part) for part in range(parts))) for source, parts in ((0, 2), (1, 3))
    ]
    samples = taken(order, 0, 200)
    assert sum(sample in own[0] for sample in samples) == pytest.approx(50, abs=12)
    first = [sample for sample in samples if sample in own[1]]
    assert first[: len(blocks_of(corpus, 1, 0))] != [] and set(first[: len(blocks_of(corpus, 1, 0))]) == blocks_of(
        corpus, 1, 0
    )
    growing = PartOrder(corpus.ahead.texts, SEQ_LEN, SEED, corpus.weights)
    for _ in range(10):
        needed = growing.needed(0, 200)
        growing.admit([max(pair) for pair in zip(growing.admitted, (part + 1 for part in needed), strict=True)])
    assert taken(growing, 0, 200) == samples


def test_the_beginning_of_a_large_first_part_is_one_by_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together with the rest it is the whole part, and nothing is in both."""
    plain, _ = whole(folder)
    monkeypatch.setattr(ahead, "BEGINNING_BYTES", 100)
    monkeypatch.setattr(ahead, "BEGINNING_TOKENS", 300)
    corpus, _ = whole(folder)
    assert corpus.ahead is not None and plain.ahead is not None
    text, before = corpus.ahead.texts[0], plain.ahead.texts[0]
    assert len(text.units) == FILES + 1 and 300 <= len(text.stream(0)) < len(before.stream(0))
    for held in (False, True):
        joined = (text.stream(0, held) + text.stream(1, held)).read()
        assert (joined == before.stream(0, held).read()).all()
    assert (text.stream(2).read() == before.stream(1).read()).all()


def test_no_further_ahead_than_is_of_use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "LEAST_AHEAD", 1)
    monkeypatch.setattr(ahead, "LOOK_S", 0.01)
    paces: list[Pace] = []
    real = ahead.run_tasks
    monkeypatch.setattr(ahead, "run_tasks", lambda *args: (paces.append(args[-1]), real(*args))[1])
    monkeypatch.setattr(ahead, "AHEAD_OF_EACH", 0)
    corpus = load(folder)
    assert corpus.ahead is not None
    text = corpus.ahead.texts[0]
    with corpus.ahead.working():
        for reached in range(3):
            corpus.ahead.reach([reached])
            while text.look() < reached + 2:
                assert corpus.ahead.failure is None
                time.sleep(0.01)
        assert text.look() == 4
    assert not list((folder / "cache").glob(".tmp-*"))
    assert paces[0].nice > 0


def test_a_damaged_part_is_made_again(folder: Path) -> None:
    corpus, order = whole(folder)
    assert corpus.ahead is not None
    samples, damaged = taken(order, 0, 200), corpus.ahead.texts[0].folders[2] / "tokens.bin"
    data = bytearray(damaged.read_bytes())
    data[5] ^= 1
    damaged.write_bytes(data)
    again = load(folder)
    assert again.ahead is not None and not damaged.exists() and again.ahead.texts[0].look() == 2
    assert taken(whole(folder)[1], 0, 200) == samples


def test_too_little_text(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "0.jsonl", documents(1))
    with pytest.raises(DataError, match=r"has no part of 16 tokens .*, or holds fewer out; .* dataset\.tokenize=first"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"source": Source.stdlib}, "dataset.tokenize: dataset=d is a single part; use first"),
        ({"source": Source.tokens, "files": ["a.bin"]}, "dataset.tokenize: dataset=d holds tokens already; use first"),
        ({"source": Source.files, "files": ["a.txt"], "max_tokens": 5}, "dataset.max_tokens: tokenize=ahead"),
        ({"source": Source.files, "files": ["a.txt"], "max_tokens": "auto"}, "dataset.max_tokens: tokenize=ahead"),
        ({"source": Source.files, "files": ["a.txt"], "max_documents": 5}, "dataset.max_documents: tokenize=ahead"),
    ],
)
def test_what_it_is_not_for(settings: dict[str, object], told: str) -> None:
    dataset = DatasetConfig(name="d", tokenize=Tokenize.ahead, **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as error:
        refuse(dataset_problems(dataset, "gpt2"))
    assert str(error.value).startswith(told)


def test_part_seed_is_for_it(folder: Path) -> None:
    assert not list(dataset_problems(files("a.txt", tokenize=Tokenize.ahead, part_seed=4), "bpe"))
    assert list(dataset_problems(files("a.txt", part_seed=4), "bpe"))


def test_a_cache_that_cannot_be_written_is_told_where_it_is_needed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = load(folder)
    assert corpus.ahead is not None

    def refused(*args: object, **kwargs: object) -> object:
        raise StorageError("cache: lacks intact tokens")

    monkeypatch.setattr(ahead, "locked", refused)
    with corpus.ahead.working():
        while corpus.ahead.failure is None:
            time.sleep(0.01)
    assert isinstance(corpus.ahead.failure, StorageError) and corpus.ahead.texts[0].look() == 1
