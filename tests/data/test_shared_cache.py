"""A folder of tokens that belongs to another user: of use as far as all is in it, and never written into."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from est_cli.common.errors import StorageError
from est_cli.data import Corpus, load_corpus
from est_cli.data.text import units
from est_cli.data.tokens import token_cache
from tests.lab.corpora import bound_by_modes, documents, files, in_child, status, write_jsonl

ROOMS = "data"


def load(folder: Path, vocab_size: int = 300) -> Corpus:
    return load_corpus(files(folder / "*.jsonl", validation_fraction=0.2), "bpe", vocab_size, folder / ROOMS)


def in_child_bound_by_modes(work: Callable[[], object]) -> int:
    def bound() -> None:
        bound_by_modes()
        work()

    return status(in_child(bound))


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """(a folder with a text, whose tokens are in a folder that cannot be written, the hash of these)."""
    for number in range(2):
        write_jsonl(tmp_path / f"{number}.jsonl", documents(20, seed=number))
    found = load(tmp_path).data_hash
    root = tmp_path / ROOMS
    for path in (*root.glob(".*.lock"), *root.glob("digests-*")):
        path.unlink()
    root.chmod(0o555)
    yield tmp_path, found
    root.chmod(0o755)


def test_what_is_there_is_used_and_nothing_is_written(shared: tuple[Path, str]) -> None:
    folder, found = shared
    before = names(folder)

    def use() -> None:
        assert load(folder).data_hash == found

    assert in_child_bound_by_modes(use) == 0
    assert names(folder) == before


def test_what_is_missing_is_told(shared: tuple[Path, str]) -> None:
    folder, _ = shared
    rest = r", and cannot be written \(Permission denied\); paths\.data=FOLDER or EST_DATA_CACHE names a place where"

    def ask_for_another_tokenizer() -> None:
        with pytest.raises(
            StorageError, match=rf"^{folder}/data: lacks an intact BPE of 400 tokens of this text{rest}"
        ):
            load(folder, 400)

    def ask_for_more_text() -> None:
        tokenizer = str(next((folder / ROOMS).glob("tokenizer-*")))
        with pytest.raises(StorageError, match=rf"^{folder}/data: lacks intact tokens of .* \(1 of 1 parts\){rest}"):
            load_corpus(files(folder / "0.jsonl", validation_fraction=0.3), tokenizer, 300, folder / ROOMS)

    def ask_below() -> None:
        with pytest.raises(StorageError, match=rf"^{folder}/data/new: lacks an intact BPE .*{rest}"):
            load_corpus(files(folder / "*.jsonl"), "bpe", 300, folder / ROOMS / "new")

    before = names(folder)
    for ask in (ask_for_another_tokenizer, ask_for_more_text, ask_below):
        assert in_child_bound_by_modes(ask) == 0, ask
    assert names(folder) == before


def test_tokens_that_another_user_may_not_read_are_told_as_missing(shared: tuple[Path, str]) -> None:
    folder, _ = shared
    for path in (folder / ROOMS).glob("*/tokens.bin"):
        path.chmod(0)

    def ask() -> None:
        with pytest.raises(StorageError, match=r"lacks intact tokens"):
            load(folder)

    assert in_child_bound_by_modes(ask) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("umask", "modes"), [(0o027, {0o640, 0o750}), (0o002, {0o664, 0o775})])
def test_the_umask_says_who_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int, modes: set[int]
) -> None:
    monkeypatch.setattr(token_cache, "FEW_BYTES", 0)  # in processes, too
    monkeypatch.setattr(units, "UNIT_BYTES", 3000)
    for number in range(2):
        write_jsonl(tmp_path / f"{number}.jsonl", documents(20, seed=number))

    def make() -> None:
        os.umask(umask)
        load(tmp_path)

    assert status(in_child(make)) == 0
    made = list((tmp_path / ROOMS).rglob("*"))
    assert {path.stat().st_mode & 0o777 for path in made} == modes and len(made) > 10
