"""load_corpus from end to end: text in, tokens out, through the cache."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import est_cli.data as room
from est_cli.config import DatasetConfig, Source
from est_cli.data import Corpus, TokenBlocks, encode, load_corpus
from est_cli.data.pieces import Piece, held_out
from est_cli.errors import ConfigError, DataError
from tests.data.corpora import documents, files, in_child, kill_at, status, write_jsonl

VOCAB = 300


def load(dataset: DatasetConfig, root: Path, tokenizer: str = "bpe", block_size: int = 1) -> Corpus:
    return load_corpus(dataset, tokenizer, VOCAB, root / "cache", block_size)


def decoded(corpus: Corpus, tokens: np.ndarray) -> list[str]:
    """The documents of a token stream."""
    end = corpus.tokenizer.eos_token_id
    ends = np.flatnonzero(tokens == end)
    assert ends[-1] == len(tokens) - 1
    return [corpus.tokenizer.decode(part[part != end]) for part in np.split(tokens, ends)[:-1]]


def fail(*args: object) -> None:
    raise AssertionError("tokenised again")


def test_tokens_give_back_the_text_and_validation_is_disjoint(tmp_path: Path) -> None:
    texts = documents(100)
    corpus = load(files(write_jsonl(tmp_path / "a.jsonl", texts), validation_fraction=0.2), tmp_path)
    train, held = decoded(corpus, corpus.train), decoded(corpus, corpus.validation)
    assert train == [text for i, text in enumerate(texts) if not held_out(i, 0.2)]
    assert held == [text for i, text in enumerate(texts) if held_out(i, 0.2)]
    assert 10 < len(held) < 30
    assert corpus.train.dtype == np.uint16


def test_second_run_reads_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = files(write_jsonl(tmp_path / "a.jsonl", documents(50)))
    first = load(dataset, tmp_path)
    monkeypatch.setattr(room, "write_tokens", fail)
    second = load(dataset, tmp_path)
    np.testing.assert_array_equal(first.train, second.train)
    assert (first.data_hash, first.tokenizer_hash, first.folder) == (
        second.data_hash, second.tokenizer_hash, second.folder,
    )  # fmt: skip


def test_new_content_at_the_same_path_and_time_is_tokenised(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", documents(50))
    first, stat = load(files(path), tmp_path), path.stat()
    data = path.read_text()
    path.write_text(data.replace("document 7", "dOcument 7"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = load(files(path), tmp_path)
    assert second.folder != first.folder
    assert second.data_hash != first.data_hash
    assert any("dOcument" in text for text in decoded(second, second.train))


def test_cache_follows_tokenizer_and_split(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", documents(50))
    for name in ("one", "two"):
        other = write_jsonl(tmp_path / f"{name}.jsonl", [f"{name} " * 9, *documents(30)])
        load(files(other), tmp_path).tokenizer.save_pretrained(tmp_path / name)
    corpora = [load(files(path), tmp_path, str(tmp_path / name)) for name in ("one", "two")]
    corpora.append(load(files(path, validation_fraction=0.3), tmp_path, str(tmp_path / "one")))
    assert len({corpus.folder for corpus in corpora}) == 3
    assert len({corpus.data_hash for corpus in corpora}) == 3
    assert len({corpus.tokenizer_hash for corpus in corpora}) == 2


def test_data_hash_follows_the_tokens_not_only_their_number(tmp_path: Path) -> None:
    texts, held = documents(20), str(write_jsonl(tmp_path / "held.jsonl", documents(2, seed=1)))
    first = load(files(write_jsonl(tmp_path / "a.jsonl", texts), validation_files=[held]), tmp_path)
    first.tokenizer.save_pretrained(tmp_path / "tokenizer")
    again = files(write_jsonl(tmp_path / "b.jsonl", texts[::-1]), validation_files=[held])
    second = load(again, tmp_path, str(tmp_path / "tokenizer"))
    assert len(first.train) == len(second.train)
    assert first.tokenizer_hash == second.tokenizer_hash
    assert first.data_hash != second.data_hash


def test_text_is_tokenised_in_batches_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "BATCH_CHARACTERS", 100)
    pieces = [(Piece("x" * 30, True), False)] * 10
    assert [len(batch) for batch in encode._batches(iter(pieces))] == [4, 4, 2]


def test_flipped_byte_in_the_tokens_is_repaired(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = files(write_jsonl(tmp_path / "a.jsonl", documents(50)))
    first = load(dataset, tmp_path)
    assert first.folder is not None
    expected, path = first.train.tolist(), first.folder / "tokens.bin"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.unlink()
    path.write_bytes(data)
    assert load(dataset, tmp_path).train.tolist() == expected
    assert "building it again" in caplog.text


def test_killed_while_tokenising_then_rebuilt_is_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "BATCH_CHARACTERS", 1000)
    dataset = files(write_jsonl(tmp_path / "a.jsonl", documents(100)))
    golden = load(dataset, tmp_path)
    assert golden.folder is not None
    for call in (1, 20, 99):
        shutil.rmtree(golden.folder)
        with monkeypatch.context() as patch:
            patch.setattr(np, "array", kill_at(call, np.array))
            assert status(in_child(lambda: load(dataset, tmp_path))) == -9
        assert not golden.folder.exists()
        assert load(dataset, tmp_path).data_hash == golden.data_hash
        assert not list((tmp_path / "cache").glob(".tmp-*"))


def test_two_builders_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = files(write_jsonl(tmp_path / "a.jsonl", documents(400)))
    built = tmp_path / "built"

    def counted(*args: object) -> dict[str, object]:
        with built.open("a") as file:
            file.write("x")
        return encode.write_tokens(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(room, "write_tokens", counted)
    children = [in_child(lambda: load(dataset, tmp_path)) for _ in range(3)]
    assert [status(child) for child in children] == [0, 0, 0]
    assert built.read_text() == "x"
    monkeypatch.setattr(room, "write_tokens", fail)
    load(dataset, tmp_path)


def test_validation_files_are_used_as_they_are(tmp_path: Path) -> None:
    train, held = documents(30), documents(4, seed=1)
    path = write_jsonl(tmp_path / "b.jsonl", held)
    corpus = load(files(write_jsonl(tmp_path / "a.jsonl", train), validation_files=[str(path)]), tmp_path)
    assert decoded(corpus, corpus.train) == train
    assert decoded(corpus, corpus.validation) == held


@pytest.mark.parametrize("count", [1, 3])
def test_a_few_documents_fall_back_to_the_last_tokens(tmp_path: Path, count: int) -> None:
    dataset = files(write_jsonl(tmp_path / "a.jsonl", documents(count, words=2000)))
    corpus = load(dataset, tmp_path, block_size=256)
    total = len(corpus.train) + len(corpus.validation)
    assert len(corpus.validation) == max(256, round(total * 0.02))
    assert TokenBlocks(corpus.validation, 256, "validation").num_blocks >= 1
    text = corpus.tokenizer.decode(np.concatenate([corpus.train, corpus.validation]), skip_special_tokens=True)
    assert sorted(text.split()) == sorted("".join(documents(count, words=2000)).split()) or count > 1


def test_blank_documents_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["", " \n", *documents(20), "\u3000", "last"]
    with caplog.at_level("INFO"):
        corpus = load(files(write_jsonl(tmp_path / "a.jsonl", texts)), tmp_path)
    found = decoded(corpus, np.concatenate([corpus.train, corpus.validation]))
    assert sorted(found) == sorted([*documents(20), "last"])
    assert "of 21 documents; 3 blank ones left out" in caplog.text


def test_no_text_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text(" \n\n")
    with pytest.raises(DataError, match=r"^dataset\.files: no text in it, only 2 blank documents"):
        load(files(tmp_path / "*.txt"), tmp_path)


def test_end_of_text_written_in_a_document_is_text(tmp_path: Path) -> None:
    texts = [*documents(20), "a <|endoftext|> in the text"]
    corpus = load(files(write_jsonl(tmp_path / "a.jsonl", texts), validation_fraction=0.1), tmp_path)
    both = np.concatenate([corpus.train, corpus.validation])
    assert sorted(decoded(corpus, both)) == sorted(texts)


def test_error_in_the_text_names_file_and_line_and_leaves_no_cache(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", documents(3))
    with path.open("a") as file:
        file.write("{no json}\n")
    with pytest.raises(DataError, match=rf"^{path}:4: not JSON"):
        load(files(path), tmp_path)
    assert not [name for name in (tmp_path / "cache").iterdir() if not name.name.endswith(".lock")]


def test_long_txt_is_tokenised_in_pieces(tmp_path: Path) -> None:
    text = "".join(f"line {i} of a long text\n" for i in range(20_000))
    (tmp_path / "a.txt").write_text(text)
    corpus = load(files(tmp_path / "a.txt"), tmp_path)
    both = np.concatenate([corpus.train, corpus.validation])
    assert decoded(corpus, both) == [text]


@pytest.fixture
def token_file(tmp_path: Path) -> tuple[DatasetConfig, str]:
    """Ids in a .bin, and the folder of the tokenizer that made them."""
    made = load(files(write_jsonl(tmp_path / "a.jsonl", documents(50))), tmp_path)
    made.tokenizer.save_pretrained(tmp_path / "tokenizer")
    np.asarray(made.train).astype("<u2").tofile(tmp_path / "train.bin")
    return DatasetConfig(source=Source.tokens, files=[str(tmp_path / "train.bin")]), str(tmp_path / "tokenizer")


def test_token_file_is_used_where_it_lies(tmp_path: Path, token_file: tuple[DatasetConfig, str]) -> None:
    dataset, tokenizer = token_file
    corpus = load(dataset, tmp_path, tokenizer, block_size=64)
    ids = np.fromfile(tmp_path / "train.bin", dtype="<u2")
    assert isinstance(corpus.train, np.memmap)
    assert corpus.folder is None
    assert len(corpus.validation) == max(64, round(0.02 * len(ids)))
    np.testing.assert_array_equal(np.concatenate([corpus.train, corpus.validation]), ids)
    shutil.copy(tmp_path / "train.bin", tmp_path / "held.bin")
    dataset.validation_files = [str(tmp_path / "held.bin")]
    other = load(dataset, tmp_path, tokenizer)
    assert len(other.train) == len(other.validation) == len(ids)
    assert other.data_hash != corpus.data_hash


def test_token_files_that_cannot_be_used(tmp_path: Path, token_file: tuple[DatasetConfig, str]) -> None:
    dataset, tokenizer = token_file
    with pytest.raises(ConfigError, match=r"^tokenizer: bpe cannot be trained on token ids"):
        load(dataset, tmp_path)
    ids = np.fromfile(tmp_path / "train.bin", dtype="<u2")
    ids[777] = VOCAB
    ids.tofile(tmp_path / "train.bin")
    with pytest.raises(DataError, match=r"train\.bin: id 300 at position 777, but the model has 300 tokens"):
        load(dataset, tmp_path, tokenizer)
    (tmp_path / "train.bin").write_bytes(b"123")
    with pytest.raises(DataError, match=r"train\.bin: has 3 bytes, not a whole number of uint16 ids"):
        load(dataset, tmp_path, tokenizer)
    (tmp_path / "train.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"train\.bin: has 0 bytes"):
        load(dataset, tmp_path, tokenizer)
    dataset.files *= 2
    (tmp_path / "b.bin").write_bytes(b"12")
    dataset.files[1] = str(tmp_path / "b.bin")
    with pytest.raises(ConfigError, match=r"^dataset\.files: source=tokens needs exactly one file"):
        load(dataset, tmp_path, tokenizer)


def test_uint32_token_file(tmp_path: Path, token_file: tuple[DatasetConfig, str]) -> None:
    dataset, tokenizer = token_file
    ids = np.fromfile(tmp_path / "train.bin", dtype="<u2")
    ids.astype("<u4").tofile(tmp_path / "train.bin")
    dataset.token_dtype = "uint32"
    corpus = load(dataset, tmp_path, tokenizer)
    np.testing.assert_array_equal(np.concatenate([corpus.train, corpus.validation]), ids)


@pytest.mark.skipif("EST_DATA" not in os.environ, reason="needs the shared corpora (EST_DATA)")
def test_real_corpora(tmp_path: Path) -> None:
    corpus_dir = Path(os.environ["EST_DATA"]) / "corpus"
    corpus = load(files(corpus_dir / "mini.jsonl.xz"), tmp_path, block_size=256)
    assert len(corpus.train) > 1_000_000
    single = load(files(corpus_dir / "tinyshakespeare.txt"), tmp_path, block_size=256)
    both = np.concatenate([single.train, single.validation])
    assert decoded(single, both) == [(corpus_dir / "tinyshakespeare.txt").read_text()]
