"""Token ids in several files and in the forms of others: read as what they are, or refused where they do not fit."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from est_cli.common.errors import ConfigError, DataError, EstError
from est_cli.config import DatasetConfig, Source
from est_cli.data.tokens import token_forms
from est_cli.data.tokens.stream import TokenStream
from est_cli.data.tokens.token_files import open_token_files
from est_cli.storage.digest import digest_file, fingerprint

IDS = np.minimum(np.random.default_rng(0).zipf(1.3, 4000), 50_256)
VOCAB, END = 50_257, 50_256


def opened(files: Sequence[Path | str], **settings: Any) -> tuple[TokenStream, TokenStream | None, str]:
    dataset = DatasetConfig(source=Source.tokens, files=[str(path) for path in files], **settings)
    return open_token_files(dataset, VOCAB, VOCAB, Path(files[0]).parent / "cache", end=END)


def read(*files: Path | str, **settings: Any) -> np.ndarray:
    return opened(files, **settings)[0].read()


def refused(kind: type[EstError], message: str, *files: Path, **settings: Any) -> None:
    with pytest.raises(kind, match=message) as error:
        opened(files, **settings)
    assert "\n" not in str(error.value)


def raw(path: Path, ids: np.ndarray, dtype: str = "<u2") -> Path:
    ids.astype(dtype).tofile(path)
    return path


def npy(path: Path, array: np.ndarray, version: tuple[int, int] | None = None) -> Path:
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version)
    return path


def llmc(path: Path, magic: int = 20240520, dtype: str = "<u2", count: int = len(IDS)) -> Path:
    header = np.zeros(256, "<i4")
    header[:3] = magic, 1, count
    path.write_bytes(header.tobytes() + IDS.astype(dtype).tobytes())
    return path


def index(sizes: Sequence[int], code: int = 8, width: int = 2, **other: Any) -> bytes:
    """As Megatron's IndexedDatasetBuilder writes it; a document a sequence."""
    pointers = other.get("pointers", [width * sum(sizes[:at]) for at in range(len(sizes))])
    documents = other.get("documents", [*range(len(sizes) + 1)])
    head = b"MMIDIDX\x00\x00" + struct.pack("<QB", other.get("version", 1), code)
    head += struct.pack("<QQ", other.get("count", len(sizes)), len(documents))
    tables = (
        np.array(sizes, "<i4").tobytes() + np.array(pointers, "<i8").tobytes() + np.array(documents, "<i8").tobytes()
    )
    return head + tables


def megatron(path: Path, ids: np.ndarray = IDS, dtype: str = "<u2", code: int = 8, sizes: Sequence[int] = ()) -> Path:
    sizes = sizes or [1000, 0, 2500, len(ids) - 3500]
    path.with_suffix(".idx").write_bytes(index(sizes, code, np.dtype(dtype).itemsize))
    return raw(path.with_suffix(".bin"), ids, dtype)


