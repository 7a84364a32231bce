"""From a command line to one typed value: Hydra composes conf/, this module checks the keys.

With words.py, own_files.py and sweep/ the only place that imports Hydra. Overrides are checked before Hydra sees them,
so that a typo is told with the nearest key, also when it is smuggled in with `+`.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import yaml
from hydra import compose, initialize_config_dir
from hydra import main as hydra_main
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from est_cli.common.errors import ConfigError
from est_cli.common.redact import without_secrets
from est_cli.config.own_files import search_path
from est_cli.config.run import RunConfig
from est_cli.config.schedulers import SCHEDULERS, scheduler_named
from est_cli.config.schema import config_error, leaves_of, plain, typed, unknown_key
from est_cli.config.setting import Given, Setting, settings_of
from est_cli.config.stage import StageConfig
from est_cli.config.words import nesting, refuse_unclear, with_quotes, word_keys

_PACKAGE = Path(__file__).resolve().parents[1]
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""The config folder: inside the wheel, or beside the package in a checkout."""

_QUESTIONS = ("help", "hydra_help", "cfg", "info", "shell_completion")
"""Flags that Hydra itself answers."""

_WITH_A_DEFAULT = ("launch", "sampling", "tracking", "train")
"""Groups whose usual option is what the dataclass says."""

MAX_NESTING = 20
"""Brackets within brackets on a command line; the deepest setting has two."""

C = TypeVar("C")


@dataclass(frozen=True)
class CommandLine:
    """A command line, parsed once."""

    argv: list[str]
    """As it was typed, words that look like numbers in quotes."""
    overrides: list[str]
    """Of these, the settings."""
    config_dir: str | None
    multirun: bool = False
    asks: bool = False
    """Whether it asks Hydra something and starts nothing (--help, --cfg job, --info and the like)."""
    help: bool = False


class Composed(NamedTuple, Generic[C]):
    """What a command line means."""

    config: C
    """Typed, unchecked."""
    given: Given
    chosen: dict[str, Any]
    """The options that it chooses, by group."""


def parse(argv: Sequence[str], schema: type, no_sweep: str | None = None) -> CommandLine:
    """The command line of a command with these settings.

    Raises ConfigError for options that there are not; `no_sweep`: why -m is refused, None where it is taken.
    """
    arguments = _parsed(argv)
    if arguments.multirun and no_sweep is not None:
        raise ConfigError(f"--multirun: {no_sweep}")
    asks = any(getattr(arguments, flag) for flag in _QUESTIONS)
    words = word_keys(settings_of(schema), groups_of(schema, arguments.config_dir))
    quoted, overrides = ([with_quotes(arg, words) for arg in args] for args in (argv, arguments.overrides))
    return CommandLine(quoted, overrides, arguments.config_dir, arguments.multirun, asks, arguments.help)


def composed(config_name: str, schema: type[C], args: list[str], config_dir: str | None) -> Composed[C]:
    """Compose conf/`config_name`.yaml with these overrides.

    Raises ConfigError for whatever is wrong with them or with the files.
    """
    groups = groups_of(schema, config_dir)
    overrides = checked_overrides(args, schema, groups)
    with _told_in_one_line(schema):
        config, bare = _composed(config_name, schema, args, config_dir)
    of_files = word_keys(settings_of(schema), ()) - {it.key_or_group for it in overrides}
    folders = [CONF, *([Path(config_dir)] if config_dir else [])]
    refuse_unclear(OmegaConf.to_container(config, resolve=False), of_files, folders)
    chosen = {it.key_or_group: it.value() for it in overrides if it.key_or_group in groups}
    return Composed(typed(config, schema), _given_keys(config, bare, overrides), chosen)


