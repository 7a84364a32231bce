"""Small corpora for the tests, and a child process that can be killed."""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from est_cli.config import DatasetConfig, Source
from est_cli.data import Corpus
from est_cli.data.tokens.stream import Tokens, TokenSpan, TokenStream

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "früh", "東京", "counts:", "one,\n", "🦊"]


def documents(count: int, seed: int = 0, words: int = 60) -> list[str]:
    """Reproducible texts that are all different."""
    rng = random.Random(seed)
    return [f"document {i} of {seed} " + " ".join(rng.choices(WORDS, k=words)) for i in range(count)]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)))
    return path


def files(*paths: Path | str, **settings: object) -> DatasetConfig:
    """A configuration with source=files."""
    return DatasetConfig(source=Source.files, files=[str(path) for path in paths], **settings)  # type: ignore[arg-type]


def token_file(path: Path, ids: np.ndarray) -> TokenStream:
    """A stream of ids that are written to a file here."""
    ids.astype("<u2").tofile(path)
    return TokenStream([TokenSpan(path, "<u2", 0, len(ids))])


def ids(tokens: Tokens) -> np.ndarray:
    """All ids, one stream after the other."""
    return np.concatenate([stream.read() for stream in tokens.streams])


def all_ids(corpus: Corpus) -> np.ndarray:
    """Those to train on, then those held out."""
    return np.concatenate([ids(corpus.train), ids(corpus.validation)])


def in_child(work: Callable[[], object]) -> int:
    """Fork, do `work` in the child; returns the child's process id (see `status`)."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def status(child: int) -> int:
    """How a child ended: 0, its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(call: int, function: Callable[..., object]) -> Callable[..., object]:
    """`function`, but its `call`-th call (from 1) kills the process as a power cut would."""
    calls = 0

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return counted


def bound_by_modes() -> None:
    """Have files' modes bind this process, a child of a test, even where it is root's."""
    if os.geteuid() == 0:
        header = struct.pack("=II", 0x20080522, 0)  # version 3 of the call, this process
        assert ctypes.CDLL(None, use_errno=True).capset(header, bytes(24)) == 0, "no capability can be given up"
