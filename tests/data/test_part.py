"""A part of a corpus: what is taken, what is read for it, and what stays the same."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from est_cli.common.errors import ConfigError, DataError
from est_cli.config import DatasetConfig, RunConfig, SchedulerConfig, Source, TrainConfig
from est_cli.config.resolve import check, resolve
from est_cli.data import Corpus, load_corpus, source_tokens
from est_cli.data.text import hub_text, pieces, units
from est_cli.data.tokens import estimate, part, token_cache
from est_cli.training.parts import _tokens_read
from tests.lab.corpora import documents, files, ids, write_jsonl

FILES = 6
EACH = 60


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("tokenizer")
    corpus = load_corpus(files(write_jsonl(root / "a.jsonl", documents(300))), "bpe", 500, root / "cache")
    corpus.tokenizer.save_pretrained(root / "tokenizer")
    return str(root / "tokenizer")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Local files of several kinds, each larger than a unit has to be."""
    (tmp_path / "text").mkdir()
    for number in range(FILES):
        write_jsonl(tmp_path / "text" / f"{number}.jsonl", documents(EACH, seed=number))
    return tmp_path / "text"


@pytest.fixture
def hub_set(tmp_path: Path) -> Path:
    """A data set of the hub's layout, as a folder."""
    return parquet_set(tmp_path / "set")


def parquet_set(folder: Path, each: int = EACH) -> Path:
    (folder / "data").mkdir(parents=True)
    for number in range(FILES):
        table = pa.table({"text": documents(each, seed=number), "id": list(range(each))})
        parquet.write_table(table, folder / "data" / f"train-{number:05d}-of-{FILES:05d}.parquet")
    return folder


def of_hub(folder: Path, **settings: Any) -> DatasetConfig:
    return DatasetConfig(source=Source.hub, hub_ids=[str(folder)], validation_fraction=0.1, **settings)


def of_files(folder: Path, **settings: Any) -> DatasetConfig:
    return files(folder / "*.jsonl", validation_fraction=0.1, num_workers=1, **settings)


KINDS: dict[str, Callable[..., DatasetConfig]] = {"files": of_files, "hub": of_hub}


@pytest.fixture(params=KINDS)
def dataset(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DatasetConfig]:
    monkeypatch.setattr(units, "UNIT_BYTES", 3000)  # every file is a unit, or several
    folder = request.getfixturevalue("texts" if request.param == "files" else "hub_set")
    return lambda **settings: KINDS[request.param](folder, **settings)


def load(dataset: DatasetConfig, tokenizer: str, root: Path, **settings: Any) -> Corpus:
    hub_text.open_text.cache_clear()
    return load_corpus(dataset, tokenizer, 500, root, **settings)


def test_a_smaller_part_is_the_beginning_of_a_larger_one(
    tmp_path: Path, tokenizer: str, dataset: Callable[..., DatasetConfig]
) -> None:
    sizes = [900, 4000, 9000, 14000]
    parts = [load(dataset(max_tokens=size), tokenizer, tmp_path / f"cache-{size}") for size in sizes]
    for size, smaller, larger in zip(sizes, parts, parts[1:], strict=False):
        assert len(smaller.train) == size
        assert (ids(smaller.train) == ids(larger.train)[:size]).all()
        held = ids(smaller.validation)
        assert (held == ids(larger.validation)[: len(held)]).all()
    assert len({corpus.data_hash for corpus in parts}) == len(parts)
    assert len(parts[-1].validation) > 0


def test_a_part_does_not_depend_on_what_the_cache_holds(
    tmp_path: Path, tokenizer: str, dataset: Callable[..., DatasetConfig]
) -> None:
    fresh = load(dataset(max_tokens=5000), tokenizer, tmp_path / "fresh")
    load(dataset(), tokenizer, tmp_path / "used")
    load(dataset(max_tokens=11000), tokenizer, tmp_path / "used")
    again = load(dataset(max_tokens=5000), tokenizer, tmp_path / "used")
    resumed = load(dataset(max_tokens=5000), tokenizer, tmp_path / "fresh", verify=False, begun=True)
    for other in (again, resumed):
        assert other.data_hash == fresh.data_hash
        assert (ids(other.train) == ids(fresh.train)).all()
        assert (ids(other.validation) == ids(fresh.validation)).all()


