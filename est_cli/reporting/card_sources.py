"""What a model was made from, as its card may show it: names and commits of the hub, and no path."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from est_cli.common.redact import one_line
from est_cli.common.urls import is_url
from est_cli.config import RunConfig
from est_cli.config.data import NO_REVISION, Source
from est_cli.config.model import HF
from est_cli.config.run import tokenizer_of, tokenizer_revision_of

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SOURCES = {
    Source.stdlib: "the text of the standard library of Python",
    Source.files: "local files",
    Source.tokens: "local files of token ids",
}


def data_in_words(config: RunConfig) -> Iterator[str]:
    """What was read: data sets of the hub by id and commit, of everything else only the kind."""
    data = config.dataset
    if data.source is not Source.hub:
        far = any(map(is_url, data.files))
        yield "files read from other servers" if far else _SOURCES[data.source]
        return
    for name, revision in hub_sets(config):
        at = f" at commit `{revision}`" if revision else ""
        part = f", configuration `{plain(data.hub_config)}`" if data.hub_config else ""
        yield f"[{name}](https://huggingface.co/datasets/{name}){at}{part}, split `{plain(data.hub_split)}`"
    if len(hub_sets(config)) < len(data.hub_ids):
        yield "a local folder"
    if data.weights is not None:
        yield "mixed " + " : ".join(f"{weight:g}" for weight in data.weights)


def hub_sets(config: RunConfig) -> list[tuple[str, str]]:
    """(id, commit or empty) of the data sets of the hub, without local folders."""
    data = config.dataset
    revisions = data.revision or [""] * len(data.hub_ids)
    pairs = zip(data.hub_ids, revisions, strict=False)
    return [(name, plain(at)) for name, at in pairs if at != NO_REVISION and _is_hub_id(name)]


def base_model(config: RunConfig) -> str | None:
    """The hub's id of the model that was trained on, where there is one."""
    name = config.model.name_or_path
    continued = config.model.family == HF and config.model.pretrained
    return name if continued and name and _is_hub_id(name) else None


def tokenizer_in_words(config: RunConfig) -> str:
    name, revision = tokenizer_of(config), tokenizer_revision_of(config)
    if name == "bpe":
        return "byte-level BPE, trained on this text"
    if not _is_hub_id(name):
        return "of a local folder"
    return f"`{name}`" + (f" at commit `{plain(revision)}`" if revision else "")


def _is_hub_id(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def plain(text: object) -> str:
    """Words from files that may be anybody's, without what Markdown would take for its own."""
    return re.sub(r"[`|<>\[\]]", " ", one_line(str(text)))[:200]


def word(text: object) -> str:
    """The same as one word."""
    return re.sub(r"[^\w.-]+", "-", str(text), flags=re.ASCII)[:80]
