"""Tokenise as a command of its own, to be killed: FOLDER TOKENIZER.json PROCESSES. Prints the digests of the units."""

from __future__ import annotations

import sys
from pathlib import Path

from tokenizers import Tokenizer

from est_cli.data.text import units
from est_cli.data.text.pieces import Wanted
from est_cli.data.tokens import encode_workers, token_cache
from est_cli.data.tokens.encode import Encoder
from est_cli.data.tokens.token_cache import EncodeJob, tokenised
from est_cli.storage.digest import digest_files

UNIT_BYTES = 40_000


def main() -> None:
    units.UNIT_BYTES, token_cache.FEW_BYTES = UNIT_BYTES, 0
    encode_workers.STARTS_S = (
        encode_workers.SILENT_S
    )  # one that is stopped may not have started yet, while others do the first units
    folder, tokenizer, processes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    encoder = Encoder(Tokenizer.from_file(tokenizer), 0, "<u2")
    paths = sorted(folder.glob("*.jsonl"))
    corpus = units.file_units(paths, digest_files(paths), Wanted(("text",)))
    found = tokenised("here", corpus, EncodeJob(encoder, "digest", 0.1, folder / "cache"), processes, True)
    print(*(shard.counts["sha256"] for shard in found), sep="\n")


if __name__ == "__main__":
    main()
