"""Text that is named twice, or both to train and to validate on: by content, whatever the files are called."""

from __future__ import annotations

import gzip
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from est_cli.common.errors import DataError
from est_cli.config import DatasetConfig, RunConfig, SchedulerConfig, Source
from est_cli.config.resolve import resolve
from est_cli.data import Corpus, load_corpus
from est_cli.data.tokens import overlap
from est_cli.data.tokens.encode import DOCUMENTS
from est_cli.families import spec_of
from est_cli.training import parts
from tests.lab.corpora import all_ids, documents, files, write_jsonl
from tests.lab.est_models import gpt2_config

pytestmark = pytest.mark.slow

TEXTS = documents(60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a.jsonl, the same file by two links, a copy, and other.jsonl."""
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    write_jsonl(tmp_path / "other.jsonl", documents(70)[60:])
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    os.link(tmp_path / "a.jsonl", tmp_path / "hard.jsonl")
    shutil.copy(tmp_path / "a.jsonl", tmp_path / "copy.jsonl")
    return tmp_path


def load(dataset: DatasetConfig, folder: Path, begun: bool = False) -> Corpus:
    return load_corpus(dataset, "bpe", 300, folder / "cache", begun=begun)


@pytest.mark.parametrize("name", ["link", "hard", "copy"])
def test_a_copy_for_validation_is_refused(folder: Path, name: str) -> None:
    dataset = files(folder / "a.jsonl", validation_files=[str(folder / f"{name}.jsonl")])
    with pytest.raises(DataError, match=rf"^dataset\.validation_files: \S+{name}\.jsonl is in dataset\.files too"):
        load(dataset, folder)


@pytest.mark.parametrize("names", [["a", "link"], ["a", "hard"], ["[ah]*"], ["link", "other", "a"]])
def test_a_file_that_is_met_twice_is_refused(folder: Path, names: list[str]) -> None:
    dataset = files(*(folder / f"{name}.jsonl" for name in names))
    with pytest.raises(DataError, match=r"^dataset\.files: \S+\.jsonl is the file \S+\.jsonl once more"):
        load(dataset, folder)
    held = files(folder / "none.jsonl", validation_files=dataset.files)
    write_jsonl(folder / "none.jsonl", documents(1, seed=1))
    with pytest.raises(DataError, match=r"^dataset\.validation_files: \S+\.jsonl is the file \S+\.jsonl once more"):
        load(held, folder)


def test_copies_to_train_on_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    load(files(folder / "a.jsonl", folder / "copy.jsonl"), folder)
    assert "dataset.files: 1 of 2 files have the content of another one" in caplog.text


def test_a_run_that_has_begun_goes_on(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    dataset = files(folder / "a.jsonl", folder / "link.jsonl", validation_files=[str(folder / "copy.jsonl")])
    corpus = load(dataset, folder, begun=True)
    assert len(corpus.train) == 2 * len(corpus.validation)
    assert caplog.text.count("; it began so, and goes on") == 3  # the link, the copy, and all of its documents


@pytest.mark.parametrize(("resume", "begun"), [(None, False), ("auto", False), ("outputs/a", True)])
def test_what_is_continued_has_begun(monkeypatch: pytest.MonkeyPatch, resume: str | None, begun: bool) -> None:
    seen: list[object] = []
    monkeypatch.setattr(parts, "load_corpus", lambda *args: seen.append(args[6]))
    run = resolve(RunConfig(scheduler=SchedulerConfig("dense"), resume=resume))
    parts.configured_corpus(run, spec_of(gpt2_config()), True)
    assert seen == [begun]


def told(folder: Path, caplog: pytest.LogCaptureFixture, held: list[str]) -> str:
    caplog.clear()
    caplog.set_level(logging.WARNING)
    load(files(folder / "a.jsonl", validation_files=[str(write_jsonl(folder / "held.jsonl", held))]), folder)
    return caplog.text


def test_documents_in_both_are_told_with_their_share(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = documents(100)[70:]
    assert "for validation" not in told(folder, caplog, own)
    assert "1 of the 31 documents for validation (3.2 %) are in" in told(folder, caplog, [*own, TEXTS[7]])
    assert "30 of the 60 documents for validation (50 %) are in" in told(folder, caplog, [*own, *TEXTS[:30][::-1]])
    assert "2 of the 32 documents" in told(folder, caplog, [TEXTS[3], *own, TEXTS[3]])


def test_the_same_documents_in_another_order_and_form_are_refused(folder: Path) -> None:
    path = write_jsonl(folder / "held.jsonl", TEXTS[::-1])
    (folder / "held.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"^dataset: all 60 documents for validation are in the training text too"):
        load(files(folder / "a.jsonl", validation_files=[str(folder / "held.jsonl.gz")]), folder)


def test_a_document_in_pieces_has_one_digest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load(files(folder / "a.jsonl", folder / "other.jsonl"), folder)
    (digests,) = (np.fromfile(path / DOCUMENTS, "<u8") for path in whole.folders)
    monkeypatch.setattr("est_cli.data.tokens.cuts.PART_CHARACTERS", 16)
    cut = load_corpus(files(folder / "a.jsonl", folder / "other.jsonl"), "bpe", 300, folder / "again")
    assert digests.tolist() == np.fromfile(cut.folders[0] / DOCUMENTS, "<u8").tolist() and len(digests) <= 70


def test_documents_are_compared_in_pieces(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(overlap, "CHUNK_DOCUMENTS", 7)
    assert "1 of the 11 documents" in told(folder, caplog, [*documents(80)[70:], TEXTS[-1]])


def test_tokens_that_an_older_version_has_cached_are_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "DOCUMENTS", "none.bin")
    corpus = load(files(folder / "a.jsonl", validation_files=[str(write_jsonl(folder / "b.jsonl", TEXTS[1:]))]), folder)
    assert len(all_ids(corpus))


def test_documents_of_token_files_are_compared(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the places where they are read in pieces."""
    monkeypatch.setattr(overlap, "CHUNK_TOKENS", 13)
    made = load(files(folder / "a.jsonl", validation_files=[str(folder / "other.jsonl")]), folder)
    made.tokenizer.save_pretrained(folder / "tokenizer")
    train, other = (stream.read().astype("<u2") for stream in (made.train.streams[0], made.validation.streams[0]))
    ends = np.flatnonzero(train == made.tokenizer.eos_token_id) + 1

    def opened(held: list[np.ndarray], begun: bool = False) -> str:
        train.tofile(folder / "train.bin")
        np.concatenate(held).tofile(folder / "held.bin")
        dataset = DatasetConfig(source=Source.tokens, files=[str(folder / "train.bin")])
        dataset.validation_files = [str(folder / "held.bin")]
        caplog.clear()
        caplog.set_level(logging.WARNING)
        load_corpus(dataset, str(folder / "tokenizer"), 300, folder / "cache", begun=begun)
        return caplog.text

    assert "for validation" not in opened([other])
    assert "1 of the 11 documents for validation" in opened([other, train[ends[3] : ends[4]]])
    assert "10 of the 11 documents for validation" in opened([train[ends[3] : ends[13]], other[:9], other[-1:]])
    with pytest.raises(DataError, match="all 9 documents for validation are in the training text too"):
        opened([train[ends[10] : ends[19]], other[:5]])
    assert "it began so" in opened([train[ends[10] : ends[19]], other[:5]], begun=True)
