"""stdout and stderr that are closed, full, or know few characters. Real processes, without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import logging, os, sys
from est_cli.cli.entry import enter, leave
from est_cli.common.errors import ConfigError
def main(argv):
    logging.getLogger("est_cli").warning("a warning ± …")
    with open("file", "w") as file:
        file.fileno() > 2 or sys.exit(77)
    print("0.5 ± 0.1 ▁▄█ é☃ " * int(argv[1]))
    if argv[2:]:
        raise ConfigError("seed: is bad")
leave(enter("est-x", main))
"""
FULL_DISK = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")


def ended(folder: Path, redirection: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = ["sh", "-c", f'"$0" -c "$1" "$2" $3 {redirection}', sys.executable, PROGRAM, *(arguments or ("1",))]
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
    )


@pytest.mark.parametrize("closed", ["1", "2", "0"])
def test_a_closed_stream_is_no_error(tmp_path: Path, closed: str) -> None:
    """Nor does a file that is opened later get its number, or all that is printed would go into it."""
    found = ended(tmp_path, f"{closed}>&-" if closed != "0" else "0<&-")
    assert found.returncode == 0, found.stderr
    assert (b"0.5" in found.stdout, b"warning" in found.stderr) == (closed != "1", closed != "2")


@FULL_DISK
@pytest.mark.parametrize("times", ["1", "9000"])
def test_a_full_disk_behind_stdout(tmp_path: Path, times: str) -> None:
    found = ended(tmp_path, ">/dev/full", times)
    assert found.returncode == 6
    assert found.stderr.decode().splitlines()[1:] == [
        "est-x: error: standard output: No space left on device",
    ]


@FULL_DISK
def test_a_full_disk_behind_stderr_hides_no_exit_code(tmp_path: Path) -> None:
    assert ended(tmp_path, "2>/dev/full", "1", "bad").returncode == 2
    assert ended(tmp_path, "2>/dev/full").returncode == 0


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    found = ended(tmp_path, ">big", "9000", "")
    assert found.returncode == 0
    command = ["sh", "-c", 'ulimit -f 1; "$0" -c "$1" 9000 >big', sys.executable, PROGRAM]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    limited = subprocess.run(command, cwd=tmp_path, capture_output=True, env=environment, check=False)
    assert limited.returncode == 6 and b"standard output: File too large" in limited.stderr


def test_a_pipe_that_closes(tmp_path: Path) -> None:
    found = ended(tmp_path, "| head -c 1", "90000")
    assert found.stdout == b"0" and b"Traceback" not in found.stderr and b"error" not in found.stderr


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", b"0.5 +- 0.1 _-# ??"), ("latin-1", b"0.5 \xb1 0.1 _-# \xe9?")]
)
def test_characters_that_an_encoding_does_not_have(tmp_path: Path, encoding: str, shown: bytes) -> None:
    found = ended(tmp_path, "", PYTHONIOENCODING=encoding)
    assert found.returncode == 0 and found.stdout.startswith(shown)
    assert found.stderr == (b"a warning +- ...\n" if encoding == "ascii" else b"a warning \xb1 ...\n")


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    command = ["sh", "-c", 'cd gone; rmdir ../gone; "$0" -c "$1" 1', sys.executable, PROGRAM]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, env=environment, check=False)
    assert found.returncode == 6
    assert found.stderr.decode().splitlines()[-1].startswith("est-x: error: current folder: is not there any more (")
