"""docs/settings.md, from the fields of the configuration: `python docs/settings_page.py > docs/settings.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from est_cli.cli.help import written
from est_cli.config import AnalyzeConfig, EvalConfig, PlanConfig, RunConfig, SurveyConfig
from est_cli.config.schedulers import SCHEDULERS, scheduler_named
from est_cli.config.schema import describe, plain
from est_cli.config.setting import FREE, Setting, settings_of

HEAD = """\
# Settings

This page has every key of every command, as its field in `est_cli/config/` tells it. It is made by
`python docs/settings_page.py`, and a test keeps the two equal.

*Free* keys may change when a run is resumed, or a sweep continued. All other keys define the run. On a command line,
write `KEY=VALUE`, and for a preset of a group `GROUP=OPTION`.

## Schedulers (`scheduler=NAME`)

| scheduler | what it does | reads of `stage.*` |
|---|---|---|"""


_SCHEMAS = {
    "train": RunConfig,
    "plan": PlanConfig,
    "data": SurveyConfig,
    "eval": EvalConfig,
    "analyze": AnalyzeConfig,
}


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for name in SCHEDULERS:
        found = scheduler_named(name)
        reads = ", ".join([*found.reads, *(f"({key})" for key in found.optional)]) or "nothing"
        lines.append(f"| `{name}` | {found.meaning} | {reads} |")
    shown: set[str] = set()
    for name, schema in _SCHEMAS.items():
        lines += ["", f"## est-{name}", ""]
        if issubclass(schema, RunConfig) and schema is not RunConfig:
            lines += ["Everything of est-train, and:", ""]
        settings = {
            key: known
            for key, known in settings_of(schema).items()
            if key not in shown or not issubclass(schema, RunConfig)
        }
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
    print(page(), end="")
