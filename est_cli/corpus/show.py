"""What est-data prints and writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from est_cli.common.table import print_lines, table_console
from est_cli.config import SurveyConfig
from est_cli.config.resolve import Resolved, resolve
from est_cli.corpus.survey import documents_of, odd_tokens, samples_of
from est_cli.data import Corpus
from est_cli.data.tokens.tokenizer import token_count
from est_cli.families import spec_of
from est_cli.models import hf_config
from est_cli.storage.run_dir import write_result
from est_cli.training.parts import configured_corpus, with_settled_text

MOST_BYTES = 1 << 24
"""Of the JSON file: samples are short."""
_SHOWN = (
    ("documents", "documents", None),
    ("train_documents", "  to train on", "documents"),
    ("duplicates", "  equal to an earlier one", "train_documents"),
    ("blank", "  blank, left out", None),
    ("excluded", "  excluded, left out", None),
    ("bad", "  without text, passed over", None),
    ("longest_tokens", "  tokens of the longest", None),
    ("tokens", "tokens", None),
    ("train_tokens", "  to train on", "tokens"),
    ("validation_tokens", "  held out", "tokens"),
    ("unknown_tokens", "  unknown", "tokens"),
    ("bytes", "bytes of text", None),
    ("byte_tokens", "  that no token holds", "bytes"),
)
"""Key of a number, its words, and what a share of it is told of."""


def show_data(config: SurveyConfig) -> None:
    """Have the text of a checked configuration tokenised, as est-train does it, and tell what is in it."""
    run = with_settled_text(resolve(config))
    corpus = configured_corpus(run, spec_of(hf_config(config.model)), True)
    numbers = numbers_of(corpus, run)
    samples = samples_of(corpus, config.samples, config.seed)
    console = table_console()
    print_lines(console, f"est-data: {config.dataset.name}, tokenizer {run.tokenizer}", *_lines(numbers))
    print_lines(console, *(f"sample  {text}" for text in samples))
    if config.json is not None:
        write_result(Path(config.json), {**numbers, "samples": samples}, MOST_BYTES)
        print_lines(console, f"json    {config.json}")


def numbers_of(corpus: Corpus, run: Resolved) -> dict[str, Any]:
    """Everything that was counted; null is what nobody knows, or what the tokenizer does not have."""
    documents, odd = documents_of(corpus), odd_tokens(corpus)
    found = asdict(documents)
    sides = [sum(map(len, tokens.streams)) for tokens in (corpus.train, corpus.validation)]
    return {
        "dataset": run.config.dataset.name,
        "tokenizer": run.tokenizer,
        "tokenizer_tokens": token_count(corpus.tokenizer),
        "documents": found.pop("count"),
        "tokens": sum(sides),
        "train_tokens": sides[0],
        "validation_tokens": sides[1],
        "longest_tokens": found.pop("longest"),
        "train_documents": found.pop("train"),
        **found,
        "unknown_tokens": odd.unknown,
        "byte_tokens": odd.bytes,
        "data_hash": corpus.data_hash,
        "tokenizer_hash": corpus.tokenizer_hash,
    }


def _lines(numbers: dict[str, Any]) -> Iterator[str]:
    """A line for each number that is known."""
    for key, words, whole in _SHOWN:
        if numbers[key] is not None:
            share = f"  {100 * numbers[key] / numbers[whole]:.3g} %" if whole and numbers[whole] else ""
            yield f"{words:<28}{numbers[key]:>16,}{share}"
