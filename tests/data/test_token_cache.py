"""Units tokenised by worker processes: real processes, really killed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from est_cli.common.errors import DataError, StorageError
from est_cli.data import Corpus, load_corpus
from est_cli.data.text import units
from est_cli.data.tokens import encode, encode_workers, token_cache
from est_cli.data.tokens.encode import TOKENS
from est_cli.data.tokens.tokenizer import backend
from est_cli.storage import cache, manifest
from tests.lab.build_tokens import UNIT_BYTES
from tests.lab.corpora import all_ids, documents, files, in_child, status, write_jsonl
from tests.lab.lab import heed_signals

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FILES = 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer."""
    root = tmp_path_factory.mktemp("tokenizer")
    corpus = load_corpus(files(write_jsonl(root / "a.jsonl", documents(300))), "bpe", 500, root / "cache")
    corpus.tokenizer.save_pretrained(root / "tokenizer")
    backend(corpus.tokenizer).save(str(root / "tokenizer.json"))
    return root


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "UNIT_BYTES", 3000)
    monkeypatch.setattr(token_cache, "FEW_BYTES", 0)


def load(folder: Path, trained: Path, workers: int | None = 2, root: str = "cache", **settings: Any) -> Corpus:
    dataset = files(folder / "*.jsonl", num_workers=workers, validation_fraction=0.2)
    return load_corpus(dataset, str(trained / "tokenizer"), 500, folder / root, **settings)


def write_corpus(folder: Path, documents_each: int = 12) -> Path:
    for number in range(FILES):
        write_jsonl(folder / f"{number}.jsonl", documents(documents_each, seed=number))
    return folder


def test_the_number_of_processes_changes_nothing(tmp_path: Path, trained: Path, small_units: None) -> None:
    write_corpus(tmp_path)
    corpora = [load(tmp_path, trained, workers, f"cache-{workers}") for workers in (1, 2, 3)]
    assert len(corpora[0].folders) > 6
    assert len({corpus.data_hash for corpus in corpora}) == 1
    assert all((all_ids(corpus) == all_ids(corpora[0])).all() for corpus in corpora)
    contents = [{path.name: path.read_bytes() for path in corpus.folders[3].iterdir()} for corpus in corpora]
    assert contents[0] == contents[1] == contents[2]


def test_a_corpus_that_grows_is_not_tokenised_again(
    tmp_path: Path, trained: Path, small_units: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(write_corpus(tmp_path), trained, 1)
    write_jsonl(tmp_path / "4.jsonl", documents(2, seed=9))
    written: list[int] = []
    monkeypatch.setattr(token_cache, "write_tokens", lambda *args: written.append(1) or encode.write_tokens(*args))
    after = load(tmp_path, trained, 1)
    assert len(written) == 1
    assert after.folders[:-1] == before.folders and after.data_hash != before.data_hash


def test_the_first_error_in_the_order_of_the_text_is_told(tmp_path: Path, trained: Path, small_units: None) -> None:
    write_corpus(tmp_path)
    for number, line in ((1, 9), (3, 2)):
        path = tmp_path / f"{number}.jsonl"
        lines = path.read_text().splitlines()
        lines[line - 1] = "{no json}"
        path.write_text("\n".join(lines))
    for workers in (1, 2, 3):
        with pytest.raises(DataError, match=rf"^{tmp_path}/1\.jsonl:9: not JSON") as caught:
            load(tmp_path, trained, workers, f"cache-{workers}")
        assert "\n" not in str(caught.value)


def test_an_error_that_is_met_later_but_stands_first_is_told(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "FEW_BYTES", 0)
    monkeypatch.setattr(units, "UNIT_BYTES", 6_000_000)
    paths = [
        write_jsonl(tmp_path / f"{number}.jsonl", documents(count, seed=number))
        for number, count in enumerate((9000, 6000))
    ]
    sizes = [path.stat().st_size for path in paths]
    assert max(sizes) < units.UNIT_BYTES < sum(sizes), "a unit each"
    with (tmp_path / "0.jsonl").open("a") as last, (tmp_path / "1.jsonl").open("r+") as first:
        last.write("{no json}\n")
        first.write("[")
    with pytest.raises(DataError, match=rf"^{tmp_path}/0\.jsonl:9001: not JSON"):
        load(tmp_path, trained, 2)


def test_a_worker_ends_with_its_stdin_whatever_it_is_doing(tmp_path: Path, trained: Path) -> None:
    os.mkfifo(tmp_path / "fifo.txt")  # reading it would never end
    parts = [[str(tmp_path / "fifo.txt"), None]]
    arguments = {"parts": parts, "stats": [""], "fields": ["text"], "exclude": []}
    unit = {"kind": "files", "arguments": arguments, "fingerprint": "", "size": 1}
    task = {"unit": unit, "folder": str(tmp_path / "key"), "fraction": 0.0}
    task |= {
        "tokenizer": str(trained / "tokenizer.json"),
        "encoder": {"end": 0, "dtype": "<u2", "cut": "exact"},
        "memory": None,
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(encode_workers.COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(task).encode() + b"\n")
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".tmp-key+*")):
            assert process.poll() is None and time.monotonic() < deadline, "it has not begun"
            time.sleep(0.05)
        process.stdin.close()
        assert process.wait(5) == 128 + signal.SIGKILL
    finally:
        process.kill()


