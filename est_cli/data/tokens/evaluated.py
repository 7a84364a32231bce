"""The text of an evaluation in tokens: by the same way, and through the same cache, as the text of a training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from est_cli.data.text.pieces import Wanted
from est_cli.data.text.readers import file_kind
from est_cli.data.text.units import file_units
from est_cli.data.tokens.cuts import is_tame
from est_cli.data.tokens.encode import ENDS, TOKENS
from est_cli.data.tokens.token_cache import EncodeJob, Shard, tokenised
from est_cli.data.tokens.tokenizer import backend, encoder_of, tokenizer_digest
from est_cli.storage.digest import digest_files
from est_cli.storage.run_dir import check_no_file

Ids = NDArray[np.integer]


@dataclass(frozen=True)
class EvaluatedText:
    """Documents in tokens on the disk; blank ones are left out."""

    shards: tuple[Shard, ...]

    def total(self, count: str) -> int:
        """The sum of one of encode.py's `Counts`."""
        return sum(shard.counts[count] for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Without end-of-text."""
        return self.total("train_tokens") - self.total("documents")

    def documents(self) -> Iterator[Ids]:
        """The ids of each document, (T,), without end-of-text; read from the disk when they are looked at."""
        for shard in self.shards:
            begin = 0
            for end in np.fromfile(shard.folder / ENDS, dtype="<u8").tolist():
                yield np.memmap(shard.folder / TOKENS, shard.counts["dtype"], "r")[begin : end - 1]
                begin = end


def load_evaluated(
    paths: Sequence[Path],
    digests: Sequence[str],
    fields: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    cache_root: Path,
    name: str = "eval.files",
) -> EvaluatedText:
    """The documents of the files, whose bytes have these digests; `fields`: eval.text_fields. `name` is for messages.

    Any number of processes may call it at once. Raises DataError, StorageError.
    """
    check_no_file(cache_root, "tokens are kept in")
    for path in paths:
        file_kind(path)
    units = file_units(paths, digests, Wanted(fields, key="eval.text_fields"))
    job = EncodeJob(encoder_of(tokenizer), tokenizer_digest(tokenizer), 0.0, cache_root, name)
    return EvaluatedText(tuple(tokenised(name, units, job, None, verify=True)))


def try_tokenizer(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> None:
    """Have a tokenizer of unknown parts read these texts in a process with limits, before this process does.

    Raises DataError where it takes too much time or memory, or gives up.
    """
    if not isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer) or is_tame(backend(tokenizer)):
        return
    with TemporaryDirectory(prefix="est-") as place:
        path = Path(place) / "texts.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        load_evaluated([path], digest_files([path]), ["text"], tokenizer, Path(place) / "data", "for a trial")
