import os
from pathlib import Path

import numpy as np
import pytest

from est_cli.common.errors import DataError
from est_cli.data import TokenBlocks
from est_cli.data.tokens import stream
from est_cli.data.tokens.stream import Tokens, TokenSpan, TokenStream
from tests.lab.corpora import token_file


@pytest.fixture
def spans(tmp_path: Path) -> list[TokenSpan]:
    """Of 25 files: 0 ... 9, then 10 ... 19, and so on; in the files there is more before and behind."""
    found = []
    for number in range(25):
        np.concatenate([[60000], np.arange(10) + 10 * number, [60001]]).astype("<u2").tofile(tmp_path / str(number))
        found.append(TokenSpan(tmp_path / str(number), "<u2", 1, 11))
    found.insert(7, TokenSpan(tmp_path / "empty, and not there", "<u2", 3, 3))
    return found


def test_any_part_is_that_of_the_concatenation(spans: list[TokenSpan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_READ", 7)  # bytes, so that a part takes several
    tokens = TokenStream(spans)
    assert len(tokens) == 250
    assert tokens.read().tolist() == list(range(250))
    for start in range(0, 250, 7):
        for stop in range(start, 250, 11):
            assert tokens.read(start, stop).tolist() == list(range(start, stop))
            assert tokens.part(start, stop).read().tolist() == list(range(start, stop))
    both = tokens.part(200, 250) + tokens.part(0, 20)
    assert both.read(45, 55).tolist() == [245, 246, 247, 248, 249, 0, 1, 2, 3, 4]


def test_blocks_cross_the_ends_of_files(spans: list[TokenSpan]) -> None:
    blocks = TokenBlocks(Tokens((TokenStream(spans),)), seq_len=16)
    assert blocks.num_blocks == 15
    assert blocks.take(np.array([14, 0, 3])).tolist() == [list(range(16 * n, 16 * n + 16)) for n in (14, 0, 3)]


def test_blocks_of_several_streams(tmp_path: Path) -> None:
    streams = token_file(tmp_path / "a", np.arange(35)), token_file(tmp_path / "b", np.arange(100, 155))
    blocks = TokenBlocks(Tokens(streams), seq_len=10)
    assert blocks.counts == (3, 5) and blocks.num_blocks == 8
    assert blocks.take(np.arange(8))[:, 0].tolist() == [0, 10, 20, 100, 110, 120, 130, 140]
    mixed = TokenBlocks(Tokens(streams, (1.0, 1.0)), seq_len=10)
    assert mixed.num_blocks == 6
    assert mixed.take(np.arange(6))[:, 0].tolist() == [0, 100, 10, 110, 20, 120]


def test_no_more_files_are_open_than_allowed(spans: list[TokenSpan]) -> None:
    assert stream.opened.cache_info().maxsize == stream.MAX_OPEN < 512
    before = len(list(Path("/proc/self/fd").iterdir()))
    stream.opened.cache_clear()
    tokens = TokenStream(spans * 40)
    tokens.read()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 25


def test_file_that_is_gone_is_named(spans: list[TokenSpan]) -> None:
    spans[20].path.unlink()
    stream.opened.cache_clear()
    with pytest.raises(DataError, match=r"/19: cannot be read \(No such file"):
        TokenStream(spans).read()


def test_a_file_that_is_cut_while_it_is_read_is_named(spans: list[TokenSpan]) -> None:
    """A mapped one would kill the process."""
    tokens = TokenStream(spans)
    assert tokens.read(0, 20).tolist() == list(range(20))
    os.truncate(spans[1].path, 9)
    with pytest.raises(DataError, match=r"/1: ends too early"):
        tokens.read(0, 20)