FORMS: dict[str, Callable[[Path], Path]] = {
    "npy": lambda path: npy(path, IDS.astype("<u2")),
    "npy of 32 bits": lambda path: npy(path, IDS.astype("<u4")),
    "npy of int64": lambda path: npy(path, IDS),
    "npy, big-endian": lambda path: npy(path, IDS.astype(">i4")),
    "npy of rows": lambda path: npy(path, IDS.reshape(40, 100)),
    "npy, format 2": lambda path: npy(path, IDS.astype("<u2"), (2, 0)),
    "llm.c": llmc,
    "llm.c, Llama 3": lambda path: llmc(path, 20240801, "<u4"),
    "Megatron": megatron,
    "Megatron of 32 bits": lambda path: megatron(path, dtype="<i4", code=4),
    "Megatron by its index": lambda path: megatron(path).with_suffix(".idx"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_is_known_is_read(tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = FORMS[form](tmp_path / "ids.bin")
    np.testing.assert_array_equal(read(path), IDS)
    assert f"dataset.files: {len(IDS)} tokens; 1 x " in caplog.text
    assert {"n": "array of NumPy of ", "l": "shard of llm.c", "M": "data set of Megatron of "}[form[0]] in caplog.text


def test_a_header_of_any_length_is_passed_over(tmp_path: Path) -> None:
    """An odd one too, as other writers may leave it."""
    text = b"{'descr': '<u4', 'fortran_order': False, 'shape': (4000,), }\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + IDS.astype("<u4").tobytes()
    assert (len(content) - 16000) % 2 == 1
    (tmp_path / "a.npy").write_bytes(content)
    tokens = opened([tmp_path / "a.npy"])[0]
    np.testing.assert_array_equal(tokens.part(7, 3000).read(5, 90), IDS[12:97])


def test_shards_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        raw(tmp_path / f"shard_{number}.bin", IDS[1000 * number :][:1000])
    npy(tmp_path / "rest.npy", IDS[3000:])
    np.testing.assert_array_equal(read(tmp_path / "shard_*.bin", tmp_path / "rest.npy"), IDS)
    train, held, digest = opened([tmp_path / "shard_[01].bin"], validation_files=[str(tmp_path / "shard_2.bin")])
    assert held is not None
    np.testing.assert_array_equal(np.concatenate([train.read(), held.read()]), IDS[:3000])
    assert digest != opened([tmp_path / "shard_*.bin"])[2]
    again = [str(tmp_path / "shard_1.bin")]
    refused(DataError, "shard_1.bin has the content of", tmp_path / "shard_*.bin", validation_files=again)
    (tmp_path / "again.bin").hardlink_to(tmp_path / "shard_0.bin")
    refused(DataError, "is the file .* once more", tmp_path / "shard_0.bin", tmp_path / "again.bin")


def test_the_digest_of_raw_ids_is_what_it_always_was(tmp_path: Path) -> None:
    one, other = raw(tmp_path / "a.bin", IDS), raw(tmp_path / "b.bin", IDS[::-1])
    digests = [digest_file(one), digest_file(other)]
    assert opened([one])[2] == fingerprint("tokens", digests[:1], "<u2")
    assert opened([one], validation_files=[str(other)])[2] == fingerprint("tokens", digests, "<u2")
    wide = raw(tmp_path / "wide.bin", IDS, "<u4")
    before = opened([wide], token_dtype="uint32")[2]
    assert before == fingerprint("tokens", [digest_file(wide)], "<u4")
    megatron(tmp_path / "wide.bin", dtype="<i4", code=4)
    assert opened([wide])[2] == before  # what was read as raw ids is known again


def test_a_type_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    told = r"^dataset\.token_dtype: is {}, but .*ids holds {} \({}\); leave it out"
    npy(tmp_path / "ids", IDS.astype("<u2"))
    refused(ConfigError, told.format("uint32", "uint16", "array of NumPy"), tmp_path / "ids", token_dtype="uint32")
    llmc(tmp_path / "ids", 20240801, "<u4")
    refused(ConfigError, told.format("uint16", "uint32", "shard of llm.c .*"), tmp_path / "ids", token_dtype="uint16")
    np.testing.assert_array_equal(read(tmp_path / "ids", token_dtype="uint32"), IDS)
    npy(tmp_path / "ids", IDS.astype("<i4"))
    np.testing.assert_array_equal(read(tmp_path / "ids", token_dtype="uint32"), IDS)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (IDS.astype("f4"), "of float32, and ids are integers"),
        (IDS > 5, "of bool, and ids are integers"),
        (np.array([1, "a"], dtype=object), "of object, and ids are integers"),
        (np.asfortranarray(IDS.reshape(40, 100)), "in Fortran's order"),
        (IDS[:0], "without any ids"),
        (-IDS, "id -[0-9]+ at position 0, but the model has 50257 tokens"),
        (IDS.astype("u8") + (1 << 63), "id -[0-9]+ at position 0, but"),
        (IDS + VOCAB, r"id [0-9]+ at position 0, but the model has 50257 tokens; is it another tokenizer's\?$"),
    ],
    ids=str,
)
def test_arrays_that_hold_no_ids(tmp_path: Path, array: np.ndarray, told: str) -> None:
    np.save(tmp_path / "a.npy", array)
    refused(DataError, told, tmp_path / "a.npy")


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<u2', 'fortran_order': False, 'shape': (4000000000000,), }",
        b"{'descr': '<u2', 'fortran_order': False, 'shape': (-1, -9000), }",
        b"{'descr': '<u2', 'fortran_order': False, 'shape': (4001,), }",
        b"__import__('os').system('true')",
        b"(" * 5000,
        b"",
    ],
    ids=repr,
)
def test_headers_of_arrays_that_do_not_fit(tmp_path: Path, header: bytes) -> None:
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + IDS.astype("<u2").tobytes()
    (tmp_path / "a.npy").write_bytes(content)
    refused(
        DataError, "is an array of NumPy (whose header cannot be read|of .* which do not fit its)", tmp_path / "a.npy"
    )


