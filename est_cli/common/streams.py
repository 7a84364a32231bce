"""stdout and stderr as every command finds them: open, with characters they can show, and an stderr that never fails.

Standard library only.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import Any

from est_cli.common.waiting import end_waiting

PLAIN = {
    **dict(zip("▁▂▃▄▅▆▇█", "_.:-=+*#", strict=True)),
    **{
        "━": "=",
        "─": "-",
        "┃": "|",
        "±": "+-",
        "…": "...",
        "\u2013": "-",
        "\u2014": "-",
        "\u2018": "'",
        "\u2019": "'",
        "“": '"',
        "”": '"',
    },
}
"""What stands for a sign where the encoding (ascii, latin-1) does not have it; `?` for all others."""


STDOUT = "standard output"
"""What errors of stdout name in the place of a file."""


def prepare_streams() -> None:
    """Make the standard streams such that no command has to ask what they are.

    One that is closed is opened on nothing: a file or a pipe that is opened later would get its number, and what
    libraries print. What stderr cannot take is lost: it tells how work goes on, and must not end it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            _open_on_nothing(number)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
    codecs.register_error("plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "plain":
            stream.reconfigure(errors="plain")
    sys.stdout = _written_by(_Named, sys.stdout, 1)
    sys.stderr = _written_by(_Lenient, sys.stderr, 2)


def silence_stdout() -> None:
    """Where it cannot be written: without this Python complains again while it shuts down."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _open_on_nothing(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What a codec writes in the place of characters that it does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


class _Named(io.FileIO):
    """A file whose errors say that they are of stdout."""

    def write(self, data: Any) -> int:
        end_waiting()
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, STDOUT) from error


class _Lenient(io.FileIO):
    """A file that takes everything, whether the system does or not."""

    def write(self, data: Any) -> int:
        end_waiting()
        try:
            return super().write(data)
        except OSError:  # full, gone, or nobody reads
            return len(data)


def _written_by(kind: type[io.FileIO], stream: Any, number: int) -> Any:
    """The same stream, written by a file of this kind; what a test has put in its place stays as it is."""
    try:
        if type(stream) is not io.TextIOWrapper or stream.fileno() != number:
            return stream
    except (OSError, ValueError):
        return stream
    if isinstance(getattr(stream.buffer, "raw", None), kind):
        return stream
    buffer = io.BufferedWriter(kind(number, "w", closefd=False))
    options: dict[str, Any] = {"line_buffering": number == 2 or stream.line_buffering}
    return io.TextIOWrapper(buffer, stream.encoding, stream.errors, write_through=stream.write_through, **options)