def test_workers_are_light() -> None:
    code = "import sys, est_cli.data.tokens.encode_workers; print(*{name.partition('.')[0] for name in sys.modules})"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "tokenizers" in names.split()
    assert not {"torch", "transformers", "datasets", "pyarrow", "pandas", "rich"} & set(names.split())


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """About two megabytes, some 50 units."""
    return write_corpus(tmp_path, 1200)


def command(corpus: Path, trained: Path, processes: int = 2) -> list[str]:
    return [
        sys.executable,
        "-m",
        "tests.lab.build_tokens",
        str(corpus),
        str(trained / "tokenizer.json"),
        str(processes),
    ]


def finished(corpus: Path) -> list[Path]:
    return sorted(path.parent for path in (corpus / "cache").glob("[!.]*/meta.json") if path.with_name(TOKENS).exists())


def started(corpus: Path, trained: Path, enough: int) -> subprocess.Popen[bytes]:
    """A build that has finished some units, but not all."""
    process = subprocess.Popen(
        command(corpus, trained),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=heed_signals,  # a shell has its background jobs ignore Ctrl-C, and their children with them
    )
    deadline = time.monotonic() + 30
    while len(finished(corpus)) < enough and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return process


def workers_of(parent: int) -> list[int]:
    path = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in path.read_text().split()]


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline, "orphans are left"
        time.sleep(0.01)


