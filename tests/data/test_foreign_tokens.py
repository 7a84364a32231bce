"""What is given for token ids and is something else is told; ids never are."""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from est_cli.common.errors import DataError
from est_cli.config import DatasetConfig, Source
from est_cli.data import load_corpus
from est_cli.data.tokens.encode import TOKENS
from est_cli.data.tokens.token_files import open_token_files
from tests.lab.corpora import documents, files, write_jsonl

RNG = np.random.default_rng(0)
IDS = np.minimum(RNG.zipf(1.3, 40_000), 50_256)
"""As in text: small ids are frequent."""


def opened(path: Path, vocab: int, dtype: str = "uint16", known: int | None = None) -> int:
    dataset = DatasetConfig(source=Source.tokens, files=[str(path)], token_dtype=dtype)
    return len(open_token_files(dataset, vocab, known or vocab, path.parent / "cache")[0])


RAW = IDS.astype("<u2").tobytes()
FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "npz": (lambda path: np.savez(path.open("wb"), ids=IDS.astype("<u2")), "is a zip archive"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(RAW)), "is packed with gzip; gzip -dc ids > "),
    "zstd": (lambda path: path.write_bytes(pa.compress(RAW, "zstd", asbytes=True)), "is packed with zstd"),
    "xz": (lambda path: path.write_bytes(lzma.compress(RAW)), "is packed with xz"),
    "bzip2": (lambda path: path.write_bytes(bz2.compress(RAW)), "is packed with bzip2"),
    "parquet": (lambda path: pq.write_table(pa.table({"ids": IDS}), path), "is a parquet file"),
    "safetensors": (lambda path: save_file({"ids": IDS}, path), "is a safetensors file"),
    "English": (lambda path: path.write_text("It was a dark and stormy night.\n" * 5000), "is text"),
    "other text": (lambda path: path.write_text("昔々あるところに — été à l'œuvre\r\n" * 5000), "is text"),
    "JSON lines": (lambda path: path.write_text('{"text": "x\\u00e9"}\n' * 500), "is text"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_format_that_is_known_is_told_with_what_to_do(tmp_path: Path, kind: str) -> None:
    write, message = FOREIGN[kind]
    write(tmp_path / "ids")
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path / 'ids'))}: {message}") as error:
        opened(tmp_path / "ids", 1 << 16)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("stored", "dtype", "vocab", "message"),
    [
        ("<u4", "uint16", 50_257, "holds integers of 32 bits: .*; dataset.token_dtype=uint32"),
        ("<i4", "uint16", 1 << 16, "holds integers of 32 bits: "),
        ("<u4", "uint16", 128_256, "holds integers of 32 bits: "),
        ("<i8", "uint16", 50_257, r"holds integers of 64 bits: .*np\.fromfile\('ids', '<i8'\)\.astype\('uint16'\)"),
        ("<i8", "uint32", 128_256, r"holds integers of 64 bits: .*astype\('uint32'\)"),
        ("<u2", "uint32", 50_257, r"id [0-9]+ at position 0, but .* \(read as uint16 they would fit\)"),
        (">u2", "uint16", 50_257, r"id [0-9]+ at .* \(read as uint16 \(big-endian\) they would fit\)"),
    ],
)
def test_integers_of_another_width_are_told(tmp_path: Path, stored: str, dtype: str, vocab: int, message: str) -> None:
    ids = np.where(IDS > 50_000, vocab - 1, IDS)
    ids.astype(stored).tofile(tmp_path / "ids")
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "ids", vocab, dtype)


def with_start(*first: int) -> np.ndarray:
    return np.array([*first, *IDS[:1000]])


HONEST = {
    "like text": IDS,
    "uniform": RNG.integers(0, 50_257, 40_000),
    "of bytes": RNG.integers(32, 127, 40_000),
    "one id": np.full(1000, 7),
    "zeros": np.zeros(1000),
    "two ids": RNG.integers(0, 2, 4000),
    "few, every second 0": np.array([5, 0] * 20),
    "counting": np.arange(50_000),
    "documents of one id": np.where(RNG.random(4000) < 0.6, 0, IDS[:4000]),
    "begins like gzip": with_start(0x8B1F, 0x0008),
    "begins like zip": with_start(0x4B50, 0x0403),
    "begins like parquet": with_start(0x4150, 0x3152),
    "begins like llm.c": with_start(20240520 & 0xFFFF, 20240520 >> 16, 1, 0),
    "a few that are letters": np.array([0x6261] * 40),
}


@pytest.mark.parametrize("kind", HONEST)
def test_ids_are_taken_for_what_they_are(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    HONEST[kind].astype("<u2").tofile(tmp_path / "ids")
    assert opened(tmp_path / "ids", 1 << 16) == len(HONEST[kind])
    (HONEST[kind] * 2).astype("<u4").tofile(tmp_path / "wide")
    assert opened(tmp_path / "wide", 1 << 18, "uint32") == len(HONEST[kind])
    assert not caplog.records or kind == "zeros"  # taken, and told


def test_ids_that_the_tokenizer_does_not_have_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    IDS.astype("<u2").tofile(tmp_path / "ids")
    caplog.set_level(logging.WARNING)
    opened(tmp_path / "ids", 50_304, known=50_257)
    assert not caplog.records
    opened(tmp_path / "ids", 50_304, known=32_000)
    assert "holds the id 50256, but the tokenizer has 32000 tokens only" in caplog.text


def test_a_file_that_was_not_written_to_its_end_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    filled = np.tile(IDS, 10).astype("<u2")
    for share, told in ((0, False), (1, False), (9, True)):
        caplog.clear()
        np.concatenate([filled, np.zeros(share * len(filled), "<u2")]).tofile(tmp_path / "ids")
        opened(tmp_path / "ids", 50_304)
        assert ("90 % of its ids are 0; was it written to its end?" in caplog.text) is told


def test_ids_that_another_tokenizer_has_made_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where that is known: in est's own cache."""
    for name, seed in (("one", 0), ("other", 1)):
        texts = write_jsonl(tmp_path / f"{name}.jsonl", documents(30, seed=seed))
        made = load_corpus(files(texts), "bpe", 300, tmp_path / name)
        made.tokenizer.save_pretrained(tmp_path / f"tokenizer-{name}")
    cached = DatasetConfig(source=Source.tokens, files=[str(made.folders[0] / TOKENS)])
    load_corpus(cached, str(tmp_path / "tokenizer-other"), 300, tmp_path)
    with pytest.raises(DataError, match=r"tokens\.bin: a tokenizer with the fingerprint \w{12} made these ids"):
        load_corpus(cached, str(tmp_path / "tokenizer-one"), 300, tmp_path)
    load_corpus(cached, str(tmp_path / "tokenizer-one"), 300, tmp_path, begun=True)
    assert "made these ids" in caplog.text
