"""load_corpus from end to end: text in, tokens out, through the cache."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from est_cli.common.errors import ConfigError, DataError, StorageError
from est_cli.config import DatasetConfig, Source
from est_cli.config.data import Cut
from est_cli.data import BlockOrder, Corpus, TokenBlocks, load_corpus
from est_cli.data.text.pieces import Piece, held_out
from est_cli.data.tokens import encode, token_cache
from est_cli.data.tokens.cuts import Part
from est_cli.data.tokens.encode import TOKENS
from tests.lab.corpora import all_ids, documents, files, ids, in_child, kill_at, status, write_jsonl

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
    train, held = decoded(corpus, ids(corpus.train)), decoded(corpus, ids(corpus.validation))
    assert train == [text for text in texts if not held_out(text, 0.2)]
    assert held == [text for text in texts if held_out(text, 0.2)]
    assert 10 < len(held) < 30
    assert sum((folder / TOKENS).stat().st_size for folder in corpus.folders) == 2 * len(all_ids(corpus))


def test_a_file_in_the_place_of_the_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(StorageError, match=r"cache: is no folder, and tokens are kept in .*cache; move it away"):
        load(files(write_jsonl(tmp_path / "a.jsonl", documents(9))), tmp_path)


def test_second_run_reads_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = files(write_jsonl(tmp_path / "a.jsonl", documents(50)))
    first = load(dataset, tmp_path)
    monkeypatch.setattr(token_cache, "write_tokens", fail)
    second = load(dataset, tmp_path)
    np.testing.assert_array_equal(all_ids(first), all_ids(second))
    assert (first.data_hash, first.tokenizer_hash, first.folders) == (
        second.data_hash, second.tokenizer_hash, second.folders,
    )  # fmt: skip


def test_new_content_at_the_same_path_and_time_is_tokenised(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", documents(50))
    first, stat = load(files(path), tmp_path), path.stat()
    data = path.read_text()
    path.write_text(data.replace("document 7", "dOcument 7"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = load(files(path), tmp_path)
    assert second.folders != first.folders
    assert second.data_hash != first.data_hash
    assert any("dOcument" in text for text in decoded(second, all_ids(second)))


def test_cache_follows_tokenizer_and_split(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", documents(50))
    for name in ("one", "two"):
        other = write_jsonl(tmp_path / f"{name}.jsonl", [f"{name} " * 9, *documents(30)])
        load(files(other), tmp_path).tokenizer.save_pretrained(tmp_path / name)
    corpora = [load(files(path), tmp_path, str(tmp_path / name)) for name in ("one", "two")]
    corpora.append(load(files(path, validation_fraction=0.3), tmp_path, str(tmp_path / "one")))
    assert len({corpus.folders for corpus in corpora}) == 3
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
    parts = [Part("x" * 30, True, True, False)] * 10
    assert [len(batch) for batch in encode._batches(iter(parts))] == [4, 4, 2]


@pytest.mark.parametrize(
    "text", ["word " * 100, "line\n" * 100, "x" * 500, "a\n" + "b" * 400, " " * 300 + "\n", "短い " * 99]
)
def test_long_rows_are_cut_and_put_together_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(encode, "LINE_CHARACTERS", 64)
    pieces = list(encode._cut_at_lines(iter([(Piece(text, True), True), (Piece("b", True), False)])))
    assert "".join(piece.text for piece in pieces) == text + "b"
    assert all(0 < len(piece.text) <= 64 for piece in pieces) and len(pieces) >= len(text) / 64
    assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 2) + [True, True]
    texts = [text + "end", *documents(20)]
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    for cut in Cut:
        corpus = load(files(path, validation_fraction=0.2, cut=cut), tmp_path)
        assert sorted(decoded(corpus, all_ids(corpus))) == sorted(texts)


def test_flipped_byte_in_the_tokens_is_repaired(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = files(write_jsonl(tmp_path / "a.jsonl", documents(50)))
    first = load(dataset, tmp_path)
    expected, path = ids(first.train).tolist(), first.folders[0] / TOKENS
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.unlink()
    path.write_bytes(data)
    assert ids(load(dataset, tmp_path).train).tolist() == expected
    assert "building it again" in caplog.text


def test_killed_while_tokenising_then_rebuilt_is_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "BATCH_CHARACTERS", 1000)
    dataset = files(write_jsonl(tmp_path / "a.jsonl", documents(100)))
    golden = load(dataset, tmp_path)
    (folder,) = golden.folders
    for call in (1, 20, 99):
        shutil.rmtree(folder)
        with monkeypatch.context() as patch:
            patch.setattr(np, "array", kill_at(call, np.array))
            assert status(in_child(lambda: load(dataset, tmp_path))) == -9
        assert not folder.exists()
        assert load(dataset, tmp_path).data_hash == golden.data_hash
        assert not list((tmp_path / "cache").glob(".tmp-*"))


def test_two_builders_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = files(write_jsonl(tmp_path / "a.jsonl", documents(400)))
    built = tmp_path / "built"

    def counted(*args: object) -> dict[str, object]:
        with built.open("a") as file:
            file.write("x")
        return encode.write_tokens(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(token_cache, "write_tokens", counted)
    children = [in_child(lambda: load(dataset, tmp_path)) for _ in range(3)]
    assert [status(child) for child in children] == [0, 0, 0]
    assert built.read_text() == "x"
    monkeypatch.setattr(token_cache, "write_tokens", fail)
    load(dataset, tmp_path)


def test_validation_files_are_used_as_they_are(tmp_path: Path) -> None:
    train, held = documents(30), documents(4, seed=1)
    path = write_jsonl(tmp_path / "b.jsonl", held)
    corpus = load(files(write_jsonl(tmp_path / "a.jsonl", train), validation_files=[str(path)]), tmp_path)
    assert decoded(corpus, ids(corpus.train)) == train
    assert decoded(corpus, ids(corpus.validation)) == held


@pytest.mark.parametrize("count", [1, 3])
def test_a_few_documents_fall_back_to_the_last_tokens(tmp_path: Path, count: int) -> None:
    dataset = files(write_jsonl(tmp_path / "a.jsonl", documents(count, 1, words=2000)))
    corpus = load(dataset, tmp_path, block_size=256)
    total = len(corpus.train) + len(corpus.validation)
    assert len(corpus.validation) == max(256, round(total * 0.02))
    assert TokenBlocks(corpus.validation, 256, "validation").num_blocks >= 1
    text = corpus.tokenizer.decode(all_ids(corpus), skip_special_tokens=True)
    assert sorted(text.split()) == sorted("".join(documents(count, 1, words=2000)).split()) or count > 1


def test_blank_documents_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["", " \n", *documents(20), "\u3000", "last"]
    with caplog.at_level("INFO"):
        corpus = load(files(write_jsonl(tmp_path / "a.jsonl", texts)), tmp_path)
    found = decoded(corpus, all_ids(corpus))
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
    both = all_ids(corpus)
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
    both = all_ids(corpus)
    assert decoded(corpus, both) == [text]


@pytest.fixture
def two(tmp_path: Path) -> tuple[DatasetConfig, str]:
    """Two sources, the first much larger, and a tokenizer."""
    for name, count in (("prose", 300), ("code", 30)):
        write_jsonl(tmp_path / f"{name}.jsonl", [f"{name} {text}" for text in documents(count)])
    dataset = files(tmp_path / "prose.jsonl", tmp_path / "code.jsonl", validation_fraction=0.2)
    load(dataset, tmp_path).tokenizer.save_pretrained(tmp_path / "tokenizer")
    return dataset, str(tmp_path / "tokenizer")


def test_mixture(tmp_path: Path, two: tuple[DatasetConfig, str], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, tokenizer = two
    plain = load(dataset, tmp_path, tokenizer)
    monkeypatch.setattr(
        token_cache, "write_tokens", lambda *args: pytest.fail("tokenised again") if mixed else write(*args)
    )
    write, mixed = encode.write_tokens, None
    dataset.weights = [3.0, 1.0]
    mixed = load(dataset, tmp_path, tokenizer, block_size=32)
    assert mixed.weights == (3.0, 1.0) and len(mixed.train.streams) == 2
    assert all(text.startswith("code") for text in decoded(mixed, mixed.train.streams[1].read()))
    dataset.weights = [1.0, 1.0]
    other = load(dataset, tmp_path, tokenizer)
    assert other.folders == mixed.folders
    assert len({corpus.data_hash for corpus in (plain, mixed, other)}) == 3
    train, held = TokenBlocks(mixed.train, 32), TokenBlocks(mixed.validation, 32, "validation")
    order = BlockOrder(train.counts, 0, mixed.weights)
    assert (order.blocks(0, 1000) >= train.counts[0]).sum() == 250
    assert held.num_blocks == 4 * held.counts[1] < sum(held.counts)


def test_named_validation_files_of_a_mixture_are_a_single_stream(
    tmp_path: Path, two: tuple[DatasetConfig, str]
) -> None:
    dataset, tokenizer = two
    held = documents(5, seed=8)
    dataset.weights, dataset.validation_files = [3.0, 1.0], [str(write_jsonl(tmp_path / "held.jsonl", held))]
    corpus = load(dataset, tmp_path, tokenizer)
    assert decoded(corpus, ids(corpus.validation)) == held
    assert TokenBlocks(corpus.validation, 32).num_blocks == len(corpus.validation) // 32


def test_excluded_rows_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", documents(30))
    with caplog.at_level("INFO"):
        corpus = load(files(path, exclude=["id=7", "id=9"]), tmp_path)
    expected = [text for number, text in enumerate(documents(30)) if number not in (7, 9)]
    assert sorted(decoded(corpus, all_ids(corpus))) == sorted(expected)
    assert "of 28 documents; 0 blank ones and 2 excluded ones left out" in caplog.text
    assert "nothing is left out" not in caplog.text
    with pytest.raises(DataError, match="no text in it, only 0 blank documents and 30 excluded ones"):
        load(
            files(path, exclude=[f"id={number}" for number in range(30)]), tmp_path, str(tokenizer_of(tmp_path, corpus))
        )


def test_a_rule_that_leaves_nothing_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = write_jsonl(tmp_path / "a.jsonl", documents(30)), write_jsonl(tmp_path / "b.jsonl", documents(5, seed=1))
    load(files(*paths, weights=[1.0, 1.0], exclude=["id=29"]), tmp_path)  # in one of two sources
    assert "nothing is left out" not in caplog.text
    load(files(*paths, weights=[1.0, 1.0], exclude=["idd=7"]), tmp_path)
    assert "dataset.exclude: no row has idd=7, nothing is left out" in caplog.messages


def test_an_empty_file_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(DataError, match=r"^dataset\.files: no text in it; name files that have some$"):
        load(files(tmp_path / "a.jsonl"), tmp_path)


def tokenizer_of(folder: Path, corpus: Corpus) -> Path:
    corpus.tokenizer.save_pretrained(folder / "saved")
    return folder / "saved"


def test_a_document_stays_on_its_side_when_the_corpus_grows(tmp_path: Path) -> None:
    texts = documents(60)
    small = load(files(write_jsonl(tmp_path / "a.jsonl", texts[20:]), validation_fraction=0.3), tmp_path)
    large = load(files(write_jsonl(tmp_path / "b.jsonl", texts[::-1]), validation_fraction=0.3), tmp_path)
    sides = [
        [set(decoded(corpus, ids(tokens))) for tokens in (corpus.train, corpus.validation)] for corpus in (small, large)
    ]
    assert sides[0][0] < sides[1][0] and sides[0][1] < sides[1][1]


@pytest.fixture
def token_file(tmp_path: Path) -> tuple[DatasetConfig, str]:
    """Ids in a .bin, and the folder of the tokenizer that made them."""
    made = load(files(write_jsonl(tmp_path / "a.jsonl", documents(50))), tmp_path)
    made.tokenizer.save_pretrained(tmp_path / "tokenizer")
    ids(made.train).astype("<u2").tofile(tmp_path / "train.bin")
    return DatasetConfig(source=Source.tokens, files=[str(tmp_path / "train.bin")]), str(tmp_path / "tokenizer")


def test_token_file_is_used_where_it_lies(tmp_path: Path, token_file: tuple[DatasetConfig, str]) -> None:
    dataset, tokenizer = token_file
    corpus = load(dataset, tmp_path, tokenizer, block_size=64)
    expected = np.fromfile(tmp_path / "train.bin", dtype="<u2")
    assert corpus.folders == ()
    assert len(corpus.validation) == max(64, round(0.02 * len(expected)))
    np.testing.assert_array_equal(all_ids(corpus), expected)
    expected[::-1].tofile(tmp_path / "held.bin")  # other documents
    dataset.validation_files = [str(tmp_path / "held.bin")]
    other = load(dataset, tmp_path, tokenizer)
    assert len(other.train) == len(other.validation) == len(expected)
    assert other.data_hash != corpus.data_hash


def test_token_files_that_cannot_be_used(tmp_path: Path, token_file: tuple[DatasetConfig, str]) -> None:
    dataset, tokenizer = token_file
    with pytest.raises(ConfigError, match=r"^tokenizer: bpe cannot be trained on token ids"):
        load(dataset, tmp_path)
    tokens = np.fromfile(tmp_path / "train.bin", dtype="<u2")
    tokens[777] = VOCAB
    tokens.tofile(tmp_path / "train.bin")
    with pytest.raises(DataError, match=r"train\.bin: id 300 at position 777, but the model has 300 tokens"):
        load(dataset, tmp_path, tokenizer)
    (tmp_path / "train.bin").write_bytes(b"123")
    with pytest.raises(DataError, match=r"train\.bin: has 3 bytes, not a whole number of uint16 ids"):
        load(dataset, tmp_path, tokenizer)
    (tmp_path / "train.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"train\.bin: has 0 bytes"):
        load(dataset, tmp_path, tokenizer)


def test_uint32_token_file(tmp_path: Path, token_file: tuple[DatasetConfig, str]) -> None:
    dataset, tokenizer = token_file
    tokens = np.fromfile(tmp_path / "train.bin", dtype="<u2")
    tokens.astype("<u4").tofile(tmp_path / "train.bin")
    dataset.token_dtype = "uint32"
    corpus = load(dataset, tmp_path, tokenizer)
    np.testing.assert_array_equal(all_ids(corpus), tokens)


@pytest.mark.skipif("EST_DATA" not in os.environ, reason="needs the shared corpora (EST_DATA)")
def test_real_corpora(tmp_path: Path) -> None:
    corpus_dir = Path(os.environ["EST_DATA"]) / "corpus"
    corpus = load(files(corpus_dir / "mini.jsonl.xz"), tmp_path, block_size=256)
    assert len(corpus.train) > 1_000_000
    single = load(files(corpus_dir / "tinyshakespeare.txt"), tmp_path, block_size=256)
    assert decoded(single, all_ids(single)) == [(corpus_dir / "tinyshakespeare.txt").read_text()]
