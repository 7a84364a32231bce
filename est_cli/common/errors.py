"""What can go wrong, and the exit code each kind ends with (docs/commands.md lists the codes)."""

from __future__ import annotations

import errno
import os
import re


class EstError(ValueError):
    """Something the user can mend. The message is one line: `<key or file>: <what, and what would be right>`."""

    exit_code = 1


class ConfigError(EstError):
    """A setting, an override or the way the command was started."""

    exit_code = 2


class DataError(EstError):
    """A corpus, a token file or a tokenizer."""

    exit_code = 3


class CheckpointError(EstError):
    """A checkpoint that is missing, damaged or does not belong to this run."""

    exit_code = 4


class NumericsError(EstError):
    """Loss or gradient not finite, repeatedly, or the end of a run not finite."""

    exit_code = 5


class StorageError(EstError):
    """A disk that is full, read-only or failing."""

    exit_code = 6


class PeerLostError(EstError):
    """Another process of the run died, did not answer in time, or trains something else."""

    exit_code = 7


class RunLockedError(EstError):
    """Another process owns the run directory."""

    exit_code = 8


class OutOfMemory(EstError):
    """The device's memory is used up."""

    exit_code = 9


EXIT_CODES = (
    "0 done",
    "1 a bug of ours",
    "2 configuration",
    "3 data or tokenizer",
    "4 checkpoint",
    "5 numbers not finite",
    "6 storage",
    "7 another process of the run lost",
    "8 folder in use",
    "9 out of memory",
    "128+n stopped by signal n",
)
"""What the commands end with, in the words of `--help`."""


class StoppedBySignal(BaseException):
    """The run saved a checkpoint and stopped because signal `signum` asked it to. Exit code 128 + signum."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum
        self.exit_code = 128 + signum


def reason(error: BaseException) -> str:
    """What an exception says, on one line: of the system without the path, of a library at most 200 characters."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__


def way_out(error: OSError) -> str:
    """What to do about a disk that takes no more, to be put behind what is said of it; of other errors nothing."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    return "; free some space and start it again, or give another disk: paths.outputs=FOLDER, paths.data=FOLDER"


def is_panic(error: BaseException) -> bool:
    """Whether code in Rust (tokenizers, safetensors) has given up; it is no Exception."""
    return type(error).__name__ == "PanicException"


def install_hint(extra: str) -> str:
    """How to install what an optional feature needs, from the package index or from a checkout."""
    return f"pip install 'est-cli[{extra}]', or in a checkout of est: pip install '.[{extra}]'"


def native_os_error(error: Exception) -> OSError | None:
    """The system's error that safetensors or tokenizers (where it is a bare Exception) tell of in their own words."""
    code = re.search(r"\(os error ([0-9]+)\)", str(error))
    return OSError(int(code[1]), os.strerror(int(code[1]))) if code is not None else None
