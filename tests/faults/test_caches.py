"""F5: the caches of tokens and tokenizers: built by killed processes, by several at once, damaged, of another text."""

from __future__ import annotations

import gzip
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from est_cli.config import DatasetConfig, Source
from est_cli.data import Corpus, load_corpus
from est_cli.storage import digest
from tests.data.test_corpus import decoded
from tests.faults.conftest import Tally
from tests.faults.size import either
from tests.lab.corpora import all_ids, documents, files, write_jsonl
from tests.lab.lab import Lab, outcome
from tests.training.test_start import SHORT

pytestmark = pytest.mark.row("F5")

CACHE, MANIFEST = "est_cli.storage.cache", "est_cli.storage.manifest"
SHARDS, TOKENIZER = "est_cli.data.tokens.token_cache", "est_cli.data.tokens.tokenizer"
POINTS = [
    (f"{TOKENIZER}._train", 1, "before"),
    (f"{TOKENIZER}._train", 1, "after"),
    (f"{CACHE}.seal_files", 1, "before"),
    (f"{CACHE}.seal_files", 1, "after"),
    (f"{CACHE}._into_place", 1, "after"),
    (f"{SHARDS}.write_tokens", 1, "before"),
    (f"{SHARDS}.write_tokens", 1, "after"),
    (f"{CACHE}.seal_files", 2, "before"),
    (f"{MANIFEST}.seal_file", 3, "before"),
    ("est_cli.storage.disk.sync_folder", 4, "before"),
    (f"{CACHE}._into_place", 2, "before"),
    (f"{CACHE}._into_place", 2, "after"),
]
"""Calls (from 1) of the builder: the tokenizer comes first, then the tokens."""


@pytest.fixture
def bare(shared: Lab, tmp_path: Path) -> Lab:
    """A lab without any tokens."""
    return Lab(shared.server, tmp_path, shared.corpus)


@pytest.mark.parametrize(("target", "call", "when"), either(POINTS, POINTS[7:8]))
def test_a_killed_builder(bare: Lab, shared: Lab, tally: Tally, target: str, call: int, when: str) -> None:
    assert bare.tiny("x", *SHORT, plants=[("at", target, call, when, "SIGKILL")]).code == -signal.SIGKILL
    assert not (bare.folder / "outputs").exists()
    assert bare.tiny("x", *SHORT).code == 0
    assert outcome(bare.at("x")) == shared.golden(*SHORT)
    assert not list((bare.folder / "data").glob(".tmp-*"))
    tally(kills=1)


@pytest.mark.parametrize("count", either([2, 4], [2]))
def test_builders_at_once(bare: Lab, shared: Lab, tally: Tally, count: int) -> None:
    names = [f"run{number}" for number in range(count)]
    pids = [bare.start(*bare.arguments(*SHORT, f"run_name={name}"), name=name) for name in names]
    assert [bare.ended(pid, name).code for pid, name in zip(pids, names, strict=True)] == [0] * count
    expected = shared.golden(*SHORT)
    assert all(outcome(bare.at(name)) == expected for name in names)
    assert not list((bare.folder / "data").glob(".tmp-*"))
    tally(inputs=count)


def load(dataset: DatasetConfig, folder: Path, tokenizer: str = "bpe") -> Corpus:
    return load_corpus(dataset, tokenizer, 300, folder / "cache")


def damages(data: bytes, count: int) -> list[bytes | None]:
    rng = random.Random(0)
    found: list[bytes | None] = [None, b"", data[:-1], data + b"\0", bytes(len(data))]
    for _ in range(count):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        found.append(bytes(flipped))
    return found


def test_damaged_caches_are_built_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, tally: Tally) -> None:
    dataset = files(write_jsonl(tmp_path / "a.jsonl", documents(20)))
    first = load(dataset, tmp_path)
    expected = all_ids(first)
    names = [path.relative_to(tmp_path) for path in sorted((tmp_path / "cache").glob("[!.]*/*"))]
    assert {path.name for path in names} >= {"tokens.bin", "meta.json", "tokenizer.json", "tokenizer_config.json"}
    for name in names:
        data = (tmp_path / name).read_bytes()
        for damage in damages(data, either(20, 1)):
            caplog.clear()
            path = tmp_path / name
            path.unlink()  # not written over: the corpus before has it mapped
            if damage is not None:
                path.write_bytes(damage)
            again = load(dataset, tmp_path)
            assert (again.data_hash, again.tokenizer_hash) == (first.data_hash, first.tokenizer_hash)
            np.testing.assert_array_equal(all_ids(again), expected)
            assert "building it again" in caplog.text or (damage is None and name.name == "meta.json"), name
            assert path.read_bytes() == data
            tally(inputs=1)


