"""`dataset.*`: where the training text comes from, and which part of it is held out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from est_cli.common.urls import is_url, url_problem
from est_cli.config.setting import AUTO, FREE, HASHED, SEED, SETTLED, TRACKED, at_least, between, setting
from est_cli.est.spec import ModelSpec

NO_REVISION = "-"
"""What dataset.revision has for a folder."""
SMALLEST_SHARE = 0.001
"""One sample of a window of data/blocks.py."""


class Source(StrEnum):
    """Where the text comes from."""

    stdlib = "stdlib"
    files = "files"
    tokens = "tokens"
    hub = "hub"


class Cut(StrEnum):
    """How documents of more than 65,536 characters are cut while they are tokenised."""

    exact = "exact"
    lines = "lines"


class OnBadRow(StrEnum):
    """What a row without text does."""

    error = "error"
    skip = "skip"


class Tokenize(StrEnum):
    """When text becomes tokens."""

    first = "first"
    ahead = "ahead"


class Packing(StrEnum):
    """What a training sequence is of the documents in it."""

    across = "across"
    document = "document"


@dataclass
class DatasetConfig:
    name: str = setting("stdlib", "Name of the preset; used in messages and run names only.", TRACKED)
    source: Source = setting(Source.stdlib, "Where the text comes from; the presets of dataset= set it.")
    files: list[str] = setting(
        [],
        "source=files: paths or globs of .txt, .md, .jsonl, .ndjson, .json, .csv, .tsv (also .gz, .xz, .zst), "
        ".parquet, .arrow, folders of save_to_disk, or addresses of such files (https://, s3://, gs://, hf://); "
        "source=tokens: files of ids.",
        HASHED,
        brief="Text or token files, globs, or addresses",
    )
    validation_files: list[str] = setting(
        [], "Held-out files of the same kind; none: validation_fraction of the documents is held out.", HASHED
    )
    hub_ids: list[str] = setting(
        [],
        "source=hub: data sets of the hub or local folders of that layout; several are concatenated, or mixed.",
        brief="Data sets of the hub, or folders like them",
    )
    weights: list[float] | None = setting(
        None,
        "One for each entry of files or hub_ids: these are mixed in this proportion, sample by sample, and a small "
        "one is read several times; null: one after the other, every block once per epoch.",
        brief="Shares in which the sources are mixed",
    )
    hub_config: str | None = setting(None, "source=hub: the configuration of the data set.")
    hub_split: str = setting("train", "source=hub: the split to train on.")
    hub_validation_split: str | None = setting(
        None, "source=hub: the split to validate on; null: validation_fraction of the documents."
    )
    revision: list[str] = setting(
        [],
        "source=hub: commit, tag or branch of each of hub_ids (of a folder `-`); none: the newest when it was first "
        "read here; config.yaml names the commit.",
        SETTLED,
        TRACKED,
        brief="Commit, tag or branch of each of hub_ids",
    )
    data_files: list[str] = setting(
        [],
        "source=hub: names or globs of the data files to train on, as load_dataset's data_files; none: all of the "
        "split.",
        brief="source=hub: names or globs of files to read",
    )
    data_dir: str | None = setting(
        None,
        "source=hub: the folder of the data set whose files are read, as load_dataset's data_dir; null: all.",
        brief="source=hub: the folder to read",
    )
    max_tokens: int | str | None = setting(
        None,
        "Take a part of the text: so many tokens to train on, with the documents that are held out on the way beside "
        "them; auto: as many as the run reads; null: all. Only the files (hub: data files) that are needed are read.",
        SETTLED,
        TRACKED,
        within=at_least(1),
        brief="Take only so many tokens of the text; auto",
    )
    max_documents: int | None = setting(
        None,
        "Take so many documents at most, held-out ones among them; of several sources with weights, of each its share.",
        TRACKED,
        within=at_least(1),
        brief="Take only so many documents",
    )
    part_seed: int = setting(
        0,
        "Which part max_tokens and max_documents take: the order of the files is drawn from it. A smaller part is the "
        "beginning of a larger one. tokenize=ahead: the order of the parts.",
        TRACKED,
        within=SEED,
        brief="Which part of the text these two take",
    )
    text_fields: list[str] = setting(
        ["text", "content"],
        "jsonl, parquet, hub: the first of these fields that a data set has is its text.",
        brief="Names of the field with the text",
    )
    exclude: list[str] = setting(
        [],
        "jsonl, parquet, hub: rows with such a value are left out, for example meta.language=de (dots: nested fields).",
        brief="Rows to leave out, as FIELD=VALUE",
    )
    separator: str | None = setting(
        None,
        "source=files: what ends a document within a .txt file, such as <|endoftext|>; null: a file is a document.",
        brief="What ends a document within a .txt file",
    )
    articles: bool = setting(
        False,
        "Rows (or lines of .txt) are lines of wikitext: a document goes from one ` = Title = ` to the next.",
        brief="Lines of wikitext, joined to its articles",
    )
    on_bad_row: OnBadRow = setting(
        OnBadRow.error,
        "A row without text (not JSON, no such field, no string, not UTF-8, too long, of a .csv file with another "
        "number of fields): error: ends the command; skip: is passed over, with a count and the first places told.",
        brief="What becomes of a row without text",
    )
    tokenize: Tokenize = setting(
        Tokenize.first,
        "first: all of the text, before training begins; ahead: training begins with the first part of it, and "
        "processes tokenise the rest ahead of the run; samples then come part by part (docs/data.md).",
        TRACKED,
        brief="Before training, or ahead of it",
    )
    cut: Cut = setting(
        Cut.exact,
        "Documents of more than 65,536 characters: exact: their tokens are those of the whole; lines: as in runs "
        "before this key, each part as a text of its own.",
        HASHED,
        brief="How long documents are tokenised",
    )
    packing: Packing = setting(
        Packing.across,
        "What tokens of a sequence see: across: all before them in it, whatever document these are of; document: "
        "those of their own document only, whose positions begin at 0 (docs/data.md).",
        brief="Whether tokens see other documents",
    )
    validation_fraction: float = setting(
        0.02,
        "Share of the documents that is held out for validation.",
        within=between("(0, 1)"),
        brief="Share of documents held out",
    )
    token_dtype: str | None = setting(
        None,
        "source=tokens: how raw ids are stored, uint16 or uint32 (little-endian); null: uint16, and in files that tell "
        "it themselves (.npy, llm.c, Megatron) what they tell.",
        SETTLED,
        brief="source=tokens: uint16 or uint32",
    )
    num_workers: int | None = setting(
        None,
        "Processes that tokenise (threads, where there is little to do); null: one per CPU core.",
        FREE,
        within=at_least(1),
        brief="Processes that tokenise; null: all cores",
    )

    @property
    def is_part(self) -> bool:
        """Whether a part of the text is taken."""
        return self.max_tokens is not None or self.max_documents is not None

    @property
    def is_ahead(self) -> bool:
        """Whether the text is tokenised while the run goes on."""
        return self.tokenize is Tokenize.ahead

    @property
    def skips_bad_rows(self) -> bool:
        """Whether rows without text are passed over."""
        return self.on_bad_row is OnBadRow.skip


def packing_problems(sizes: ModelSpec) -> Iterator[str]:
    """Of packing=document with such a model."""
    if not sizes.attention:
        yield (
            f"dataset.packing: the family {sizes.family} carries a state over the whole sequence, which no mask parts "
            "at the ends of documents; use across"
        )


def dataset_problems(data: DatasetConfig, tokenizer: str) -> Iterator[str]:
    """`tokenizer`: the name of the one that reads the text, `bpe` where it is trained on it."""
    of_files = data.source in (Source.files, Source.tokens)
    if of_files and not data.files:
        yield f"dataset.files: is empty; dataset={data.name} needs paths, for example dataset.files=[corpus/*.txt]"
    for key in ("files", "validation_files"):
        if not of_files and getattr(data, key):
            yield f"dataset.{key}: dataset={data.name} reads no files; use dataset=text or dataset=tokens"
    yield from _far_problems(data)
    if data.source is Source.hub and not data.hub_ids:
        yield "dataset.hub_ids: is empty; name at least one data set of the hub"
    if data.source is not Source.hub and data.hub_ids:
        yield f"dataset.hub_ids: dataset={data.name} does not read the hub; use dataset=hub"
    if data.source is Source.tokens and tokenizer == "bpe":
        yield "tokenizer: dataset=tokens holds ids of a tokenizer that exists; name its folder or hub id"
    if data.token_dtype not in (None, "uint16", "uint32"):
        yield f"dataset.token_dtype: {data.token_dtype!r} is not one of uint16, uint32, null"
    for entry in data.exclude:
        if not all(entry.partition("=")[:2]):
            yield f"dataset.exclude: {entry!r} is not of the form field=value"
    if data.exclude and data.source not in (Source.files, Source.hub):
        yield f"dataset.exclude: dataset={data.name} has no rows with fields; use dataset=text or dataset=hub"
    if data.separator is not None and (data.source is not Source.files or not data.separator.strip("\n")):
        yield "dataset.separator: is some text, such as <|endoftext|>, for .txt files of dataset=text; or null"
    if data.articles and (data.source not in (Source.files, Source.hub) or data.separator is not None):
        yield "dataset.articles: is for lines of wikitext with dataset=text or dataset=hub, without dataset.separator"
    if data.skips_bad_rows and data.source not in (Source.files, Source.hub):
        yield f"dataset.on_bad_row: dataset={data.name} has no rows to pass over; use dataset=text or dataset=hub"
    yield from _part_problems(data)
    yield from _ahead_problems(data)
    if data.weights is not None:
        yield from _weights_problems(data, data.weights)


def _far_problems(data: DatasetConfig) -> Iterator[str]:
    """Addresses of files that lie elsewhere."""
    for key in ("files", "validation_files"):
        for url in filter(is_url, getattr(data, key)):
            if problem := url_problem(url):
                yield f"dataset.{key}: {problem}"
            elif data.source is Source.tokens:
                yield f"dataset.{key}: {url} lies elsewhere; ids are read from here only, so download it"


def _part_problems(data: DatasetConfig) -> Iterator[str]:
    """What takes a part of the text, where the source can serve it."""
    if isinstance(data.max_tokens, str) and data.max_tokens != AUTO:
        yield f"dataset.max_tokens: {data.max_tokens!r} is not a number of tokens, auto or null"
    if data.source is Source.tokens and data.max_documents is not None:
        yield "dataset.max_documents: dataset=tokens is a stream of ids; use dataset.max_tokens, its beginning"
    if data.part_seed and (not (data.is_part or data.is_ahead) or data.source is Source.tokens):
        yield "dataset.part_seed: draws the part that dataset.max_tokens or max_documents takes of files; leave it 0"
    if data.revision and data.source is not Source.hub:
        yield "dataset.revision: is for data sets of the hub (dataset=hub)"
    elif data.revision and len(data.revision) != len(data.hub_ids):
        count, ids = len(data.revision), len(data.hub_ids)
        yield f"dataset.revision: has {count} entries, dataset.hub_ids has {ids}; one for each"
    for key in ("data_files", "data_dir"):
        if getattr(data, key) and data.source is not Source.hub:
            hint = "; name the files in dataset.files" if data.source is not Source.stdlib else ""
            yield f"dataset.{key}: is for data sets of the hub (dataset=hub){hint}"


def _ahead_problems(data: DatasetConfig) -> Iterator[str]:
    """Text in files, all of which may be read."""
    if not data.is_ahead:
        return
    if data.source not in (Source.files, Source.hub):
        why = "holds tokens already" if data.source is Source.tokens else "is a single part"
        yield f"dataset.tokenize: dataset={data.name} {why}; use first"
    for key in ("max_tokens", "max_documents"):
        if getattr(data, key) is not None:
            yield f"dataset.{key}: tokenize=ahead tokenises little more than the run reads; leave it null, or use first"


def _weights_problems(data: DatasetConfig, weights: list[float]) -> Iterator[str]:
    """Weights are for sources that are named one by one."""
    key = {Source.files: "files", Source.hub: "hub_ids"}.get(data.source)
    if not weights or not all(math.isfinite(weight) and weight > 0 for weight in weights):
        yield f"dataset.weights: {weights} is out of range; each must be a positive number"
    elif key is None:
        yield f"dataset.weights: dataset={data.name} is a single source; use dataset=text or dataset=hub"
    elif len(weights) != len(getattr(data, key)):
        yield f"dataset.weights: has {len(weights)} entries, dataset.{key} has {len(getattr(data, key))}; one for each"
    elif min(weights) < SMALLEST_SHARE * sum(weights):
        yield f"dataset.weights: {min(weights):g} is less than {SMALLEST_SHARE:g} of all; leave that source out"
