"""From a command line to one typed value: Hydra composes conf/, this module checks the keys.

With words.py, own_files.py and sweep/ the only place that imports Hydra. Overrides are checked before Hydra sees them,
so that a typo is told with the nearest key, also when it is smuggled in with `+`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import yaml
from hydra import compose, initialize_config_dir
from hydra import main as hydra_main
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from est_cli.common.errors import ConfigError
from est_cli.common.redact import without_secrets
from est_cli.config.groups import CONF, WITH_A_DEFAULT, check_choice, groups_of
from est_cli.config.own_files import search_path
from est_cli.config.resolvers import NAMES, filled
from est_cli.config.run import RunConfig
from est_cli.config.schedulers import SCHEDULERS, is_outside, scheduler_named
from est_cli.config.schema import RECIPES_OF_HYDRA, config_error, leaves_of, plain, typed, unknown_key
from est_cli.config.setting import Given, Setting, settings_of
from est_cli.config.stage import StageConfig
from est_cli.config.words import nesting, refuse_unclear, word_keys

_INSTEAD = {
    "hydra.run.dir": "a run's folder is paths.outputs with run_name in it; set these two",
    "hydra.sweep.dir": "a sweep's folder is paths.outputs with sweep in it; set these two",
    "hydra.sweep.subdir": "the folders of a sweep's runs are named after what is swept",
    "hydra.output_subdir": "a run's configuration is always in its folder, config.yaml",
    "hydra.job.chdir": "a command stays in its folder; paths.outputs=DIR names another place for what it writes",
    "hydra.job.name": "run_name=NAME names a run",
    "hydra.mode": "-m makes a sweep of a command line",
    "hydra.searchpath": "--config-dir=FOLDER, or EST_CONFIG_DIR, adds presets of your own",
    "hydra.verbose": "EST_DEBUG=1 shows where an error comes from",
    "hydra/launcher": "goes with -m: a launcher takes the jobs of a sweep",
    "hydra/sweeper": "goes with -m",
}
"""What does what some of Hydra's own settings do."""

MAX_NESTING = 20
"""Brackets within brackets on a command line; the deepest setting has two."""

C = TypeVar("C")


class Composed(NamedTuple, Generic[C]):
    """What a command line means."""

    config: C
    """Typed, unchecked."""
    given: Given
    chosen: dict[str, Any]
    """The options that it chooses, by group."""
    swept: dict[str, str]
    """What -m sweeps because a recipe says so, by key: its hydra.sweeper.params."""


def composed(config_name: str, schema: type[C], args: list[str], config_dir: str | None) -> Composed[C]:
    """Compose conf/`config_name`.yaml with these overrides.

    Raises ConfigError for whatever is wrong with them or with the files.
    """
    groups = groups_of(schema, config_dir)
    overrides = checked_overrides(args, schema, groups)
    with _told_in_one_line(schema):
        config, bare, swept = _composed(config_name, schema, args, config_dir)
    _fill_in_names(config, [*settings_of(schema)])
    of_files = word_keys(settings_of(schema), ()) - {it.key_or_group for it in overrides}
    folders = [CONF, *([Path(config_dir)] if config_dir else [])]
    refuse_unclear(OmegaConf.to_container(config, resolve=False), of_files, folders)
    chosen = {it.key_or_group: it.value() for it in overrides if it.key_or_group in groups}
    return Composed(typed(config, schema), _given_keys(config, bare, overrides), chosen, swept)


def _fill_in_names(config: DictConfig, known: Collection[str]) -> None:
    for key in NAMES:
        text = OmegaConf.to_container(config, resolve=False)[key] if key in known else None  # type: ignore[index,call-overload]
        if isinstance(text, str):
            config[key] = filled(key, text)


@contextlib.contextmanager
def _told_in_one_line(schema: type) -> Iterator[None]:
    """ConfigError for whatever Hydra finds wrong."""
    try:
        yield
    except ConfigError:
        raise
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
) -> tuple[DictConfig, DictConfig | None, dict[str, str]]:
    """The configuration; where an experiment is chosen also what it is without any override, and what it sweeps."""
    store_defaults(config_name, schema)
    _store_outside(args)
    search = [search_path(config_dir)] if config_dir else []
    with _hydra_set_aside(), initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        if not any(arg.startswith("experiment=") for arg in args):
            return compose(config_name, overrides=[*search, *args]), None, {}
        config, bare = (compose(config_name, chosen, return_hydra_config=True) for chosen in ([*search, *args], []))
    swept = _sweep_of_files(config.hydra, bare.hydra)
    return _without_hydra(config), _without_hydra(bare), swept


