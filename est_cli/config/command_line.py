"""A command line taken apart: options, wherever they stand, and settings in the form in which Hydra keeps them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NoReturn

from est_cli.common.errors import ConfigError
from est_cli.config.groups import groups_of
from est_cli.config.schema import key_meant
from est_cli.config.setting import settings_of
from est_cli.config.words import single_words, with_quotes, word_keys

CONFIG_DIR_VARIABLE = "EST_CONFIG_DIR"

_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_OWN_FILE = (
    "the configuration of a command is fixed; put your own into a file experiment/NAME.yaml of a folder, and give "
    "--config-dir=FOLDER experiment=NAME"
)
_REFUSED = {
    "--config": _OWN_FILE,
    "--config-name": _OWN_FILE,
    "--config-path": "the presets are part of this package; --config-dir=FOLDER adds your own",
    "--experimental-rerun": "est-train resume=outputs/NAME continues a run, and its config.yaml holds every setting",
}


@dataclass(frozen=True)
class CommandLine:
    """A command line, parsed once."""

    argv: list[str]
    """As Hydra reads it: options first, and words that look like numbers or hold signs in quotes."""
    overrides: list[str]
    """Of these, the settings."""
    config_dir: str | None
    multirun: bool = False
    asks: bool = False
    """Whether it asks Hydra something and starts nothing (--help, --cfg job, --info and the like)."""
    help: bool = False
    topics: tuple[str, ...] = ()
    """What --help is asked about: groups or keys; none: everything."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"command line: {message}; see --help")


def parse(argv: Sequence[str], schema: type, no_sweep: str | None = None) -> CommandLine:
    """The command line of a command with these settings.

    Raises ConfigError for options that there are not; `no_sweep`: why -m is refused, None where it is taken.
    """
    found, unknown = _parser().parse_known_intermixed_args(list(argv[1:]))
    if unknown:
        raise ConfigError(_no_option(unknown[0], settings_of(schema)))
    for option, why in _REFUSED.items():
        if getattr(found, option.lstrip("-").replace("-", "_")) is not None:
            raise ConfigError(f"{option}: {why}")
    if found.multirun and no_sweep is not None:
        raise ConfigError(f"--multirun: {no_sweep}")
    if found.resolve and not (found.cfg or found.help):
        raise ConfigError("--resolve: goes with --cfg or --help")
    folder = _config_dir(found.config_dir)
    groups = groups_of(schema, folder)
    known = settings_of(schema)
    words, singles = word_keys(known, groups), single_words(known)
    topics = tuple(arg for arg in found.overrides if found.help and "=" not in arg)
    settings = [arg for arg in found.overrides if arg not in topics]
    overrides = [with_quotes(_without_plus(arg, groups), words, singles, found.multirun) for arg in settings]
    asks = bool(found.help or found.hydra_help or found.cfg or found.info or found.shell_completion)
    options = _options(found, folder)
    _check_package(found, known)
    return CommandLine([argv[0], *options, *overrides], overrides, folder, found.multirun, asks, found.help, topics)


def _parser() -> argparse.ArgumentParser:
    """The options of Hydra's commands that ours have too, and those that are refused with what to do instead."""
    parser = _Parser(add_help=False)
    parser.add_argument("overrides", nargs="*")
    for names in (("--help", "-h"), ("--hydra-help",), ("--multirun", "-m"), ("--run", "-r"), ("--resolve",)):
        parser.add_argument(*names, action="store_true")
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    parser.add_argument("--package", "-p")
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=_INFO)
    parser.add_argument("--shell-completion", "-sc")
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--config")
    parser.add_argument("--config-name", "-cn")
    parser.add_argument("--config-path", "-cp")
    parser.add_argument("--experimental-rerun")
    return parser


def _no_option(option: str, known: Collection[str]) -> str:
    """Other tools write settings as options: told with the setting that is meant, if one is."""
    name, _, value = option.lstrip("-").partition("=")
    key = key_meant(name.replace("-", "_"), known)
    way_out = f"; a setting is written without dashes: {key}={value or 'VALUE'}" if key else "; see --help"
    return f"command line: unrecognized arguments: {option}{way_out}"


def _check_package(found: argparse.Namespace, known: Collection[str]) -> None:
    """Hydra itself ends with code 1 where there is no such part of the configuration."""
    name = found.package
    if found.cfg != "job" or not name or name == "_global_":
        return
    if not any(key == name or key.startswith(f"{name}.") for key in known):
        raise ConfigError(f"--package: there is no group or setting {name}; name one, such as train")


def _config_dir(typed: str | None) -> str | None:
    """--config-dir, or else what the environment names."""
    name, folder = "--config-dir", typed
    if folder is None:
        name, folder = CONFIG_DIR_VARIABLE, os.environ.get(CONFIG_DIR_VARIABLE) or None
    if folder is not None and not os.path.isdir(folder):
        raise ConfigError(f"{name}: there is no folder {folder}")
    return folder


def _without_plus(arg: str, groups: Collection[str]) -> str:
    """`+experiment=NAME`, which other projects' recipes need, is `experiment=NAME`."""
    return arg[1:] if arg.startswith("+") and arg[1:].partition("=")[0] in groups else arg


def _options(found: argparse.Namespace, folder: str | None) -> list[str]:
    """What Hydra itself is to answer. It takes one such option at a time, and of a sweep what is fixed."""
    options = [f"--config-dir={folder}"] if folder else []
    options += [f"--cfg={found.cfg}"] if found.cfg else []
    options += ["--resolve"] if found.resolve else []
    options += [f"--package={found.package}"] if found.package else []
    options += ["--hydra-help"] if found.hydra_help else []
    options += [f"--info={found.info}"] if found.info else []
    return options + (["--shell-completion", found.shell_completion] if found.shell_completion else [])