@contextlib.contextmanager
def _told_in_one_line(schema: type) -> Iterator[None]:
    """ConfigError for whatever Hydra finds wrong."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise config_error(error, schema) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration: a file cannot be read as YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError("configuration: a file is nested too deeply, or is part of itself by its defaults") from error
    except ValueError as error:  # Hydra's own, of first lines and lists of defaults
        raise ConfigError(f"configuration: {error}") from error


def answer(config_name: str, schema: type, argv: Sequence[str]) -> None:
    """Let Hydra answer --cfg, --info and the like; it composes, prints and ends."""
    store_defaults(config_name, schema)

    @hydra_main(version_base="1.3", config_path=str(CONF), config_name=config_name)
    def nothing(config: DictConfig) -> None:
        raise AssertionError("Hydra was asked a question and runs")

    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, and print no report of its own: the command prints one line
    before, sys.argv = sys.argv, list(argv)  # Hydra reads these and nothing else
    try:
        with _told_in_one_line(schema):
            nothing()
    finally:
        sys.argv = before


def _composed(
    config_name: str, schema: type, args: list[str], config_dir: str | None
) -> tuple[DictConfig, DictConfig | None]:
    """The configuration, and where an experiment is chosen what it is without any override."""
    store_defaults(config_name, schema)
    search = [search_path(config_dir)] if config_dir else []
    with _hydra_set_aside(), initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose(config_name, overrides=[*search, *args])
        experiment = any(arg.startswith("experiment=") for arg in args)
        return config, compose(config_name) if experiment else None


def store_defaults(config_name: str, schema: type) -> None:
    """Give Hydra what the dataclasses say, so that conf/ holds presets and nothing twice.

    `settings_of_NAME`: every key with its default. `GROUP/default`: that group alone. `unread/SCHEDULER`: null for what
    this scheduler does not read of stage, since stage/ and recipes write what three_stage reads.
    """
    store = ConfigStore.instance()
    store.store(name=f"settings_of_{config_name}", node=plain(schema()))
    for name, value in plain(schema()).items():
        if name in _WITH_A_DEFAULT:
            store.store(group=name, name="default", node=value)
    if issubclass(schema, RunConfig):
        store.store(name="settings_of_train", node=plain(RunConfig()))  # conf/plan.yaml goes on from conf/train.yaml
        for scheduler in SCHEDULERS:
            read = (*scheduler_named(scheduler).reads, *scheduler_named(scheduler).optional)
            unread = {key: None for key in settings_of(StageConfig) if key not in read}
            store.store(group="unread", name=scheduler, node={"stage": unread}, package="_global_")


@contextlib.contextmanager
def _hydra_set_aside() -> Iterator[None]:
    """Of Hydra there is one: that of a sweeper which is at work has to wait while a job is composed."""
    outer, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = outer


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    """What Hydra's own parser finds in the command line; its usage text is cut down to the error."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            arguments = get_args_parser().parse_args(list(argv[1:]))
    except SystemExit as stop:
        if not stop.code:  # --version
            raise
        problem = said.getvalue().rpartition("error: ")[2].strip()
        raise ConfigError(f"command line: {problem}; options come before the settings, see --help") from None
    for flag in ("experimental_rerun", "config_name", "config_path"):
        if getattr(arguments, flag):
            raise ConfigError(f"--{flag.replace('_', '-')}: is not supported; one command is one run, with -m a sweep")
    if arguments.multirun and any(getattr(arguments, flag) for flag in _QUESTIONS):
        raise ConfigError("--multirun: does not go with --help, --cfg and the like; leave it out to ask")
    if arguments.resolve and not (arguments.cfg or arguments.help):
        raise ConfigError("--resolve: goes with --cfg or --help")
    if arguments.config_dir and not os.path.isdir(arguments.config_dir):
        raise ConfigError(f"--config-dir: there is no folder {arguments.config_dir}")
    return arguments


