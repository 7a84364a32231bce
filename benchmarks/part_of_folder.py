"""What dataset.max_tokens reads and how long it takes, beside the whole of the same data set.

    python benchmarks/part_of_folder.py                          # 20 shards of 5 MB, five minutes on two cores
    python benchmarks/part_of_folder.py --megabytes 500 --tokens 1e6 10e6

A folder of the hub's layout is made, of 20 shards of parquet with random words, and est-data reads it through
dataset=hub: all of it, and parts of so many tokens, each in an empty cache with the same tokenizer. Bytes are those
that the command reads by any system call, its libraries included.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from measure import environment

from est_cli import corpus
from est_cli.cli.entry import enter
from est_cli.data.text.pieces import TextSource, Wanted
from est_cli.data.text.units import file_units
from est_cli.data.tokens.tokenizer import load_tokenizer
from est_cli.storage.digest import digest_files

SHARDS = 20


def write_shards(folder: Path, megabytes: int) -> int:
    """Returns the bytes of the files."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(20_000)]
    (folder / "data").mkdir(parents=True)
    for number in range(SHARDS):
        path = folder / "data" / f"train-{number:05d}-of-{SHARDS:05d}.parquet"
        with pq.ParquetWriter(path, pa.schema({"text": pa.string()}), use_dictionary=False) as writer:
            while path.stat().st_size < megabytes * 1e6 / SHARDS:
                rows = [" ".join(rng.choices(words, k=300)) for _ in range(500)]
                writer.write_table(pa.table({"text": rows}))
    return sum(path.stat().st_size for path in (folder / "data").iterdir())


def survey(arguments: list[str]) -> None:
    """est-data in this process, which then prints what it and the processes that it waited for have read."""
    enter("est-data", corpus.main, ["est-data", *arguments])
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    print(f"READ {counts['rchar']}")


def measured(folder: Path, name: str, *settings: str) -> tuple[float, int, str]:
    """Seconds, bytes that were read, and what the command says of the files it needed."""
    command = [sys.executable, __file__, "--survey", "dataset=hub", f"dataset.hub_ids=[{folder}]", "samples=0"]
    command += [f"tokenizer={folder.parent / 'tokenizer'}", f"paths.data={folder.parent / name}", *settings]
    began = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, check=False)
    seconds = time.monotonic() - began
    if ended.returncode:
        raise SystemExit(ended.stderr)
    told = next(
        (line for line in (ended.stderr + ended.stdout).splitlines() if "units of its files" in line),
        "all units of its files",
    )
    return seconds, int(ended.stdout.split("READ ")[1]), told.rpartition(": ")[2]


def main() -> int:
    if sys.argv[1:2] == ["--survey"]:
        survey(sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--tokens", nargs="+", default=["1e5", "1e6"])
    arguments = parser.parse_args()
    print(environment(torch.device("cpu")) | {"clock": "wall"})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "set"
        size = write_shards(folder, arguments.megabytes)
        first = sorted((folder / "data").iterdir())[:1]
        units = file_units(first, digest_files(first), Wanted(["text"]))
        load_tokenizer("bpe", 4096, [TextSource("text", units)], 0.0, Path(name)).save_pretrained(f"{name}/tokenizer")
        for tokens in ("null", *arguments.tokens):
            seconds, read, told = measured(folder, f"cache-{tokens}", f"dataset.max_tokens={tokens}")
            print(
                f"dataset.max_tokens={tokens}: {read / 1e6:.0f} MB read of {size / 1e6:.0f}, {seconds:.1f} s; {told}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
