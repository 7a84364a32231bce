"""Tokenise a large corpus, kill it in the middle, and compare with a build that nobody disturbed.

    python benchmarks/tokenise.py $EST_DATA/corpus --megabytes 500          # six minutes on two cores

The text is that of train-*.jsonl.xz in the folder (docs/data.md: The texts of the studies), unpacked again and again
under new names and ids. Prints the speed of each process, the peak memory of all of them, what a kill -9 of everything
costs, and how fast a start verifies the cache. Exits with 1 if the bytes differ.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from est_cli.data.text.pieces import TextSource, Unit, Wanted
from est_cli.data.text.units import file_units
from est_cli.data.tokens import tokenizer as bpe
from est_cli.data.tokens.encode import TOKENS, Encoder
from est_cli.data.tokens.token_cache import EncodeJob, tokenised
from est_cli.storage.digest import digest_files

VOCAB, TRAINING_CHARACTERS, KILL_AT = 50_257, 10_000_000, 0.5


@dataclass
class Built:
    """One build: seconds (of all its processes: CPU time), peak memory in MB of each process, and the exit code."""

    seconds: float
    cpu_seconds: float
    parent_mb: float
    workers_mb: list[float]
    code: int


def write_text(corpus: Path, folder: Path, megabytes: int) -> int:
    """Unpack copies of the corpus until there is enough; returns the bytes."""
    packed = sorted(corpus.glob("train-*.jsonl.xz"))
    written = copy = 0
    while written < megabytes * 1e6:
        path = packed[copy % len(packed)]
        with lzma.open(path, "rt", encoding="utf-8") as rows, (folder / f"copy-{copy:03d}.jsonl").open("w") as file:
            for line in rows:
                row = json.loads(line)
                written += file.write(json.dumps(row | {"id": f"{copy}-{row['id']}"}) + "\n")
                if written >= megabytes * 1e6:
                    break
        copy += 1
    return written


def units_of(folder: Path) -> tuple[Unit, ...]:
    paths = sorted(folder.glob("*.jsonl"))
    return file_units(paths, digest_files(paths), Wanted(("text",)))


def build(folder: Path, cache: Path, processes: int) -> None:
    encoder = Encoder(Tokenizer.from_file(str(folder / "tokenizer.json")), 0, "<u2")
    encoder.tokenizer.encode_special_tokens = True
    job = EncodeJob(encoder, "the same", 0.0005, cache)
    tokenised("the corpus", units_of(folder), job, processes, verify=True)


def run(folder: Path, cache: str, processes: int, kill_at: float | None = None) -> Built:
    """A build in a process of its own, killed when `kill_at` of the units are there."""
    command = [sys.executable, __file__, "--build", str(folder), "--cache", cache, "--processes", str(processes)]
    enough = None if kill_at is None else kill_at * len(units_of(folder))
    begin, cpu, peaks = time.perf_counter(), os.times(), dict[int, float]()
    process = subprocess.Popen(command)
    while process.poll() is None:
        peaks |= peak_memory(process.pid)
        if enough is not None and len(list((folder / cache).glob("[!.]*/meta.json"))) >= enough:
            process.kill()
        time.sleep(0.02)
    seconds, now = time.perf_counter() - begin, os.times()
    cpu_seconds = now.children_user - cpu.children_user + now.children_system - cpu.children_system
    parent = peaks.pop(process.pid, 0.0)
    return Built(seconds, cpu_seconds, parent, sorted(peaks.values()), process.returncode)


def peak_memory(parent: int) -> Iterator[tuple[int, float]]:
    """Process id and peak resident memory so far, in MB, of a process and its children."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for pid in (parent, *map(int, children)):
            lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            if "VmHWM" in lines:
                yield pid, int(lines["VmHWM"].split()[0]) / 1e3
    except OSError:
        return


def report(built: Built, megabytes: float, what: str) -> None:
    speed = f"{megabytes / built.seconds:.2f} MB/s, {megabytes / built.cpu_seconds:.2f} MB per second of CPU time"
    workers = ", ".join(f"{peak:.0f}" for peak in built.workers_mb)
    memory = f"peak MB: parent {built.parent_mb:.0f}, workers {workers}"
    print(f"{what}: {built.seconds:.1f} s; {speed if built.code == 0 else 'killed'}; {memory}", flush=True)


def train_tokenizer(folder: Path) -> None:
    bpe.TRAINING_CHARACTERS = TRAINING_CHARACTERS
    source = TextSource("text", units_of(folder))
    loaded = bpe.load_tokenizer("bpe", VOCAB, [source], 0.0, folder / "tokenizer")
    bpe.backend(loaded).save(str(folder / "tokenizer.json"))


def time_of_verification(folder: Path, cache: Path) -> None:
    units = units_of(folder)
    encoder = Encoder(Tokenizer.from_file(str(folder / "tokenizer.json")), 0, "<u2")
    for verify in (True, False):
        begin = time.perf_counter()
        shards = tokenised("the corpus", units, EncodeJob(encoder, "the same", 0.0005, cache), 1, verify)
        seconds, size = time.perf_counter() - begin, sum((shard.folder / TOKENS).stat().st_size for shard in shards)
        print(f"start with verify={verify}: {seconds:.3f} s for {size / 1e9:.3f} GB, {size / 1e9 / seconds:.2f} GB/s")


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two caches hold the same units with the same content."""
    names = [sorted(path.name for path in cache.glob("[!.]*") if (path / TOKENS).exists()) for cache in (one, other)]
    same = all((one / name / TOKENS).read_bytes() == (other / name / TOKENS).read_bytes() for name in names[0])
    return bool(names[0]) and names[0] == names[1] and same


def compare(corpus: Path, folder: Path, megabytes: int, processes: int) -> int:
    written = write_text(corpus, folder, megabytes)
    train_tokenizer(folder)
    print(f"{written / 1e6:.0f} MB of jsonl in {len(units_of(folder))} units, {processes} processes", flush=True)
    report(run(folder, "killed", processes, KILL_AT), written / 1e6, "killed in the middle")
    left = sum(1 for _ in (folder / "killed").glob(".tmp-*"))
    kept = sum(1 for _ in (folder / "killed").glob("[!.]*/" + TOKENS))
    print(f"kept after the kill: {kept} units, {left} unfinished ones are done again", flush=True)
    report(run(folder, "killed", processes), 1e-6 * written * (1 - kept / len(units_of(folder))), "continued")
    report(run(folder, "whole", processes), written / 1e6, "undisturbed")
    same = same_bytes(folder / "killed", folder / "whole")
    print("same bytes" if same else "THE BYTES DIFFER")
    time_of_verification(folder, folder / "whole")
    return 0 if same else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path, nargs="?", help="a folder with train-*.jsonl.xz")
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build is not None:
        build(arguments.build, arguments.build / arguments.cache, arguments.processes)
        return 0
    if arguments.corpus is None or not any(arguments.corpus.glob("train-*.jsonl.xz")):
        parser.error("corpus: a folder with train-*.jsonl.xz is needed")
    with tempfile.TemporaryDirectory() as folder:
        return compare(arguments.corpus, Path(folder), arguments.megabytes, arguments.processes)


if __name__ == "__main__":
    sys.exit(main())
