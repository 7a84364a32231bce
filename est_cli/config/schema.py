"""From a tree of settings to typed dataclasses and back: keys, types, and messages a user understands."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable
from decimal import Decimal
from enum import Enum
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from est_cli.common.errors import ConfigError
from est_cli.common.redact import has_user
from est_cli.config.setting import TRACKED, Setting, keys_with, settings_of

C = TypeVar("C")

ELSEWHERE = {
    **dict.fromkeys(("learning_rate", "max_lr", "base_lr"), "optim.lr"),
    **dict.fromkeys(("lr_scheduler", "lr_scheduler_type"), "optim.schedule"),
    **dict.fromkeys(("warmup_steps", "warmup_ratio", "warmup_iters"), "optim.warmup"),
    **dict.fromkeys(("max_grad_norm", "gradient_clip_val"), "optim.grad_clip"),
    **dict.fromkeys(
        ("batch_size", "global_batch_size", "gradient_accumulation_steps", "accumulate_grad_batches"),
        "train.tokens_per_step (the tokens of an optimizer step; train.micro_batch sequences are computed at a time)",
    ),
    **dict.fromkeys(("per_device_train_batch_size", "micro_batch_size"), "train.micro_batch"),
    **dict.fromkeys(("epochs", "num_epochs", "num_train_epochs", "max_epochs"), "train.max_tokens"),
    **dict.fromkeys(("num_steps", "max_iters", "total_steps", "num_train_steps"), "train.max_steps"),
    **dict.fromkeys(
        ("block_size", "max_seq_length", "max_seq_len", "context_length", "sequence_length"), "train.seq_len"
    ),
    **dict.fromkeys(("fp16", "bf16", "dtype", "mixed_precision"), "train.precision"),
    **dict.fromkeys(("devices", "gpus", "num_gpus", "nproc_per_node"), "launch.num_processes"),
    **dict.fromkeys(("output_dir", "out_dir", "save_dir"), "paths.outputs"),
    **dict.fromkeys(("save_steps", "save_every", "save_interval"), "train.checkpoint_every"),
    **dict.fromkeys(("eval_steps", "eval_interval"), "train.eval_every"),
    **dict.fromkeys(("logging_steps", "log_interval"), "train.log_every"),
    **dict.fromkeys(("gradient_checkpointing",), "train.activation_checkpointing"),
    **dict.fromkeys(("n_layer", "num_hidden_layers", "n_layers"), "model.num_layers"),
    **dict.fromkeys(("n_head", "num_attention_heads", "n_heads"), "model.num_heads"),
    **dict.fromkeys(("n_embd", "d_model", "hidden_dim"), "model.hidden_size"),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim"), "model.mlp_size"),
    **dict.fromkeys(("model_name", "model_name_or_path"), "model.name_or_path (with model=hf)"),
    **dict.fromkeys(("wandb_project",), "tracking.project"),
    **dict.fromkeys(("data_path", "train_file"), "dataset.files (with dataset=text)"),
}
"""What other tools call a setting -> what it is called here."""
HERE = "here it is "
_RESOLVED = re.compile(r"\$\{|^\?\?\?$")

NO_KEY = {
    **dict.fromkeys(
        ("device", "accelerator", "use_cpu", "no_cuda"),
        "a GPU that torch sees is used, CUDA_VISIBLE_DEVICES says which; ACCELERATE_USE_CPU=true keeps to the CPU",
    ),
}
"""What other tools have a setting for, and here is none -> what there is instead."""

RECIPES_OF_HYDRA = "of Hydra's own settings a recipe may have hydra.sweeper.params alone"


def typed(tree: DictConfig | dict[str, Any], schema: type[C]) -> C:
    """The tree as `schema`. Raises ConfigError for unknown keys, wrong types and missing values."""
    resolved = _resolved(tree, schema)
    _refuse_users(leaves_of(resolved))
    return _built(resolved, schema, "", settings_of(schema))


def _resolved(tree: DictConfig | dict[str, Any], schema: type[C]) -> Any:
    """Dicts, lists and scalars. OmegaConf takes 10 ms to copy a tree of settings in which it has nothing to resolve."""
    if isinstance(tree, dict) and _is_settled(tree):
        return copy.deepcopy(tree)
    try:
        composed = tree if isinstance(tree, DictConfig) else OmegaConf.create(tree)
        _refuse_resolvers(OmegaConf.to_container(composed, resolve=False))
        return OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise config_error(error, schema) from error


def _is_settled(value: Any) -> bool:
    """Whether it is a value of YAML without anything that OmegaConf gives a meaning: `${...}` and `???`."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_settled(entry) for key, entry in value.items())
    if isinstance(value, list):
        return all(map(_is_settled, value))
    return value is None or type(value) in (bool, int, float) or (type(value) is str and not _RESOLVED.search(value))


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML, enum values as plain words."""
    return OmegaConf.to_yaml(OmegaConf.create(plain(config)))


def plain(value: Any) -> Any:
    """A dataclass tree as dicts, lists and scalars."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    return [plain(item) for item in value] if isinstance(value, list) else value


