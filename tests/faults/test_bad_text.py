"""F2: text that cannot be read exactly is refused with file and line, by the whole command; what is left out is told.

Never a run that ends well without a step, and never a folder of a run that has not begun.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from tests.faults.conftest import Tally
from tests.faults.refused import check_ended, check_line
from tests.faults.size import either
from tests.lab.lab import WORDS, Lab

pytestmark = pytest.mark.row("F2")

GOOD = json.dumps({"text": " ".join(WORDS) * 40}).encode() + b"\n"
TEXT = (" ".join(WORDS) + "\n").encode() * 100
Make = Callable[[Path], object]


def lines(*bad: bytes) -> bytes:
    """Lines 1 and 2 are good, the next are these."""
    return GOOD * 2 + b"".join(line + b"\n" for line in bad) + GOOD * 2


def truncated(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def table(**columns: list[object]) -> Make:
    return lambda path: parquet.write_table(pa.table(columns), path)


def cut_table(path: Path) -> None:
    table(text=[TEXT.decode()] * 9)(path)
    path.write_bytes(truncated(path.read_bytes()))


def bytes_table(path: Path) -> None:
    parquet.write_table(pa.table({"text": pa.array([TEXT] * 2, pa.binary())}), path)


def gigabyte(path: Path) -> None:
    with path.open("wb") as file:
        file.write(GOOD)
        file.truncate(1 << 30)


REFUSED: dict[str, tuple[str, bytes | Make, str]] = {
    "empty text": ("a.txt", b"", "dataset.files: no text in it, only 1 blank"),
    "empty lines": ("a.jsonl", b"\n\n \n", "dataset.files: no text in it"),
    "empty file of lines": ("a.jsonl", b"", "dataset.files: no text in it"),
    "only blanks": ("a.txt", b" \n\t\n" * 50, "dataset.files: no text in it, only 1 blank"),
    "only blank documents": ("a.jsonl", b'{"text": " \\n"}\n' * 7, "dataset.files: no text in it, only 7 blank"),
    "shorter than a block": ("a.txt", b"short", "dataset: the "),
    "lone byte": ("a.txt", b"one\ntwo\nth\xffree\n" + TEXT, "a.txt:3: not UTF-8 (byte 0xff)"),
    "lone continuation": ("a.txt", TEXT + b"\x80", "a.txt:101: not UTF-8 (byte 0x80)"),
    "cut character": ("a.txt", TEXT + b"f\xc3", "a.txt:101: not UTF-8 (byte 0xc3)"),
    "overlong": ("a.txt", b"one\n\xc0\xaf", "a.txt:2: not UTF-8 (byte 0xc0)"),
    "surrogate in UTF-8": ("a.txt", b"one\n\xed\xa0\x80", "a.txt:2: not UTF-8 (byte 0xed)"),
    "latin-1": ("a.txt", TEXT + "früh".encode("latin-1"), "a.txt:101: not UTF-8 (byte 0xfc)"),
    "UTF-16": ("a.txt", TEXT.decode().encode("utf-16"), "a.txt:1: not UTF-8 (byte 0xff)"),
    "UTF-16 without a mark": ("a.txt", TEXT.decode().encode("utf-16-le"), "a.txt:1: has a NUL byte"),
    "UTF-32": ("a.txt", TEXT.decode().encode("utf-32-be"), "a.txt:1: "),
    "NUL": ("a.txt", TEXT + b"\0", "a.txt:101: has a NUL byte"),
    "lines of UTF-16": ("a.jsonl", lines().decode().encode("utf-16"), "a.jsonl:1: not UTF-8 (byte 0xff)"),
    "bad JSON": ("a.jsonl", lines(b"{no json}"), "a.jsonl:3: not JSON"),
    "cut JSON": ("a.jsonl", GOOD * 4 + GOOD[:20], "a.jsonl:5: not JSON"),
    "an array over lines": ("a.jsonl", b"[\n" + GOOD, "a.jsonl:1: not JSON"),
    "a list": ("a.jsonl", lines(b'["a"]'), "a.jsonl:3: a row must be a JSON object"),
    "a word": ("a.jsonl", lines(b'"a"'), "a.jsonl:3: a row must be a JSON object"),
    "no field": ("a.jsonl", lines(b'{"body": "a"}'), "a.jsonl:3: no field text or content"),
    "null": ("a.jsonl", lines(b'{"text": null}'), "a.jsonl:3: the text must be a string"),
    "number": ("a.jsonl", lines(b'{"text": 3}'), "a.jsonl:3: the text must be a string"),
    "object": ("a.jsonl", lines(b'{"text": {"a": 1}}'), "a.jsonl:3: the text must be a string"),
    "half a pair": ("a.jsonl", lines(b'{"text": "\\ud800"}'), "a.jsonl:3: the text has half a surrogate pair"),
    "byte in a line": ("a.jsonl", lines(b'{"text": "\xff"}'), "a.jsonl:3: not UTF-8 (byte 0xff)"),
    "NUL in a line": ("a.jsonl", lines(b'{"text": "\0"}'), "a.jsonl:3: not JSON"),
    "nested": ("a.jsonl", lines(b"[" * 100_000), "a.jsonl:3: not JSON that can be read"),
    "digits": ("a.jsonl", lines(b'{"text": ' + b"1" * 5000 + b"}"), "a.jsonl:3: not JSON that can be read"),
    "a line of a gigabyte": ("a.jsonl", gigabyte, "a.jsonl:2: the line is longer than"),
    "gz cut": ("a.txt.gz", truncated(gzip.compress(os.urandom(99) + TEXT)), "a.txt.gz:"),
    "gz cut in lines": ("a.jsonl.gz", truncated(gzip.compress(lines())), "a.jsonl.gz: cannot be read to the end"),
    "gz of something else": ("a.txt.gz", TEXT, "a.txt.gz: cannot be read to the end"),
    "gz with another sum": (
        "a.txt.gz",
        gzip.compress(TEXT)[:-8] + b"\1" * 8,
        "a.txt.gz: cannot be read to the end",
    ),
    "xz cut": ("a.txt.xz", truncated(lzma.compress(TEXT)), "a.txt.xz: cannot be read to the end"),
    "xz of something else": ("a.jsonl.xz", GOOD, "a.jsonl.xz: cannot be read to the end"),
    "zst of something else": ("a.txt.zst", TEXT, "a.txt.zst: cannot be read to the end"),
    "parquet cut": ("a.parquet", cut_table, "a.parquet: "),
    "parquet of something else": ("a.parquet", TEXT, "a.parquet: not readable as parquet"),
    "parquet without the field": ("a.parquet", table(body=["a"]), "a.parquet: no field text or content"),
    "parquet with a null": ("a.parquet", table(text=["a", None]), "a.parquet:2: the text must be a string"),
    "parquet of numbers": ("a.parquet", table(text=[1, 2]), "a.parquet:1: the text must be a string"),
    "parquet of bytes": ("a.parquet", bytes_table, "a.parquet:1: the text must be a string"),
    "unknown kind": ("a.pdf", TEXT, "a.pdf: of unknown kind"),
    "no suffix": ("a", TEXT, "a: of unknown kind"),
    "folder": ("a.txt", lambda path: path.mkdir(), "a.txt: is a folder"),
    "pipe": ("a.txt", os.mkfifo, "a.txt: is not a regular file"),
    "always full": ("a.txt", lambda path: path.symlink_to("/dev/full"), "a.txt: is not a regular file"),
    "endless": ("a.txt", lambda path: path.symlink_to("/dev/zero"), "a.txt: is not a regular file"),
    "link to nothing": ("a.txt", lambda path: path.symlink_to("nothing"), "a.txt: is not a regular file"),
    "nothing": ("a.txt", lambda path: None, "'bad/a.txt' matches no file"),
}


def prepared(lab: Lab, name: str, content: bytes | Make) -> Path:
    (lab.folder / "bad").mkdir()
    path = lab.folder / "bad" / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    return path


def clean(lab: Lab) -> None:
    """No run, and of the caches no half ones."""
    assert not (lab.folder / "outputs").exists()
    assert not list((lab.folder / "data").glob(".tmp-*"))


@pytest.mark.parametrize("case", either(list(REFUSED), list(REFUSED)[6::12]))
def test_text_that_is_refused(lab: Lab, tally: Tally, case: str) -> None:
    name, content, message = REFUSED[case]
    prepared(lab, name, content)
    ended = lab.train(*lab.arguments(f"dataset.files=bad/{name}", "run_name=x"))
    check_ended(ended, 3, message if message.startswith(("dataset", "'")) else f"bad/{message}")
    clean(lab)
    tally(inputs=1)


LONG = 10
"""Documents that are long enough for the tiny run."""

COUNTED: dict[str, tuple[str, bytes, int, int]] = {
    "blank documents": ("a.jsonl", (GOOD + b'{"text": ""}\n{"text": " \\u3000\\n"}\n') * LONG, LONG, 2 * LONG),
    "empty lines": ("a.jsonl", (GOOD + b"\n \n\t\n") * LONG, LONG, 0),
    "CRLF": ("a.jsonl", GOOD.replace(b"\n", b"\r\n") * LONG, LONG, 0),
    "a mark at the beginning": ("a.jsonl", b"\xef\xbb\xbf" + GOOD * LONG, LONG, 0),
    "no end of the last line": ("a.jsonl", (GOOD * LONG)[:-1], LONG, 0),
    "other fields": ("a.jsonl", (b'{"n": 1, "content": "no", ' + GOOD[1:]) * LONG, LONG, 0),
    "two gz in one file": ("a.jsonl.gz", gzip.compress(GOOD * LONG) * 2, 2 * LONG, 0),
}


@pytest.mark.parametrize("case", either(list(COUNTED), list(COUNTED)[:1]))
def test_what_is_left_out_is_counted(lab: Lab, tally: Tally, case: str) -> None:
    name, content, documents, blank = COUNTED[case]
    prepared(lab, name, content)
    budget = ("train.max_steps=2", "stage.t1=1", "stage.t2=1", "train.eval_every=0")
    ended = lab.train(*lab.arguments(f"dataset.files=bad/{name}", "run_name=x", *budget))
    assert ended.code == 0, ended.err
    found = re.search(r"([\d,]+) tokens of (\d+) documents?; (\d+) blank ones? left out", ended.err)
    assert found is not None and (int(found[2]), int(found[3])) == (documents, blank), ended.err
    assert json.loads((lab.at("x") / "summary.json").read_text())["steps"] == 2
    tally(inputs=1)


BLOCK = 32
IDS: dict[str, tuple[bytes, str]] = {
    "half an id": (np.zeros(500, "<u2").tobytes() + b"\0", "a.bin: has 1001 bytes, not a whole number"),
    "empty": (b"", "a.bin: has 0 bytes"),
    "an id too large": (np.array([1] * 777 + [300] + [1] * 99, "<u2").tobytes(), "a.bin: id 300 at position 777"),
    "another dtype": (np.arange(70_000, 71_000, dtype="<u4").tobytes(), "a.bin: id "),
    "big endian": (np.arange(300, dtype=">u2").tobytes(), "a.bin: id 512 at position 2"),
    "a block, and none to validate on": (np.zeros(BLOCK, "<u2").tobytes(), "dataset: the training set has 0 tokens"),
    "one token short of two blocks": (
        np.zeros(2 * BLOCK - 1, "<u2").tobytes(),
        f"dataset: the training set has {BLOCK - 1} tokens",
    ),
}


@pytest.mark.parametrize("case", either(list(IDS), list(IDS)[2:3]))
def test_token_files(lab: Lab, tokenizer: Path, tally: Tally, case: str) -> None:
    content, message = IDS[case]
    prepared(lab, "a.bin", content)
    ended = lab.train(*lab.arguments("dataset=tokens", "dataset.files=bad/a.bin", f"tokenizer={tokenizer}",
                                     "run_name=x"))  # fmt: skip
    check_line(check_ended(ended, 3), message)
    clean(lab)
    tally(inputs=1)


@pytest.fixture(scope="module")
def tokenizer(shared: Lab) -> Path:
    """One of 300 tokens that a run has trained."""
    return next((shared.folder / "data").glob("tokenizer-*/tokenizer.json")).parent