def test_so_many_documents(tmp_path: Path, tokenizer: str, dataset: Callable[..., DatasetConfig]) -> None:
    def texts_of(count: int) -> list[str]:
        corpus = load(dataset(max_documents=count), tokenizer, tmp_path / f"cache-{count}")
        end = str(corpus.tokenizer.eos_token)
        streams = [ids(corpus.train), ids(corpus.validation)]
        return [text for stream in streams for text in corpus.tokenizer.decode(stream).split(end) if text]

    few, more = texts_of(30), texts_of(100)
    assert len(few) == 30 and len(more) == 100
    assert set(few) < set(more)


def test_the_seed_draws_another_part(tmp_path: Path, tokenizer: str, dataset: Callable[..., DatasetConfig]) -> None:
    streams = [
        ids(load(dataset(max_tokens=3000, part_seed=seed), tokenizer, tmp_path / str(seed)).train) for seed in range(3)
    ]
    assert len({stream.tobytes() for stream in streams}) > 1


def test_more_than_there_is_is_all_of_it(
    tmp_path: Path, tokenizer: str, dataset: Callable[..., DatasetConfig], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    whole = load(dataset(), tokenizer, tmp_path / "a")
    part = load(dataset(max_tokens=10**9), tokenizer, tmp_path / "b")
    assert sorted(ids(part.train)) == sorted(ids(whole.train))
    assert "there is no more of it than is taken" in caplog.text


def test_a_file_that_is_not_needed_is_not_read(
    tmp_path: Path, tokenizer: str, dataset: Callable[..., DatasetConfig], request: pytest.FixtureRequest
) -> None:
    """All but those that come first in the order are spoilt; of the hub's, `datasets` looks at the head of number 0."""
    before = load(dataset(max_tokens=2000), tokenizer, tmp_path / "before")
    paths = sorted([*tmp_path.glob("text/*.jsonl"), *tmp_path.glob("set/data/*.parquet")])
    needed = {path for path in paths if _is_needed(path, dataset(max_tokens=2000), tokenizer, tmp_path)}
    assert 0 < len(needed) < FILES
    for path in set(paths) - needed:
        spoil(path)
    assert load(dataset(max_tokens=2000), tokenizer, tmp_path / "after").data_hash == before.data_hash


def spoil(path: Path) -> None:
    """No row of it can be read any more; its size, which decides how it is cut, stays."""
    size = path.stat().st_size
    path.write_bytes((b"x\n" * size)[:size])


def _is_needed(path: Path, dataset: DatasetConfig, tokenizer: str, root: Path) -> bool:
    sound = path.read_bytes()
    spoil(path)
    try:
        load(dataset, tokenizer, root / f"without-{path.name}")
    except DataError:
        return True
    finally:
        path.write_bytes(sound)
    return False


def test_a_large_file_is_read_as_far_as_it_is_needed(
    tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last line is no JSON, which only who reads it knows."""
    path = write_jsonl(tmp_path / "a.jsonl", documents(9000))
    with path.open("a") as file:
        file.write("{no json}\n")
    part = files(path, max_tokens=2000, validation_fraction=0.1)
    assert len(load(part, tokenizer, tmp_path / "cache").train) == 2000
    with pytest.raises(DataError, match=r"a\.jsonl:9001: not JSON"):
        load(files(path, max_documents=9001), tokenizer, tmp_path / "cache")


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_made_of_whole_files_at_once_and_the_rest_of_the_last_one(
    tmp_path: Path, tokenizer: str, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a large corpus: the beginning is looked at first, what is surely needed is made at once, then the rest."""
    monkeypatch.setattr(units, "UNIT_BYTES", 40_000)
    for module in (part, pieces, source_tokens):
        monkeypatch.setattr(module, "FEW_BYTES", 1000)
    monkeypatch.setattr(estimate, "SAMPLE_TOKENS", 500)
    monkeypatch.setattr(part, "SAMPLE_TOKENS", 500)
    asked: list[list[bool]] = []
    real = token_cache.tokenised

    def seen(name: str, units: Sequence[pieces.Unit], *args: Any) -> list[token_cache.Shard]:
        asked.append([unit.limit is None for unit in units])
        return real(name, units, *args)

    monkeypatch.setattr(part, "tokenised", seen)
    folder = request.getfixturevalue("texts" if kind == "files" else "hub_set")
    whole = load(KINDS[kind](folder), tokenizer, tmp_path / "whole")
    wanted = len(whole.train) * 5 // 6 - 100
    corpus = load(KINDS[kind](folder, max_tokens=wanted), tokenizer, tmp_path / "cache")
    assert len(corpus.train) == wanted
    assert len(asked[0]) > 1 and all(asked[0]) and asked[-1] == [False]


def test_weights_share_a_part_out(tmp_path: Path, tokenizer: str, texts: Path) -> None:
    some = [texts / "0.jsonl", texts / "1.jsonl"]
    mixed = files(*some, weights=[3.0, 1.0], max_tokens=1000, validation_fraction=0.1)
    assert [len(stream) for stream in load(mixed, tokenizer, tmp_path / "cache").train.streams] == [750, 250]


def test_other_sources(tmp_path: Path, tokenizer: str) -> None:
    stdlib = DatasetConfig(max_tokens=90_000, validation_fraction=0.2)
    assert len(load(stdlib, tokenizer, tmp_path / "cache").train) == 90_000
    np.arange(5000, dtype="<u2").__mod__(500).astype("<u2").tofile(tmp_path / "a.bin")
    tokens = DatasetConfig(source=Source.tokens, files=[str(tmp_path / "a.bin")], max_tokens=1000)
    assert (ids(load(tokens, tokenizer, tmp_path / "cache").train) == np.arange(1000) % 500).all()


def test_a_bpe_is_trained_on_the_part(tmp_path: Path, texts: Path) -> None:
    corpora = [load(of_files(texts, max_tokens=size), "bpe", tmp_path / "cache") for size in (2000, 2000, 20000)]
    assert len({corpus.tokenizer_hash for corpus in corpora}) == 2
    assert [len(corpus.train) for corpus in corpora[:2]] == [2000, 2000]


def test_validation_that_is_named_stays_whole(tmp_path: Path, tokenizer: str, texts: Path, hub_set: Path) -> None:
    held = write_jsonl(tmp_path / "held.jsonl", documents(20, seed=99))
    corpora = [
        load(of_files(texts, validation_files=[str(held)], **limit), tokenizer, tmp_path / "cache")
        for limit in ({}, {"max_tokens": 1000})
    ]
    assert (ids(corpora[0].validation) == ids(corpora[1].validation)).all()
    table = pa.table({"text": documents(9, seed=98), "id": list(range(9))})
    parquet.write_table(table, hub_set / "data" / "validation-00000-of-00001.parquet")
    of_set = of_hub(hub_set, hub_validation_split="validation", max_tokens=1000)
    assert len(load(of_set, tokenizer, tmp_path / "cache").validation) > 9


def test_data_files_and_data_dir_are_those_of_datasets(tmp_path: Path, tokenizer: str, hub_set: Path) -> None:
    shutil.copytree(hub_set / "data", hub_set / "more" / "data")
    first = load(of_hub(hub_set, data_files=["data/train-00000-*"]), tokenizer, tmp_path / "cache")
    alone = files(hub_set / "data" / "train-00000-of-00006.parquet", validation_fraction=0.1)
    assert (ids(first.train) == ids(load(alone, tokenizer, tmp_path / "cache").train)).all()
    inner = load(of_hub(hub_set, data_dir="more/data"), tokenizer, tmp_path / "cache")
    assert len(inner.folders) == FILES
    with pytest.raises(DataError, match=r"^dataset\.hub_ids: .* with dataset\.data_files=no-such\*"):
        load(of_hub(hub_set, data_files=["no-such*"]), tokenizer, tmp_path / "cache")


@pytest.mark.parametrize(
    ("split", "hint"),
    [("train[:1%]", "max_tokens or max_documents"), ("train[:100]", "max_documents=100"), ("train[5%:9%]", "max_tok")],
)
def test_slices_are_refused_by_name(tmp_path: Path, tokenizer: str, hub_set: Path, split: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=rf"^dataset\.hub_split: .*hub_split=train with dataset\.{hint}"):
        load(of_hub(hub_set, hub_split=split), tokenizer, tmp_path / "cache")


def test_a_slice_to_validate_on_is_told_by_its_own_setting(tmp_path: Path, tokenizer: str, hub_set: Path) -> None:
    told = r"^dataset\.hub_validation_split: 'test\[:5%\]' is a slice, .*; use dataset\.hub_validation_split=test, of"
    with pytest.raises(ConfigError, match=told):
        load(of_hub(hub_set, hub_validation_split="test[:5%]"), tokenizer, tmp_path / "cache")


def test_auto_is_what_the_run_reads() -> None:
    dense = SchedulerConfig("dense")
    train = TrainConfig(max_steps=7, tokens_per_step=4096, seq_len=256)
    assert _tokens_read(resolve(RunConfig(train=train, scheduler=dense))) == 7 * 4096
    mixed = files("a", "b", weights=[1.0, 1.0])
    assert _tokens_read(resolve(RunConfig(train=train, dataset=mixed, scheduler=dense))) == 1000 * 256
    with pytest.raises(ConfigError, match=r"^dataset\.max_tokens: auto means what a run reads"):
        load_corpus(DatasetConfig(max_tokens="auto"), "bpe", 500, Path("nowhere"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": "all"}, r"dataset\.max_tokens: 'all' is not a number of tokens, auto or null"),
        ({"max_tokens": 0}, r"dataset\.max_tokens: 0 is out of range"),
        ({"part_seed": 3}, r"dataset\.part_seed: draws the part"),
        ({"data_files": ["a"]}, r"dataset\.data_files: is for data sets of the hub"),
        ({"data_dir": "a"}, r"dataset\.data_dir: is for data sets of the hub"),
        ({"source": Source.tokens, "files": ["a"], "max_documents": 3}, r"dataset\.max_documents: dataset=tokens is"),
    ],
)
def test_what_a_source_cannot_serve_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(RunConfig(dataset=DatasetConfig(**settings)))


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_will_read_is_told_before(
    tmp_path: Path,
    tokenizer: str,
    kind: str,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = request.getfixturevalue("texts" if kind == "files" else "hub_set")
    for module in (part, source_tokens):
        monkeypatch.setattr(module, "FEW_BYTES", 1000)
    for module in (part, estimate):
        monkeypatch.setattr(module, "SAMPLE_TOKENS", 500)
    caplog.set_level(logging.INFO)
    text = sum(len(each.encode()) for number in range(FILES) for each in documents(EACH, seed=number))
    load(KINDS[kind](folder), tokenizer, tmp_path / "cache", reads=2000)
    told = re.search(r"about (\S+) MB of text to tokenise, 1 minutes at the \S+ MB/s of its beginning", caplog.text)
    assert told is not None
    assert "the run reads 0.002 million of its tokens, which are about" in caplog.text
    assert "dataset.max_tokens=auto tokenises what it reads" in caplog.text
    assert 0.3 * text < float(told[1]) * 1e6 < 3 * text
    caplog.clear()
    load(KINDS[kind](folder), tokenizer, tmp_path / "cache", reads=2000)
    assert "to tokenise" not in caplog.text
    load(KINDS[kind](folder, max_tokens=9000), tokenizer, tmp_path / "cache-2", reads=2000)
    assert "MB of text to tokenise" in caplog.text and "max_tokens=auto" not in caplog.text


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(
    tmp_path: Path, tokenizer: str, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "UNIT_BYTES", 6000)
    monkeypatch.setattr(token_cache, "FEW_BYTES", 0)
    corpora = []
    for count in (1, 2):
        dataset = files(texts / "*.jsonl", validation_fraction=0.1, max_tokens=9000, num_workers=count)
        corpora.append(load(dataset, tokenizer, tmp_path / str(count)))
    assert corpora[0].data_hash == corpora[1].data_hash
    assert (ids(corpora[0].train) == ids(corpora[1].train)).all()
