"""Words that look like something else: `run_name=123456_7` is that name, not the number 1234567.

Hydra and YAML decide what a value is before anybody knows its key. Here the keys are known: on a command line such a
word gets the quotes it needs; of a file, where it is a number already, it is refused unless its text is certain.
"""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml
from antlr4 import InputStream, Token
from hydra.grammar.gen.OverrideLexer import OverrideLexer
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from est_cli.common.errors import ConfigError
from est_cli.config.schema import leaves_of
from est_cli.config.setting import Setting

_READ: dict[int, Callable[[str], bool | int | float]] = {
    OverrideLexer.INT: int,
    OverrideLexer.FLOAT: float,
    OverrideLexer.BOOL: lambda text: text.lower() == "true",
}
"""How Hydra reads what is no word to it."""
_BEFORE = (OverrideLexer.COMMA, OverrideLexer.BRACKET_OPEN, OverrideLexer.POPEN)
_BEHIND = (OverrideLexer.COMMA, OverrideLexer.BRACKET_CLOSE, OverrideLexer.PCLOSE)
_OPENING = (OverrideLexer.BRACKET_OPEN, OverrideLexer.BRACE_OPEN, OverrideLexer.POPEN)
_CLOSING = (OverrideLexer.BRACKET_CLOSE, OverrideLexer.BRACE_CLOSE, OverrideLexer.PCLOSE)
_QUOTED = re.compile(r"['\"\[\](){}\\]")
"""What a value holds that is more than a plain word."""
_OF_NUMBERS = ("range", "interval", "int", "float", "bool")
"""Functions of Hydra whose arguments are no words, whatever the key."""


def word_keys(known: Mapping[str, Setting], groups: Iterable[str]) -> frozenset[str]:
    """The keys whose value is a word or a list of words; the option of a group is a word too."""
    return frozenset(key for key, setting in known.items() if _is_word(setting.hint)).union(groups)


def single_words(known: Mapping[str, Setting]) -> frozenset[str]:
    """The keys of `word_keys` whose value is one word, and may be the path of a folder named `t1=0.1,t2=0.4`."""
    return frozenset(
        key for key, setting in known.items() if _is_word(setting.hint) and typing.get_origin(setting.hint) is not list
    )


def with_quotes(arg: str, words: Collection[str], singles: Collection[str] = (), sweeping: bool = False) -> str:
    """An override as it was typed, with quotes about whatever Hydra would not give back as it was typed.

    `singles`: keys of one word. In a sweep a comma stands between values, except in the name of what there is.
    """
    key, equals, value = arg.partition("=")
    if key.lstrip("+~") not in words:
        return arg
    one = not sweeping or "," not in value or os.path.exists(value)
    if key in singles and "=" in value and one and not _QUOTED.search(value):
        return f"{key}='{value}'"
    done, parts = 0, [key, equals]
    for start, end in _rewritten(value):
        parts += [value[done:start], f"'{value[start:end]}'"]
        done = end
    return "".join([*parts, value[done:]])


def refuse_unclear(tree: Any, words: Collection[str], folders: Iterable[Path]) -> None:
    """ConfigError for a number or switch of a file where a word is asked for, unless it is written as it is printed.

    `tree` is what Hydra made of the files in `folders`, its references to other settings unresolved.
    """
    for key, value in leaves_of(tree).items():
        for item in (value if isinstance(value, list) else [value]) if key in words else []:
            if isinstance(item, bool | int | float):
                _refuse_unless(key, item, {text for folder in folders for text in _spellings(item, folder)})


def nesting(text: str) -> int:
    """How many brackets, braces and calls stand within one another in an override."""
    steps = ((token.type in _OPENING) - (token.type in _CLOSING) for token in _tokens(text.partition("=")[2]))
    return max(accumulate(steps), default=0)


def _refuse_unless(key: str, value: Any, texts: set[str]) -> None:
    if texts != {str(value)}:
        shown = f"'{min(texts)}'" if len(texts) == 1 else f"{key.rpartition('.')[2]}: 'TEXT'"
        raise ConfigError(f"{key}: YAML reads {value} there, and a word is asked for; write it in quotes, {shown}")


def _is_word(hint: Any) -> bool:
    parts = [part for part in typing.get_args(hint) or [hint] if part is not type(None)]
    return parts == [str]


def _rewritten(value: str) -> Iterator[tuple[int, int]]:
    """Where in the value (first character, behind the last) a word stands that Hydra would change."""
    tokens, calls = _tokens(value), [""]
    for before, token, behind in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
        if token.type == OverrideLexer.POPEN:
            calls.append(before.text if before is not None else "")
        elif token.type == OverrideLexer.PCLOSE and len(calls) > 1:
            calls.pop()
        alone = (before is None or before.type in _BEFORE) and (behind is None or behind.type in _BEHIND)
        if alone and token.type in _READ and calls[-1] not in _OF_NUMBERS and not _is_kept(token):
            yield token.start, token.stop + 1


def _is_kept(token: Token) -> bool:
    try:
        return str(_READ[token.type](token.text)) == str(token.text)
    except ValueError:  # more digits than Python takes for a number
        return False


def _tokens(value: str) -> list[Token]:
    """Hydra's tokens of a value, without blanks; where there is none Hydra says so afterwards."""
    lexer = OverrideLexer(InputStream(value))
    lexer.removeErrorListeners()
    lexer.mode(OverrideLexer.VALUE_MODE)
    return [token for token in lexer.getAllTokens() if token.type != OverrideLexer.WS]


def _spellings(value: Any, folder: Path) -> Iterator[str]:
    """How the YAML files of a folder of groups write this value."""
    for file in sorted(folder.glob("*/**/*.yaml")):
        with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):  # a file that was not chosen
            tokens = yaml.scan(file.read_text(encoding="utf-8"))
            plain = {token.value for token in tokens if isinstance(token, yaml.ScalarToken) and token.plain}
            yield from (text for text in plain if _is_read_as(text, value))


def _is_read_as(text: str, value: Any) -> bool:
    try:
        found: object = OmegaConf.create(f"- {text}")[0]
    except (ValueError, yaml.YAMLError, OmegaConfBaseException):
        return False
    return type(found) is type(value) and str(found) == str(value)
