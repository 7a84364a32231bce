"""What every refusal has to be: the right exit code, one line that names what is wrong, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from est_cli.cli.entry import enter
from est_cli.common.errors import EstError
from tests.lab.lab import Ended, tree_hash

Main = Callable[[Sequence[str]], None]


def check_line(line: str, *words: str) -> None:
    """One line without a traceback that says all of `words`."""
    assert "\n" not in line.strip("\n") and "Traceback" not in line, line
    assert len(line) < 1500, line[:2000]
    missing = [word for word in words if word not in line]
    assert not missing, f"{missing} not told: {line}"


def check_ended(ended: Ended, code: int, *words: str) -> str:
    """A whole est-train that was refused; returns its last line."""
    assert ended.code == code, (ended.code, ended.err)
    assert "Traceback" not in ended.err and ended.out == "", ended.err
    (line,) = ended.last_words
    assert ended.err.splitlines()[-1] == line, ended.err
    check_line(line, "est-train: error: ", *words)
    return line


def told_by_door(capfd: pytest.CaptureFixture[str], name: str, main: Main, args: Sequence[str], code: int) -> str:
    """The line in which the command `name` refuses these arguments, run here; without the program's name."""
    capfd.readouterr()
    ended = enter(name, main, [name, *args])
    out, err = capfd.readouterr()
    assert (ended, out) == (code, ""), (args, ended, out, err)
    line = err.splitlines()[-1]
    assert line.startswith(f"{name}: error: ") and "Traceback" not in err, (args, err)
    check_line(line)
    return line.removeprefix(f"{name}: error: ")


def told_as(kind: type[EstError], work: Callable[[], object]) -> str:
    """The one line of the error that `work` raises."""
    with pytest.raises(kind) as caught:
        work()
    assert type(caught.value) is kind, caught.value
    check_line(str(caught.value))
    return str(caught.value)


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Everything below `folder` is the same afterwards: names, modes, times and contents."""
    before = tree_hash(folder)
    yield
    assert tree_hash(folder) == before, "something was changed by a run that was refused"
