"""D2: text, tokens and tokenizers that cannot be read to the end; processes that tokenise which are lost or stopped.

Refused with the file's name in one line, soon; what was kept before is not touched, and the run goes on later.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from est_cli.storage.store import step_folders, verify_folder
from tests.data import test_token_cache
from tests.faults.bad_disk import failing, losing
from tests.faults.conftest import Tally
from tests.faults.refused import check_ended, check_line
from tests.faults.size import either, only_full
from tests.lab.lab import Ended, Lab, Plant, outcome
from tests.training.test_start import SHORT

pytestmark = pytest.mark.row("D2")

trained = test_token_cache.trained
STEP = "est_cli.training.train.train_step"
READ_LINE = "est_cli.data.text.readers._of_line"
WRITE_TOKENS = "est_cli.data.tokens.token_cache.write_tokens"
TRAIN_TOKENIZER = "est_cli.data.tokens.tokenizer._train"


@pytest.fixture
def bare(shared: Lab, tmp_path: Path) -> Lab:
    """A lab with a text of its own and without any tokens."""
    return Lab(shared.server, tmp_path, Path(shutil.copy(shared.corpus, tmp_path / "corpus.jsonl")))


BEFORE: dict[str, tuple[Plant, str]] = {
    "the digest of the text": (failing("est_cli.storage.digest.sha256", 1, "EIO"), "corpus.jsonl: cannot be read"),
    "the text": (failing(READ_LINE, 5, "EIO"), "corpus.jsonl: cannot be read to the end"),
    "the text of the tokens": (
        failing(READ_LINE, 25, "EIO"),
        "corpus.jsonl: cannot be read to",
    ),
    "a network drive": (
        failing(READ_LINE, 5, "ESTALE"),
        "corpus.jsonl: cannot be read to the",
    ),
    "the text is gone": (losing(TRAIN_TOKENIZER, 1, "corpus.jsonl"), "corpus.jsonl: cannot be read to the end (No suc"),
    "the text is cut": (
        losing(WRITE_TOKENS, 1, "corpus.jsonl", 1000),
        "corpus.jsonl:",
    ),
    "the text is empty": (
        losing(WRITE_TOKENS, 1, "corpus.jsonl", 0),
        "corpus.jsonl: has changed while it was read",
    ),
    "the tokenizer": (
        failing("est_cli.data.tokens.tokenizer._from_pretrained", 1, "EIO"),
        "cannot be read (Input/output er",
    ),
    "the tokens": (failing("os.pread", 1, "EIO"), "tokens.bin: cannot be read (Input/output error)"),
}
"""What goes wrong before the first step."""


@pytest.mark.parametrize("case", either(list(BEFORE), list(BEFORE)[1::7]))
def test_reading_that_fails_before_training(bare: Lab, shared: Lab, tally: Tally, case: str) -> None:
    text, (plant, message) = bare.corpus.read_bytes(), BEFORE[case]
    check_ended(bare.tiny("x", *SHORT, plants=[plant]), 3, message)
    bare.corpus.write_bytes(text)
    assert bare.tiny("x", *SHORT).code == 0
    assert outcome(bare.at("x")) == shared.golden(*SHORT), "nothing of what was half read is used again"
    tally(inputs=1)


DURING: dict[str, tuple[Plant, str]] = {
    "a disk that fails": (failing("os.pread", 12, "EIO"), "tokens.bin: cannot be read (Input/output error)"),
    "tokens that are cut": (losing(STEP, 4, "data/*/tokens.bin", 50), "tokens.bin: ends too early"),
    "tokens that are emptied": (losing(STEP, 4, "data/*/tokens.bin", 0), "tokens.bin: ends too early"),
}


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("case", either(list(DURING), list(DURING)[1:2]))
def test_reading_that_fails_during_training(bare: Lab, shared: Lab, tally: Tally, case: str, ahead: bool) -> None:
    """The same where a thread reads; a mapped file would end the process by SIGBUS."""
    plant, message = DURING[case]
    plants = [plant, *([("device_works_on_its_own",)] if ahead else [])]
    refused(bare.tiny("x", *SHORT, plants=plants), message)
    for _, path in step_folders(bare.at("x") / "checkpoints"):
        verify_folder(path)
    assert bare.tiny("x", *SHORT).code == 0
    assert outcome(bare.at("x")) == shared.golden(*SHORT)
    tally(inputs=1)


def refused(ended: Ended, *words: str) -> None:
    assert ended.code == 3 and "Traceback" not in ended.err, (ended.code, ended.err)
    (line,) = ended.last_words
    check_line(line, *words)


def test_tokens_that_are_deleted_while_they_are_used(bare: Lab, shared: Lab, tally: Tally) -> None:
    """They are open, so the run has them to its end."""
    assert bare.tiny("x", *SHORT, plants=[losing(STEP, 4, "data/*/tokens.bin")]).code == 0
    assert outcome(bare.at("x")) == shared.golden(*SHORT)
    tally(inputs=1)


def test_ids_of_the_user_that_are_cut_while_they_are_used(bare: Lab, shared: Lab, tally: Tally) -> None:
    (tokenizer,) = sorted((shared.folder / "data").glob("tokenizer-*"))[:1]
    (bare.folder / "ids.bin").write_bytes(bytes(4000))
    overrides = (*SHORT, "dataset=tokens", "dataset.files=ids.bin", f"tokenizer={tokenizer}")
    refused(bare.tiny("x", *overrides, plants=[losing(STEP, 4, "ids.bin", 10)]), "ids.bin: ends too early")
    tally(inputs=1)


def corpus(folder: Path) -> Path:
    """About two megabytes in some 50 units."""
    return test_token_cache.write_corpus(folder, 1200)


@pytest.mark.parametrize("signum", either([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM], [signal.SIGKILL]))
def test_a_process_that_tokenises_is_killed(tmp_path: Path, trained: Path, tally: Tally, signum: int) -> None:
    process = test_token_cache.started(corpus(tmp_path), trained, 3)
    workers = test_token_cache.workers_of(process.pid)
    os.kill(workers[0], signum)
    begin = time.monotonic()
    _, err = process.communicate(timeout=30)
    check_line(err.decode().splitlines()[-1], f"a process that tokenises was killed by signal {int(signum)}")
    assert time.monotonic() - begin < 10
    test_token_cache.wait_until_gone(workers)
    assert len(test_token_cache.done(tmp_path, trained)) >= 50
    tally(kills=1)


@only_full
@pytest.mark.parametrize("count", [1, 2])
def test_a_process_that_tokenises_is_stopped(tmp_path: Path, trained: Path, tally: Tally, count: int) -> None:
    process = test_token_cache.started(corpus(tmp_path), trained, 3)
    workers = test_token_cache.workers_of(process.pid)
    for worker in workers[:count]:
        os.kill(worker, signal.SIGSTOP)
    begin = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert time.monotonic() - begin < 60, "25 s of silence, and some time to end on a busy machine"
    check_line(err.decode().splitlines()[-1], "dataset.num_workers: process ", "was stopped and does not answer")
    test_token_cache.wait_until_gone(workers)
    assert len(test_token_cache.done(tmp_path, trained)) >= 50
    tally(kills=count)


def test_a_text_that_changes_while_it_is_read(bare: Lab, tally: Tally) -> None:
    """Between two of its lines: its tokens are never kept as those of what it was when it was looked at."""
    lines = bare.corpus.read_bytes().splitlines(keepends=True)
    plant = losing(WRITE_TOKENS, 1, "corpus.jsonl", sum(map(len, lines[:15])))
    check_ended(bare.tiny("x", *SHORT, plants=[plant]), 3, "corpus.jsonl: has changed while it was read")
    kept = [json.loads(path.read_text()) for path in (bare.folder / "data").glob("[!.]*/meta.json")]
    assert kept and not any("tokens.bin" in meta["files"] for meta in kept)
    tally(inputs=1)