def done(corpus: Path, trained: Path, processes: int = 2) -> list[str]:
    """The digests of a build to the end."""
    ended = subprocess.run(command(corpus, trained, processes), cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()


@pytest.mark.long
def test_killed_again_and_again_it_continues_and_ends_with_the_same_bytes(corpus: Path, trained: Path) -> None:
    kept: dict[Path, int] = {}
    for enough in (1, 10, 25):
        process = started(corpus, trained, enough)
        workers = workers_of(process.pid)
        process.kill()
        process.communicate()
        assert len(workers) == 2
        wait_until_gone(workers)
        assert all(folder.stat().st_ino == inode for folder, inode in kept.items()), "made twice"
        kept = {folder: folder.stat().st_ino for folder in finished(corpus)}
    digests = done(corpus, trained)
    assert len(digests) > len(kept) >= 25
    assert all(folder.stat().st_ino == inode for folder, inode in kept.items()), "made twice"
    assert not list((corpus / "cache").glob(".tmp-*"))
    (corpus / "cache").rename(corpus / "interrupted")
    assert done(corpus, trained, 1) == digests
    for folder in finished(corpus):
        for path in folder.iterdir():
            assert path.read_bytes() == (corpus / "interrupted" / folder.name / path.name).read_bytes()


def test_a_killed_worker_is_told_and_the_next_start_continues(corpus: Path, trained: Path) -> None:
    process = started(corpus, trained, 5)
    workers = workers_of(process.pid)
    os.kill(workers[1], signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert (
        err.decode()
        .splitlines()[-1]
        .endswith(
            "dataset.num_workers: a process that tokenises was killed by signal 9, perhaps for lack of memory; "
            "start again to continue, with fewer"
        )
    )
    wait_until_gone(workers)
    assert len(done(corpus, trained)) >= 50


def test_ctrl_c_ends_at_once_and_only_the_parent_speaks(corpus: Path, trained: Path) -> None:
    process = started(corpus, trained, 5)
    workers = workers_of(process.pid)
    assert [os.getsid(worker) for worker in workers] == workers, "or each would show a traceback of its own"
    begin = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the whole group
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - begin < 2
    wait_until_gone(workers)
    assert err.decode().count("Traceback") == 1 and err.decode().rstrip().endswith("KeyboardInterrupt")


def test_builders_race_without_locks_that_work(
    tmp_path: Path, trained: Path, small_units: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path)
    golden = load(tmp_path, trained, 1, "alone")
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)
    children = [in_child(lambda: load(tmp_path, trained, 1)) for _ in range(4)]
    assert [status(child) for child in children] == [0] * 4
    monkeypatch.setattr(token_cache, "write_tokens", None)
    assert load(tmp_path, trained, 1).data_hash == golden.data_hash
    assert not list((tmp_path / "cache").glob(".tmp-*"))


def test_builders_on_two_hosts_wait_for_each_other(corpus: Path, trained: Path) -> None:
    begun = [started(corpus, trained, 0) for _ in range(2)]
    ended = [process.communicate(timeout=60) for process in begun]
    assert [process.returncode for process in begun] == [0, 0]
    assert ended[0][0] == ended[1][0]


def test_no_locks_at_all_is_one_line(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(StorageError, match=rf"^{tmp_path}/cache: its file system has no file locks \(No locks"):
        load(write_corpus(tmp_path), trained)


def test_without_verify_only_names_and_sizes_are_looked_at(
    tmp_path: Path, trained: Path, small_units: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(write_corpus(tmp_path), trained, 1)
    read: list[object] = []
    monkeypatch.setattr(manifest, "sha256", lambda file: read.append(file) or "0")
    monkeypatch.setattr(token_cache, "write_tokens", None)
    assert load(tmp_path, trained, 1, verify=False).data_hash == first.data_hash
    assert read == []
    (first.folders[2] / "tokens.bin").write_bytes(b"cut")
    monkeypatch.undo()
    assert cache.intact(first.folders[2], full=False) is None


def test_what_other_hosts_left_behind_goes_after_a_day(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    live, old, other = (tmp_path / f".tmp-{name}+far+1" for name in ("key", "key+x", "another"))
    for place in (live, other):
        place.mkdir()
    old = tmp_path / f".tmp-key+{os.uname().nodename}+{2**22 + 1}"
    old.mkdir()
    cache.clear_leftovers([folder])
    assert live.exists() and other.exists() and not old.exists()
    os.utime(live, (0, 0))
    cache.clear_leftovers([folder])
    assert not live.exists() and other.exists()


def test_units_of_this_file_are_many(corpus: Path) -> None:
    assert sum(path.stat().st_size for path in corpus.glob("*.jsonl")) > 50 * UNIT_BYTES
    assert encode_workers.COMMAND[1] == "-P", "the current folder must not shadow libraries"


def test_a_process_beside_a_training_goes_behind() -> None:
    """Its argument says how much."""
    pipe = subprocess.PIPE
    with subprocess.Popen([*encode_workers.COMMAND, "7"], stdin=pipe, stdout=pipe, cwd=ROOT) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(own + 7, 19)
        process.stdin.close()