def leaves_of(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A tree of dicts as dotted key -> value."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= leaves_of(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def tracked_settings(config: Any) -> dict[str, Any]:
    """The settings that trackers may see, by their keys."""
    tracked = keys_with(type(config), TRACKED)
    return {key: value for key, value in leaves_of(plain(config)).items() if key in tracked}


def unknown_key(key: str, known: Iterable[str]) -> str:
    """`key: unknown key; did you mean ...?`"""
    known = [*known]
    if told := NO_KEY.get(_name(key)) or _elsewhere(key, known):
        return f"{key}: unknown key; {told}"
    close = key_meant(key, known)
    return f"{key}: unknown key; did you mean {close!r}?" if close else f"{key}: unknown key; --help lists all keys"


def key_meant(key: str, known: Iterable[str]) -> str | None:
    """The one of `known` that a key, written wrongly or as another tool calls it, may mean."""
    known = [*known]
    if key in known:
        return key
    if here := _elsewhere(key, known):
        return here.removeprefix(HERE).partition(" ")[0]
    name, names = _name(key), {_name(other): other for other in reversed(known)}
    close = [names[name]] if name in names else []  # wrong or missing group
    close = close or difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    close = close or [names[other] for other in difflib.get_close_matches(name, names, n=1)]
    return close[0] if close else None


def _elsewhere(key: str, known: list[str]) -> str | None:
    here = ELSEWHERE.get(_name(key))
    return f"{HERE}{here}" if here and here.partition(" ")[0] in known else None


def _name(key: str) -> str:
    return key.rpartition(".")[2]


def config_error(error: Exception, schema: type) -> ConfigError:
    """One line for what Hydra or OmegaConf found wrong."""
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    inner = cause.__context__
    if not isinstance(cause, OmegaConfBaseException) and isinstance(inner, OmegaConfBaseException):
        cause = inner  # Hydra's own words of it name no key
    key = re.sub(r"\[\d+\]$", "", str(getattr(cause, "full_key", None) or ""))  # of an item: the list's key
    known = settings_of(schema)
    first_line = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    if not key:
        return ConfigError(f"configuration: {first_line}")
    if key.startswith("hydra."):
        return ConfigError(f"{key}: {RECIPES_OF_HYDRA}")
    if key not in known and type(cause).__name__ in ("ConfigKeyError", "ConfigAttributeError"):
        return ConfigError(unknown_key(key, [*known, *{leaf.partition(".")[0] for leaf in known}]))
    if key in known and "Interpolation" not in type(cause).__name__:
        value = getattr(cause, "value", None)
        return ConfigError(
            f"{key}: {'what is given' if value is None else repr(value)[:80]} is not {describe(known[key])}"
        )
    return ConfigError(f"{key}: {first_line}")


def describe_type(hint: Any) -> str:
    """A type in words that a user of the command line knows."""
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a word", type(None): "null"}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(member.value for member in hint)
    if _is_union(hint):
        return " or ".join(describe_type(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is list:
        kinds = {int: "integers, [1,2]", float: "numbers, [1,2]"}
        (entry,) = typing.get_args(hint)
        if isinstance(entry, type) and issubclass(entry, Enum):
            return "a list, [a,b], each " + describe_type(entry)
        return f"a list of {kinds.get(entry, 'words, [a,b]')}"
    return words.get(hint, str(hint))


def describe(known: Setting) -> str:
    """What a setting may be, in the same words."""
    if known.items is not None:
        return known.items.words + (" or null" if known.default is None else "")
    return f"one of {', '.join(known.choices)}" if known.choices else describe_type(known.hint)


def _built(tree: Any, schema: type[C], prefix: str, known: dict[str, Setting]) -> C:
    """One dataclass with the groups inside of it."""
    hints = typing.get_type_hints(schema)
    if not prefix and "experiment" in tree:
        raise ConfigError("experiment: its file must hold settings by name, below a first line `# @package _global_`")
    for name in tree:
        if name not in hints:
            raise ConfigError(unknown_key(f"{prefix}{name}", [*known, *(key for key in hints if not prefix)]))
    values: dict[str, Any] = {}
    for name, value in tree.items():
        key, kind = f"{prefix}{name}", hints[name]
        if not dataclasses.is_dataclass(kind):
            values[name] = _converted(value, known[key])
        elif isinstance(value, dict):
            values[name] = _built(value, typing.cast(type, kind), f"{key}.", known)
        else:
            raise ConfigError(f"{key}: {str(value)[:80]!r} is not a group of settings, {key}: {{KEY: VALUE}}")
    return schema(**values)


def _converted(value: Any, known: Setting) -> Any:
    if known.items is not None:
        return _with_entries(value, known)
    try:
        found = _cast(value, known.hint)
        if known.choices and found not in known.choices and not (known.others and known.others(found)):
            raise _NotThat(value)
    except _NotThat as error:
        words = _entry_of_list(known.hint, isinstance(value, list)) or describe(known)
        raise _refused(known.key, error.args[0], words) from None
    return found


def _entry_of_list(hint: Any, given: bool) -> str | None:
    """What an entry of a list may be, if a list was `given` or its entries are choices; None for anything else."""
    parts = typing.get_args(hint) if _is_union(hint) else (hint,)
    kinds = [typing.get_args(part)[0] for part in parts if typing.get_origin(part) is list]
    return describe_type(kinds[0]) if kinds and (given or issubclass(kinds[0], Enum)) else None


def _with_entries(value: Any, known: Setting) -> Any:
    """A value whose entries the type does not describe; a single one may stand for a list."""
    assert known.items is not None
    if value is None and known.default is None:
        return None
    if value == []:
        raise _refused(known.key, value, known.items.words)
    for entry in value if isinstance(value, list) else [value]:
        if not known.items.fits(entry):
            raise _refused(known.key, entry, known.items.entry or known.items.words)
    return value


def _refused(key: str, value: Any, words: str) -> ConfigError:
    return ConfigError(f"{key}: {'null' if value is None else repr(value)[:80]} is not {words}")


class _NotThat(Exception):
    """The value, or the item of a list, that is not of its type."""


_SWITCHES = {"true": True, "yes": True, "on": True, "y": True, "false": False, "no": False, "off": False, "n": False}


def _cast(value: Any, hint: Any) -> Any:
    """The value as the type; _NotThat where it is no such thing. A single value stands for a list of one."""
    if _is_union(hint):
        parts = typing.get_args(hint)
        if value is None and type(None) in parts:
            return None
        kinds = [part for part in parts if part is not type(None)]
        if len(kinds) == 1:
            return _cast(value, kinds[0])
        if type(value) in kinds:
            return value
        if int in kinds and isinstance(value, float):  # 1e9 tokens
            return _cast_scalar(value, int)
        raise _NotThat(value)
    if typing.get_origin(hint) is list:
        (kind,) = typing.get_args(hint)
        return [_cast(item, kind) for item in (value if isinstance(value, list) else [value])]
    return _cast_scalar(value, hint)


def _cast_scalar(value: Any, hint: type) -> Any:
    try:
        if issubclass(hint, Enum) and isinstance(value, str):
            return hint(value)
        if hint is bool and isinstance(value, bool | str):
            return value if isinstance(value, bool) else _SWITCHES[value.lower()]
        if hint is int and type(value) in (int, str):
            return int(value)
        if hint is int and isinstance(value, float) and value.is_integer():  # 1e3 is a thousand
            return int(Decimal(repr(value)))
        if hint is float and type(value) in (int, float, str):
            return float(value)
        if hint is str and isinstance(value, str | int | float | bool):
            return str(value)
    except (ValueError, KeyError, OverflowError):
        pass
    raise _NotThat(value)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _refuse_users(leaves: dict[str, Any]) -> None:
    """A setting is written into config.yaml, and some are sent to W&B: passwords have no place in any."""
    for key, value in leaves.items():
        if any(has_user(item) for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)):
            raise ConfigError(
                f"{key}: has a user name or password in a URL; settings are written down, so leave it out"
            )


def _refuse_resolvers(tree: Any, key: str = "configuration") -> None:
    """`${group.key}` is allowed; `${oc.env:X}` and its like would carry secrets into files and logs."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            _refuse_resolvers(value, str(name) if key == "configuration" else f"{key}.{name}")
    elif isinstance(tree, list):
        for value in tree:
            _refuse_resolvers(value, key)
    elif isinstance(tree, str) and "${" in re.sub(r"(?<!\\)\$\{[\w.]+\}", "", tree):
        raise ConfigError(f"{key}: resolvers are not allowed; write the value, or ${{group.key}} for another setting")