Write = Callable[[Path, list[str]], Path]


def as_text(folder: Path, texts: list[str]) -> Path:
    (folder / "a.txt").write_text("\n".join(texts))
    return folder / "a.txt"


def as_lines(folder: Path, texts: list[str]) -> Path:
    return write_jsonl(folder / "a.jsonl", texts)


def as_packed(folder: Path, texts: list[str]) -> Path:
    path = folder / "a.jsonl.gz"
    path.write_bytes(gzip.compress(as_lines(folder, texts).read_bytes(), mtime=0))
    return path


def as_table(folder: Path, texts: list[str]) -> Path:
    parquet.write_table(pa.table({"text": texts}), folder / "a.parquet")
    return folder / "a.parquet"


@pytest.mark.parametrize("write", [as_text, as_lines, as_packed, as_table])
@pytest.mark.parametrize("verify", [True, False])
def test_new_content_of_the_same_name_size_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally, write: Write, verify: bool
) -> None:
    """Also without verifying: the time of a file's last change of any kind cannot be set back."""
    monkeypatch.setattr(digest, "SETTLED_S", -1.0)  # so that digests are remembered
    path = write(tmp_path, documents(20))
    stat, dataset = path.stat(), files(path, validation_fraction=0.2)
    first = load(dataset, tmp_path)
    first.tokenizer.save_pretrained(tmp_path / "tokenizer")
    first = load(dataset, tmp_path, str(tmp_path / "tokenizer"))
    path = write(tmp_path, [text.replace("document", "dokument") for text in documents(20)])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size or write in (as_packed, as_table), "packed, it may take more or less"
    second = load_corpus(dataset, str(tmp_path / "tokenizer"), 300, tmp_path / "cache", verify=verify)
    assert second.data_hash != first.data_hash and second.tokenizer_hash == first.tokenizer_hash
    again = load_corpus(dataset, str(tmp_path / "tokenizer"), 300, tmp_path / "elsewhere")
    np.testing.assert_array_equal(all_ids(second), all_ids(again))
    tally(inputs=1)


def test_new_ids_of_the_same_name_size_and_time(tmp_path: Path, tally: Tally) -> None:
    made = load(files(write_jsonl(tmp_path / "a.jsonl", documents(20))), tmp_path)
    made.tokenizer.save_pretrained(tmp_path / "tokenizer")
    path = tmp_path / "ids.bin"
    hashes = []
    for first in (1, 2):
        np.full(2000, first, "<u2").tofile(path)
        os.utime(path, ns=(10**18, 10**18))
        dataset = DatasetConfig(source=Source.tokens, files=[str(path)])
        corpus = load(dataset, tmp_path, str(tmp_path / "tokenizer"))
        assert set(all_ids(corpus)) == {first}
        hashes.append(corpus.data_hash)
    assert hashes[0] != hashes[1]
    tally(inputs=1)


def test_another_tokenizer_in_the_same_folder(tmp_path: Path, tally: Tally) -> None:
    dataset = files(write_jsonl(tmp_path / "a.jsonl", documents(20)))
    found = []
    for number in range(either(5, 2)):
        texts = documents(30, seed=number, words=40 + number)
        other = load(files(write_jsonl(tmp_path / f"{number}.jsonl", texts)), tmp_path)
        other.tokenizer.save_pretrained(tmp_path / "tokenizer")
        found.append(load(dataset, tmp_path, str(tmp_path / "tokenizer")))
        assert found[-1].tokenizer_hash == other.tokenizer_hash
        assert sorted(decoded(found[-1], all_ids(found[-1]))) == sorted(documents(20))
        tally(inputs=1)
    assert len({corpus.data_hash for corpus in found}) == len(found) == len({c.folders for c in found})
