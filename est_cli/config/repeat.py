"""The command line that asks for a stored configuration again: presets where they are, then what differs from them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from est_cli.common.errors import EstError
from est_cli.config.compose import composed
from est_cli.config.groups import groups_of
from est_cli.config.resolve import check
from est_cli.config.run import RunConfig
from est_cli.config.schema import leaves_of, plain
from est_cli.config.setting import FREE, METHOD, TRACKED, keys_with

_NAMED = {"model": "model.name", "dataset": "dataset.name", "optim": "optim.name", "scheduler": "scheduler.name"}
"""Groups whose option a configuration may tell by this setting."""
_OF_ONE_RUN = ("run_name", "sweep", "share_prefix", "resume", "fork", "license", "seed")
_OF_ONE_PLACE = ("tracking.", "paths.", "launch.")
_FILES = ("dataset.files", "dataset.validation_files")
_MICRO_BATCH = "train.micro_batch"
_WORD = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")
_SHELL_WORD = re.compile(r"[A-Za-z0-9_./=,:-]+")
_IN_DOUBLE_QUOTES = re.compile(r"[^\"$`\\!]*")


def overrides_of(config: RunConfig, dense: bool = False) -> list[str] | None:
    """What `est-train` has to be told for the same training with another seed; `dense`: for that of its dense twin.

    None where no command line gives these settings: a run that began from another one's checkpoint, presets of one's
    own, words that no shell could be given.
    """
    wanted = _wanted(plain(config), dense)
    if config.fork or not all(str(value).isprintable() for value in wanted.values()):
        return None
    choices = _choices(wanted)
    try:
        usual = _settings_with(tuple(choices))
        found = [*choices, *(f"{key}={_shown(value)}" for key, value in wanted.items() if usual[key] != value)]
        asked = _asked_for(tuple(found))
        check(asked)
    except EstError:
        return None
    return found if _wanted(plain(asked), dense=False) == wanted else None


def without_places(overrides: Sequence[str]) -> list[str]:
    """The same as it may be shown to others: where text, models and tokenizers of one's own lie is left out."""
    return [_placeless(word) for word in overrides]


def _placeless(word: str) -> str:
    key, _, value = word.partition("=")
    is_place = key in _FILES or value.lstrip("['\"").startswith(("/", ".", "~"))
    return f"{key}=..." if is_place else word


def shell_line(words: Sequence[str]) -> str:
    """One line for a shell, quotes where it needs them."""
    return " ".join(map(_quoted, words))


def hydra_word(text: str) -> str:
    """A word as a command of ours takes it for a word, whatever signs it holds."""
    plain_word = _WORD.fullmatch(text) and text.lower() not in ("null", "true", "false", "nan", "inf")
    return text if plain_word else "'" + re.sub(r"(\\*)'", r"\1\1\\'", text) + "'"


def _wanted(tree: Mapping[str, Any], dense: bool) -> dict[str, Any]:
    """What has to be alike: all but the seed, names, trackers, places and prompts; of a dense twin nothing of the
    method."""
    own_words = keys_with(RunConfig, FREE) - keys_with(RunConfig, TRACKED)  # change no result, and W&B gets none either
    leaves = {
        key: value
        for key, value in leaves_of(tree).items()
        if key not in _OF_ONE_RUN and not key.startswith(_OF_ONE_PLACE) and key not in own_words
    }
    if dense:
        usual, method = _settings_with(("scheduler=dense",)), keys_with(RunConfig, METHOD)
        leaves |= {key: value for key, value in usual.items() if key in method}
        if isinstance(leaves[_MICRO_BATCH], list):  # by stage: that of the last one, in which the model is complete
            leaves[_MICRO_BATCH] = leaves[_MICRO_BATCH][-1]
    return leaves


def _choices(wanted: Mapping[str, Any]) -> list[str]:
    """The presets that are ours and not the usual ones."""
    groups, usual = groups_of(RunConfig, None), _settings_with(())
    return [
        f"{group}={wanted[key]}"
        for group, key in _NAMED.items()
        if key in wanted and wanted[key] != usual[key] and wanted[key] in groups[group]
    ]


def _settings_with(choices: tuple[str, ...]) -> dict[str, Any]:
    return leaves_of(plain(_asked_for(choices)))


@lru_cache(maxsize=64)
def _asked_for(overrides: tuple[str, ...]) -> RunConfig:
    """Kept, for a report that is made again and again while a run goes on asks for the same ones."""
    return composed("train", RunConfig, list(overrides), None).config


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return hydra_word(value) if isinstance(value, str) else repr(value)


def _quoted(word: str) -> str:
    if _SHELL_WORD.fullmatch(word):
        return word
    return f'"{word}"' if _IN_DOUBLE_QUOTES.fullmatch(word) else shlex.quote(word)
