"""Tokenising by est against `datasets`' map(), with the same tokenizer and as many processes, in turn.

    python benchmarks/tokenise_compare.py --corpus DIR/corpus         # five minutes on two cores
    python benchmarks/tokenise_compare.py --corpus DIR/corpus --megabytes 100 --rounds 3

The text is that of train-*.jsonl.xz in DIR/corpus (docs/data.md: The texts of the studies), unpacked. Both write the
ids of each document with end-of-text behind it. est reads the JSON, too, and makes a SHA-256 of what it wrote, while
map() begins with the rows in Arrow's form (the time of load_dataset, which brings them there, is told beside it). In
each round both start from nothing, in an order that alternates. Exits with 1 if est is slower than map() in the median
of the rounds, and with 0, saying so, where there is no text.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import torch
from measure import environment
from tokenise import units_of, write_text
from transformers import PreTrainedTokenizerFast

from est_cli.data.text.pieces import TextSource
from est_cli.data.tokens import tokenizer as bpe
from est_cli.data.tokens.token_cache import EncodeJob, tokenised

AS_TEXT = {"add_special_tokens": False, "split_special_tokens": True, "return_attention_mask": False}
"""Of the call of a tokenizer: all text is plain text, as for est."""
VOCAB, TRAINING_CHARACTERS = 50_257, 10_000_000


@dataclass(frozen=True)
class Took:
    """Seconds on the clock and of CPU time, children's included, and how many tokens came of it."""

    wall: float
    cpu: float
    tokens: int


def timed(work: Callable[[], int]) -> Took:
    began, before = time.perf_counter(), os.times()
    tokens = work()
    after = os.times()
    return Took(time.perf_counter() - began, sum(after[:4]) - sum(before[:4]), tokens)


def by_est(folder: Path, cache: Path, tokenizer: PreTrainedTokenizerFast, processes: int) -> int:
    cache.mkdir()
    job = EncodeJob(bpe.encoder_of(tokenizer), "the same", 0.0, cache)
    shards = tokenised("the corpus", units_of(folder), job, processes, verify=True)
    return sum(shard.counts["train_tokens"] for shard in shards)


def loaded(folder: Path, cache: Path) -> datasets.Dataset:
    files = [str(path) for path in sorted(folder.glob("*.jsonl"))]
    return datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(cache))


def by_map(rows: datasets.Dataset, cache: Path, tokenizer: PreTrainedTokenizerFast, processes: int) -> int:
    end = tokenizer.eos_token_id

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        found = tokenizer(batch["text"], **AS_TEXT)["input_ids"]
        return {"ids": [[*ids, end] for ids in found], "length": [len(ids) + 1 for ids in found]}

    made = rows.map(
        encode,
        batched=True,
        num_proc=processes,
        remove_columns=rows.column_names,
        cache_file_name=str(cache / "map.arrow"),
        features=datasets.Features({"ids": datasets.List(datasets.Value("uint16")), "length": datasets.Value("int64")}),
    )
    return sum(made["length"])


def make_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    bpe.TRAINING_CHARACTERS = TRAINING_CHARACTERS
    source = TextSource("text", units_of(folder))
    return bpe.load_tokenizer("bpe", VOCAB, [source], 0.0, folder / "tokenizer")


def in_turn(folder: Path, place: Path, tokenizer: PreTrainedTokenizerFast, processes: int, first: str) -> list[Took]:
    """What load_dataset, est and map() took, in an empty folder; `first` of the latter two begins."""
    place.mkdir()
    began = time.perf_counter()
    rows = loaded(folder, place)
    loading = Took(time.perf_counter() - began, 0.0, 0)
    contenders = {
        "est": lambda: by_est(folder, place / "est", tokenizer, processes),
        "map": lambda: by_map(rows, place, tokenizer, processes),
    }
    found = {name: timed(contenders[name]) for name in sorted(contenders, reverse=first == "map")}
    return [loading, found["est"], found["map"]]


def compare(corpus: Path, folder: Path, megabytes: int, rounds: int, processes: int) -> int:
    written = write_text(corpus, folder, megabytes) / 1e6
    tokenizer = make_tokenizer(folder)
    print(f"{written:.0f} MB of jsonl in {len(units_of(folder))} units, {processes} processes", flush=True)
    ratios: list[Took] = []
    for number in range(rounds):
        first = ("est", "map")[number % 2]
        loading, est, mapped = in_turn(folder, folder / f"round-{number}", tokenizer, processes, first)
        assert est.tokens == mapped.tokens, (est, mapped)
        ratios.append(Took(mapped.wall / est.wall, mapped.cpu / est.cpu, 0))
        rates = [f"{written / took.wall:.2f} MB/s, {written / took.cpu:.2f} per CPU second" for took in (est, mapped)]
        print(f"est {rates[0]}; map {rates[1]}, and load_dataset {loading.wall:.1f} s", flush=True)
    wall, cpu = (median(getattr(ratio, clock) for ratio in ratios) for clock in ("wall", "cpu"))
    print(f"est / map: {wall:.2f} by the clock, {cpu:.2f} by CPU time; at least 1.0 by the clock")
    return 0 if wall >= 1.0 else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, help="a folder of train-*.jsonl.xz")
    parser.add_argument("--megabytes", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    if arguments.corpus is None or not any(arguments.corpus.glob("train-*.jsonl.xz")):
        print("skipped: no train-*.jsonl.xz; give --corpus")
        return 0
    os.environ["RAYON_NUM_THREADS"], os.environ["TOKENIZERS_PARALLELISM"] = "1", "true"
    datasets.disable_progress_bars()
    print(environment(torch.device("cpu")) | {"clock": "both", "datasets": datasets.__version__})
    with tempfile.TemporaryDirectory() as folder:
        return compare(arguments.corpus, Path(folder), arguments.megabytes, arguments.rounds, arguments.processes)


if __name__ == "__main__":
    sys.exit(main())