def test_a_shard_that_was_not_copied_to_its_end(tmp_path: Path) -> None:
    refused(
        DataError, "of 9000 uint16 by its header, which do not fit its 9024 bytes", llmc(tmp_path / "a", count=9000)
    )


SIZES = [1000, 2500, 500]
HOSTILE = {
    "another version": (index(SIZES, version=2), "a Megatron index of version 2"),
    "floats": (index(SIZES, code=7), "its ids are of the type 7"),
    "an unknown type": (index(SIZES, code=99), "its ids are of the type 99"),
    "cut in its header": (index(SIZES)[:20], "ends within its header"),
    "cut": (index(SIZES)[:-1], "3 sequences and 4 entries of documents by its header, which do not fit its"),
    "too many": (index(SIZES, count=1 << 62), "sequences and 4 entries of documents by its header, which do not"),
    "a negative size": (index([1000, -500, 3500]), "sequences do not follow each other"),
    "a gap": (index(SIZES, pointers=[0, 2002, 7002]), "sequences do not follow each other"),
    "outside": (index(SIZES, pointers=[0, 2000, 1 << 60]), "sequences do not follow each other"),
    "another order": (index(SIZES, pointers=[6000, 0, 5000]), "sequences do not follow each other"),
    "too few ids": (index([1000, 2500]), "has 8000 bytes, but ids.idx tells of 3500 ids of uint16"),
    "another width": (index(SIZES, code=4, width=4), "has 8000 bytes, but ids.idx tells of 4000 ids of int32"),
    "documents backwards": (index(SIZES, documents=[0, 3, 1, 3]), "its documents do not follow each other"),
    "documents from 1": (index(SIZES, documents=[1, 2, 3]), "its documents do not follow each other"),
    "documents beyond": (index(SIZES, documents=[0, 1, 9]), "its documents end with sequence 9 of 3"),
    "no documents": (index(SIZES, documents=[]), "its documents end with sequence 0 of 3"),
}


@pytest.mark.parametrize("entries", [2, 1 << 20])
@pytest.mark.parametrize("kind", HOSTILE)
def test_an_index_that_does_not_fit_is_refused(
    tmp_path: Path, kind: str, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_forms, "_ENTRIES", entries)
    path = raw(tmp_path / "ids.bin", IDS)
    content, told = HOSTILE[kind]
    path.with_suffix(".idx").write_bytes(content)
    refused(DataError, told, path)
    path.with_suffix(".idx").write_bytes(index(SIZES))
    np.testing.assert_array_equal(read(path), IDS)
    path.with_suffix(".idx").write_bytes(b"something else")  # and no index of this file
    np.testing.assert_array_equal(read(path), IDS)


def test_an_index_without_its_ids(tmp_path: Path) -> None:
    (tmp_path / "a.idx").write_bytes(index(SIZES))
    refused(DataError, r"a\.idx: is the index of a Megatron .* lie in a\.bin: there is none", tmp_path / "a.idx")
    raw(tmp_path / "a.bin", IDS)
    np.testing.assert_array_equal(read(tmp_path / "a.*"), IDS)  # both names are one data set


@pytest.mark.parametrize(("entries", "looked_at"), [(7, 6), (1 << 20, 100)])
def test_documents_of_megatron_without_end_of_text_are_told(
    tmp_path: Path, entries: int, looked_at: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_forms, "_ENTRIES", entries)
    caplog.set_level(logging.INFO)
    ids = np.minimum(IDS, END - 1)
    sizes = [20] * 200
    megatron(tmp_path / "a.bin", ids, sizes=sizes)
    opened([tmp_path / "a.bin"])
    assert (
        f"{looked_at} of its first {looked_at} documents do not end with the tokenizer's end of text (id 50256)"
        in caplog.text
    )
    ids[19::20] = END
    caplog.clear()
    megatron(tmp_path / "b.bin", ids, sizes=sizes)
    opened([tmp_path / "b.bin"])
    assert "its documents end with the tokenizer's end of text" in caplog.text
    assert not any(record.levelno > logging.INFO for record in caplog.records)