def checked_overrides(
    args: list[str], schema: type, groups: dict[str, list[str]], sweeping: bool = False
) -> list[Override]:
    """The overrides, parsed. ConfigError for an unknown key or option, and for lists of values unless `sweeping`.

    `groups` are the config groups with their options.
    """
    overrides, known = [], settings_of(schema)
    for arg in args:
        override = parsed_override(arg)
        _check_override(override, arg, known, groups)
        key = override.key_or_group
        if override.is_sweep_override() and not sweeping:
            raise ConfigError(
                f"{key}: a list of values to sweep over is not a value; write a list as [a,b], and a sweep with -m"
            )
        if key in groups and not override.is_sweep_override():
            check_choice(key, override.value(), groups[key])
        overrides.append(override)
    return overrides


def parsed_override(text: str) -> Override:
    """The override that the command line has as `text`; ConfigError if it is none."""
    if nesting(text) > MAX_NESTING:
        raise ConfigError(f"{text[:40]}...: is nested more than {MAX_NESTING} deep; no setting is")
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(
            f"{without_secrets(text)[:80]}: not an override; write KEY=VALUE, and words with special signs in quotes "
            "of their own, \"KEY=['a=b']\""
        ) from error
    except ValueError as error:  # of Python, which takes 4,300
        raise ConfigError(f"{text[:40]}...: holds a number with too many digits to be one") from error


def _check_override(override: Override, arg: str, leaves: Mapping[str, Setting], groups: dict[str, list[str]]) -> None:
    key = override.get_key_element().lstrip("+~")
    if key.split(".")[0].split("/")[0] == "hydra":
        raise ConfigError(f"{key}: Hydra's own settings are fixed; a run writes to outputs/RUN_NAME only")
    if override.is_delete():
        raise ConfigError(f"{key}: settings cannot be removed; set a value, or null where the setting allows it")
    if key not in leaves and key not in groups:
        raise ConfigError(unknown_key(key or arg, [*leaves, *groups]))
    if override.is_add():
        raise ConfigError(f"{key}: is known; write it without the +")


def check_choice(group: str, choice: Any, options: list[str]) -> None:
    """ConfigError unless the group has this option."""
    if (choice is None and group == "experiment") or (isinstance(choice, str) and choice in options):
        return
    shown = "null" if choice is None else repr(choice)
    hint = difflib.get_close_matches(str(choice), options, n=1)
    did = f"; did you mean {hint[0]!r}?" if hint else ""
    raise ConfigError(f"{group}: no option {shown}; choose one of {', '.join(options)}{did}")


def options_of_groups(config_dir: str | None) -> dict[str, list[str]]:
    """Config groups and their options, those of --config-dir included."""
    groups: dict[str, set[str]] = {}
    for root in [CONF, *([Path(config_dir)] if config_dir else [])]:
        for file in root.glob("*/*.yaml"):
            groups.setdefault(file.parent.name, set()).add(file.stem)
    for group in _WITH_A_DEFAULT:
        groups.setdefault(group, set()).add("default")
    return {group: sorted(options) for group, options in sorted(groups.items()) if group != "hydra"}


def groups_of(schema: type, config_dir: str | None) -> dict[str, list[str]]:
    """The groups that a command with this schema has; one without a model has no recipes either."""
    fields = {key.partition(".")[0] for key in settings_of(schema)}
    fields |= {"experiment"} if "model" in fields else set()
    return {group: options for group, options in options_of_groups(config_dir).items() if group in fields}


def _given_keys(composed: DictConfig, bare: DictConfig | None, overrides: list[Override]) -> Given:
    """Keys that the command line decides: those it names, all of a group it chooses, all that an experiment sets.

    The last are those that differ from `bare`, what no command line gives; None without an experiment.
    """
    given = Given()
    leaves = leaves_of(OmegaConf.to_container(composed, resolve=True))
    for override in overrides:
        key = override.key_or_group
        given |= {leaf for leaf in leaves if leaf == key or leaf.startswith(f"{key}.")}
    if bare is not None:
        before = leaves_of(OmegaConf.to_container(bare, resolve=True))
        given |= {leaf for leaf, value in leaves.items() if leaf not in before or before[leaf] != value}
    given.named = frozenset(override.key_or_group for override in overrides) & leaves.keys()
    return given
