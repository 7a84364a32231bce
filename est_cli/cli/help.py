"""What `--help` and docs/settings.md say of the settings, both from what their fields say.

python -m est_cli.cli.help > docs/settings.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from est_cli.common.errors import EXIT_CODES
from est_cli.config.schedulers import SCHEDULERS, scheduler_named
from est_cli.config.schema import describe, leaves_of, plain
from est_cli.config.setting import FREE, Setting, settings_of

SETTINGS = "All keys with the values this command line would use:"


def help_page(usage: str, config: Any, groups: Mapping[str, list[str]]) -> str:
    """The page of one command: `usage`, its groups with their options, and a line for each key of `config`."""
    known, values = settings_of(type(config)), leaves_of(plain(config))
    lines = [usage.strip(), "", "Groups (GROUP=OPTION):"] if groups else [usage.strip()]
    lines += [f"  {group}: {', '.join(options)}" for group, options in groups.items()]
    if "scheduler" in groups:
        lines += ["", "Schedulers:", *(f"  {name}: {scheduler_named(name).meaning}" for name in SCHEDULERS)]
    lines += ["", f"Exit codes: {', '.join(EXIT_CODES)}.", "", SETTINGS, ""]
    return "\n".join([*lines, *(f"  {key}={written(values[key])}  # {_in_words(known[key])}" for key in known)])


def _in_words(known: Setting) -> str:
    """The first sentence of what a setting means, and what it may be."""
    meaning = known.meaning.partition(". ")[0].rstrip(".")
    return f"{meaning} ({_allowed(known)})" if _allowed(known) else meaning


def _allowed(known: Setting) -> str:
    """The range or the choices; empty where the type says it all."""
    if known.within is not None:
        return known.within.words.replace(" (0 means never)", ", 0: never")
    kinds = [kind for kind in (known.hint, *getattr(known.hint, "__args__", ())) if isinstance(kind, type)]
    words = known.choices or [member.value for kind in kinds if issubclass(kind, Enum) for member in kind]
    return ", ".join(words)


def written(value: Any) -> str:
    """A value as it is typed on a command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return f"'{value}'" if isinstance(value, str) and (value != value.strip() or not value) else str(value)


def settings_page() -> str:
    """docs/settings.md."""
    from est_cli.config import AnalyzeConfig, EvalConfig, PlanConfig, RunConfig

    lines = [
        "# Settings",
        "",
        "Every key of every command, as its field in `est_cli/config/` tells it (made by `python -m "
        "est_cli.cli.help`; a test",
        "keeps this page equal). *Free* keys may change when a run is resumed, or a sweep continued; all others "
        "define the",
        "run. On a command line: `KEY=VALUE`, a preset of a group as `GROUP=OPTION`.",
        "",
        "## Schedulers (`scheduler=NAME`)",
        "",
        "| scheduler | what it does | reads of `stage.*` |",
        "|---|---|---|",
    ]
    for name in SCHEDULERS:
        found = scheduler_named(name)
        reads = ", ".join([*found.reads, *(f"({key})" for key in found.optional)]) or "nothing"
        lines.append(f"| `{name}` | {found.meaning} | {reads} |")
    shown: set[str] = set()
    for name, schema in (("train", RunConfig), ("plan", PlanConfig), ("eval", EvalConfig), ("analyze", AnalyzeConfig)):
        lines += ["", f"## est-{name}", ""]
        if name == "plan":
            lines += ["Everything of est-train, and:", ""]
        settings = {key: known for key, known in settings_of(schema).items() if key not in shown or name != "plan"}
        shown |= settings.keys()
        lines += _table(settings)
    return "\n".join([*lines, ""])


def _table(settings: Mapping[str, Setting]) -> Iterator[str]:
    yield "| key | default | may be | meaning |"
    yield "|---|---|---|---|"
    for key, known in settings.items():
        allowed = describe(known) if known.within is None else f"{describe(known)}; {known.within.words}"
        free = " *Free.*" if FREE in known.roles else ""
        cells = (f"`{key}`", f"`{written(plain(known.default))}`", allowed, known.meaning + free)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(settings_page(), end="")