def _without_hydra(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def _sweep_of_files(hydra: DictConfig, usual: DictConfig) -> dict[str, str]:
    """hydra.sweeper.params of the recipes. ConfigError for anything else that they set of Hydra's own."""
    found, before = (leaves_of(OmegaConf.to_container(it, resolve=False)) for it in (hydra, usual))
    for key, value in found.items():
        told = key.startswith(("overrides.", "runtime.", "job.", "searchpath", "sweeper.params"))
        if not told and value != before.get(key):
            raise ConfigError(f"hydra.{key}: {RECIPES_OF_HYDRA}")
    return {key: str(value) for key, value in (hydra.sweeper.get("params") or {}).items()}


def store_defaults(config_name: str, schema: type) -> None:
    """Give Hydra what the dataclasses say, so that conf/ holds presets and nothing twice.

    `settings_of_NAME`: every key with its default. `GROUP/default`: that group alone. `unread/SCHEDULER`: null for what
    this scheduler does not read of stage, since stage/ and recipes write what three_stage reads.
    """
    store = ConfigStore.instance()
    store.store(name=f"settings_of_{config_name}", node=plain(schema()))
    for name, value in plain(schema()).items():
        if name in WITH_A_DEFAULT:
            store.store(group=name, name="default", node=value)
    if issubclass(schema, RunConfig):
        store.store(name="settings_of_train", node=plain(RunConfig()))  # conf/plan.yaml goes on from conf/train.yaml
        for scheduler in SCHEDULERS:
            _store_unread(scheduler)


def _store_unread(name: str) -> None:
    read = (*scheduler_named(name).reads, *scheduler_named(name).optional)
    unread = {key: None for key in settings_of(StageConfig) if key not in read}
    ConfigStore.instance().store(group="unread", name=name, node={"stage": unread}, package="_global_")


def _store_outside(args: Iterable[str]) -> None:
    """Give Hydra the option of every scheduler of somebody else's that is chosen; a file of its name goes before it."""
    for arg in args:
        key, _, name = arg.partition("=")
        if key == "scheduler" and is_outside(name):
            _store_unread(name)
            scheduler = scheduler_named(name)
            stage, read = dict(scheduler.defaults), {*scheduler.reads, *scheduler.optional}
            for keys, does in ((stage.keys(), "has a default for"), (read, "reads")):
                if unknown := sorted(keys - settings_of(StageConfig).keys()):
                    raise ConfigError(f"scheduler.name: {name!r} {does} stage.{unknown[0]}, which is no setting")
            node = {"scheduler": {"name": name}, "stage": stage}
            ConfigStore.instance().store(group="scheduler", name=name, node=node, package="_global_")


@contextlib.contextmanager
def _hydra_set_aside() -> Iterator[None]:
    """Of Hydra there is one: that of a sweeper which is at work has to wait while a job is composed."""
    outer, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = outer


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
        key, _, value = text.partition("=")
        if value.startswith("~/"):
            raise ConfigError(f"{key}: no shell replaces a ~ behind a =; write {key}=$HOME{value[1:][:80]}") from error
        raise ConfigError(
            f"{without_secrets(text)[:80]}: not an override; write KEY=VALUE, and words with special signs in quotes "
            "of their own, \"KEY=['a=b']\""
        ) from error
    except ValueError as error:  # of Python, which takes 4,300
        raise ConfigError(f"{text[:40]}...: holds a number with too many digits to be one") from error


def refused_of_hydra(key: str) -> ConfigError:
    """What is told of a setting of Hydra's own."""
    return ConfigError(f"{key}: {_INSTEAD.get(key, 'Hydra has it, and it is fixed here')}")


def _check_override(override: Override, arg: str, leaves: Mapping[str, Setting], groups: dict[str, list[str]]) -> None:
    key = override.get_key_element().lstrip("+~")
    if key.split(".")[0].split("/")[0] == "hydra":
        raise refused_of_hydra(key)
    if override.is_delete():
        raise ConfigError(f"{key}: settings cannot be removed; set a value, or null where the setting allows it")
    if key not in leaves and key not in groups:
        raise ConfigError(unknown_key(key or arg, [*leaves, *groups]))
    if override.is_add():
        raise ConfigError(f"{key}: is known; write it without the +")


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
