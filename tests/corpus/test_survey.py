"""What est-data counts, against counts made in another way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from est_cli.config import DatasetConfig, Source
from est_cli.corpus.survey import Documents, documents_of, odd_tokens, samples_of
from est_cli.data import Corpus, load_corpus
from est_cli.data.tokens.encode import DOCUMENTS, ENDS
from tests.lab.corpora import documents, files, ids, write_jsonl

END = "<|endoftext|>"


def read(corpus: Corpus, text: str) -> list[int]:
    return list(corpus.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_documents_that_are_held_out_by_their_hash(tmp_path: Path) -> None:
    texts = [*documents(60), *documents(60)[:9], "  \n ", ""]
    corpus = load_corpus(files(write_jsonl(tmp_path / "a.jsonl", texts), validation_fraction=0.3), "bpe", 300, tmp_path)
    found = documents_of(corpus)
    kept = texts[:-2]
    ends = ids(corpus.train).tolist().count(corpus.tokenizer.eos_token_id)
    assert 0 < ends < len(kept)
    assert found.count == len(kept) and found.blank == 2 and found.excluded == found.bad == 0
    assert found.longest == max(len(read(corpus, text)) for text in kept)
    assert found.bytes == sum(len(text.encode()) for text in kept)
    trained = corpus.tokenizer.decode(ids(corpus.train)).split(END)[:-1]
    assert found.train == ends == len(trained)
    assert found.duplicates == sum(count - 1 for count in Counter(trained).values()) > 0


def test_duplicates_are_those_to_train_on(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "a.jsonl", [*documents(20), *documents(20)[:4]])
    copy = write_jsonl(tmp_path / "b.jsonl", documents(5))
    held = write_jsonl(tmp_path / "v.jsonl", [*documents(8, seed=1), *documents(8, seed=1)])
    dataset = files(train, copy, validation_files=[str(held)])
    found = documents_of(load_corpus(dataset, "bpe", 300, tmp_path / "data"))
    assert (found.train, found.duplicates, found.count) == (29, 9, 45)


def test_two_files_of_the_same_text_are_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("est_cli.data.text.units.UNIT_BYTES", 1)
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", documents(10))
    corpus = load_corpus(files(tmp_path / "*.jsonl", validation_fraction=0.01), "bpe", 300, tmp_path / "data")
    assert len(corpus.folders) > len(set(corpus.folders))
    found = documents_of(corpus)
    assert (found.train, found.duplicates) == (20, 10)


def test_what_an_older_version_has_not_kept_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = load_corpus(files(write_jsonl(tmp_path / "a.jsonl", documents(10))), "bpe", 300, tmp_path / "data")
    monkeypatch.setattr("est_cli.corpus.survey.intact", lambda folder, full: {"documents": 10})
    for name in (DOCUMENTS, ENDS):
        (corpus.folders[0] / name).unlink()
    assert documents_of(corpus) == Documents(10, None, None, None, 0, 0, 0, 0)


def test_token_files(tmp_path: Path) -> None:
    made = load_corpus(files(write_jsonl(tmp_path / "a.jsonl", documents(300))), "bpe", 300, tmp_path / "data")
    made.tokenizer.save_pretrained(tmp_path / "tokenizer")
    texts = [*documents(12), *documents(12)[:3]]
    end = int(made.tokenizer.eos_token_id)
    for name, some in (("train", texts), ("held", documents(4, seed=2, words=99))):
        np.array([one for text in some for one in (*read(made, text), end)], "<u2").tofile(tmp_path / f"{name}.bin")
    named = [str(tmp_path / "held.bin")]
    dataset = DatasetConfig(source=Source.tokens, files=[str(tmp_path / "train.bin")], validation_files=named)
    corpus = load_corpus(dataset, str(tmp_path / "tokenizer"), 300, tmp_path / "data")
    longest = max(len(read(made, text)) for text in documents(4, seed=2, words=99))
    assert documents_of(corpus) == Documents(19, longest, 15, 3)


def save(library: Tokenizer, place: Path, **special: str) -> str:
    PreTrainedTokenizerFast(tokenizer_object=library, eos_token=END, **special).save_pretrained(place)
    return str(place)


def test_bytes_that_no_token_holds(tmp_path: Path) -> None:
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {token: number for number, token in enumerate([END, *fallback, *"abc "])}
    library = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    library.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    text = write_jsonl(tmp_path / "a.jsonl", ["abc é 東 c", "cab", "a ü"])
    corpus = load_corpus(files(text), save(library, tmp_path / "t"), 300, tmp_path / "data")
    found = odd_tokens(corpus)
    assert (found.unknown, found.bytes) == (None, 2 + 3 + 2)


def test_unknown_tokens(tmp_path: Path) -> None:
    library = Tokenizer(models.WordLevel({END: 0, "[UNK]": 1, "known": 2}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    text = write_jsonl(tmp_path / "a.jsonl", ["known new known", "newer newest", "known"])
    corpus = load_corpus(files(text), save(library, tmp_path / "t", unk_token="[UNK]"), 300, tmp_path / "data")
    found = odd_tokens(corpus)
    assert (found.unknown, found.bytes) == (3, None)


def test_end_of_text_is_not_counted_as_unknown(tmp_path: Path) -> None:
    library = Tokenizer(models.WordLevel({END: 0, "known": 1}, unk_token=END))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    text = write_jsonl(tmp_path / "a.jsonl", ["known new", "known"])
    corpus = load_corpus(files(text), save(library, tmp_path / "t", unk_token=END), 300, tmp_path / "data")
    assert odd_tokens(corpus).unknown is None


def test_samples_begin_with_documents_and_are_harmless(tmp_path: Path) -> None:
    texts = [f"begin {number} \x1b[31m red\r\nsecond \u202eline " + "word " * 40 for number in range(50)]
    corpus = load_corpus(files(write_jsonl(tmp_path / "a.jsonl", texts)), "bpe", 300, tmp_path / "data")
    found = samples_of(corpus, 8, seed=3)
    assert found == samples_of(corpus, 8, seed=3) != samples_of(corpus, 8, seed=4)
    assert len(found) == 8 and len(set(found)) > 1
    for text in found:
        assert text.startswith("begin ") and text.isprintable() and "?[31m red second ?line word" in text


def test_samples_of_each_source(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_jsonl(tmp_path / f"{name}.jsonl", [f"{name} {text}" for text in documents(30)])
    dataset = files(tmp_path / "x.jsonl", tmp_path / "y.jsonl", weights=[1.0, 9.0])
    found = samples_of(load_corpus(dataset, "bpe", 300, tmp_path / "data"), 4, seed=0)
    assert [text[:2] for text in found] == ["x ", "y ", "x ", "y "]


def test_the_middle_of_a_long_document_says_so(tmp_path: Path) -> None:
    text = " ".join(documents(200))
    corpus = load_corpus(files(write_jsonl(tmp_path / "a.jsonl", [text])), "bpe", 300, tmp_path / "data")
    (found,) = samples_of(corpus, 1, seed=1)
    assert found.startswith("... ") and found[4:54].strip() in " ".join(text.split())
