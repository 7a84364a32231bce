"""Files in stores: a file system of fsspec that fails as it is told to, and S3 as moto's server speaks it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from est_cli.common.errors import DataError
from est_cli.data.text.far import reader, stores
from est_cli.data.text.pieces import quiet
from est_cli.data.text.sources import open_sources
from est_cli.data.text.units import read_units
from tests.lab.corpora import documents, files, write_jsonl

FAILURES: deque[Exception | None] = deque()


class Store(MemoryFileSystem):
    """Each call takes the next of FAILURES; none left: all is well."""

    protocol = "gs"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    tag = 1
    known: ClassVar[dict[str, int]] = {}
    """What a listing that is kept says."""

    def invalidate_cache(self, path: str | None = None) -> None:
        self.known.clear()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("gs://", "memory://"))

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        _fail()
        info = super().info(path, **kwargs)
        tag = self.known.setdefault(path, Store.tag)
        return info | ({"generation": tag} if Store.tag else {"created": None})

    def find(self, path: str, *args: Any, **kwargs: Any) -> Any:
        found = super().find(path, *args, **(kwargs | {"detail": True}))
        return {name: info | {"generation": 1} for name, info in found.items()}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        _fail()
        return super().cat_file(path, start, end, **kwargs)


def _fail() -> None:
    if FAILURES and (failure := FAILURES.popleft()) is not None:
        raise failure


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(reader, "FIRST_WAIT_S", 0.001)
    monkeypatch.setitem(_registry, "gs", Store)
    stores._opened.cache_clear()
    FAILURES.clear()
    Store.store.clear()
    Store.tag = 1
    yield Store()
    stores._opened.cache_clear()


def texts(tmp_path: Path, *names: str) -> list[str]:
    (source,) = open_sources(files(*names), tmp_path / "cache")
    return [piece.text for piece in read_units(source.train, quiet)]


def put(tmp_path: Path, pipe: Callable[[str, bytes], Any]) -> None:
    """bucket/part-{0,1}.jsonl, bucket/deep/a.parquet, and what no glob for .jsonl means."""
    for number in range(2):
        pipe(f"bucket/part-{number}.jsonl", write_jsonl(tmp_path / "a.jsonl", documents(30, number)).read_bytes())
    parquet.write_table(pa.table({"text": documents(50, 2)}), tmp_path / "a.parquet", row_group_size=10)
    pipe("bucket/deep/a.parquet", (tmp_path / "a.parquet").read_bytes())
    pipe("bucket/other.txt", b"text")


def test_a_glob_of_a_store(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "BLOCK", 700)
    put(tmp_path, store.pipe_file)
    assert texts(tmp_path, "gs://bucket/*.jsonl") == [*documents(30, 0), *documents(30, 1)]
    assert texts(tmp_path, "gs://bucket/**/*.parquet", "gs://bucket/other.txt") == [*documents(50, 2), "text"]
    with pytest.raises(DataError, match=r"dataset\.files: 'gs://bucket/\*\.csv' matches no file"):
        texts(tmp_path, "gs://bucket/*.csv")
    with pytest.raises(DataError, match=r"cannot be read \(Invalid pattern: '\*\*' can only be"):
        texts(tmp_path, "gs://bucket/**.parquet")
    with pytest.raises(
        DataError, match=r"gs://bucket/deep: is a folder; name its files, for example 'gs://bucket/deep/"
    ):
        texts(tmp_path, "gs://bucket/deep")
    with pytest.raises(DataError, match=r"gs://bucket/nothing\.txt: there is no such file"):
        texts(tmp_path, "gs://bucket/nothing.txt")


def test_what_fails_is_tried_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reader, "BLOCK", 700)
    put(tmp_path, store.pipe_file)
    FAILURES.extend(
        [TimeoutError("too slow"), None, OSError("reset"), None, RuntimeError("of user:CANARY@ ftp://u:CANARY@h")]
    )
    assert texts(tmp_path, "gs://bucket/part-0.jsonl") == documents(30, 0)
    assert not FAILURES and caplog.text.count("again in") == 3
    assert "u:CANARY@h" not in caplog.text
    FAILURES.extend([OSError("reset")] * 7)
    with pytest.raises(DataError, match=r"part-0\.jsonl: reset; tried 7 times in a row, start again to continue"):
        texts(tmp_path, "gs://bucket/part-0.jsonl")


def test_what_no_other_try_helps_is_told_at_once(store: Store, tmp_path: Path) -> None:
    put(tmp_path, store.pipe_file)
    FAILURES.append(PermissionError("Access Denied"))
    with pytest.raises(DataError, match=r"may not be read with the login of this environment \(Access Denied\)"):
        texts(tmp_path, "gs://bucket/other.txt")
    FAILURES.append(type("NoCredentialsError", (Exception,), {})("Unable to locate credentials"))
    with pytest.raises(DataError, match=r"there is no login for it in this environment \(Unable to locate cr"):
        texts(tmp_path, "gs://bucket/other.txt")
    Store.tag = 0
    with pytest.raises(DataError, match="tells nothing by which the file could be known again"):
        texts(tmp_path, "gs://bucket/other.txt")


def test_a_file_that_was_replaced_while_it_was_read_is_refused(store: Store, tmp_path: Path) -> None:
    put(tmp_path, store.pipe_file)
    (source,) = open_sources(files("gs://bucket/other.txt"), tmp_path / "cache")
    Store.tag = 2
    with pytest.raises(DataError, match=r"gs://bucket/other\.txt: has changed while it was read; start again"):
        list(read_units(source.train, quiet))


def test_a_missing_library_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*args: Any, **kwargs: Any) -> None:
        raise ImportError("Install gcsfs")

    stores._opened.cache_clear()
    monkeypatch.setattr(fsspec, "filesystem", absent)
    for scheme, package in (("gs", "gcsfs"), ("s3", "s3fs")):
        with pytest.raises(
            DataError, match=rf"{scheme}://b/a\.txt: needs {package}: pip install 'est-cli\[{scheme}\]'"
        ):
            texts(tmp_path, f"{scheme}://b/a.txt")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of S3 as moto's server on this machine is, which the environment names."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install '.[s3]'")
    moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server]'")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "CANARY")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(reader, "FIRST_WAIT_S", 0.001)
    stores._opened.cache_clear()
    system = stores._opened("s3")
    if not system.exists("bucket"):  # moto has one memory for all its servers
        system.mkdir("bucket")
    yield system
    stores._opened.cache_clear()
    server.stop()


def test_s3(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(reader, "BLOCK", 700)
    caplog.set_level("INFO", "est_cli")
    put(tmp_path, s3.pipe_file)
    assert texts(tmp_path, "s3://bucket/*.jsonl") == [*documents(30, 0), *documents(30, 1)]
    assert "2 of 2 files lie elsewhere; known by address, size and ETag" in caplog.text
    assert texts(tmp_path, "s3://bucket/deep/a.parquet") == documents(50, 2)
    with pytest.raises(DataError, match=r"s3://bucket/nothing\.txt: there is no such file"):
        texts(tmp_path, "s3://bucket/nothing.txt")
    with pytest.raises(DataError, match=r"s3://bucket/deep: is a folder"):
        texts(tmp_path, "s3://bucket/deep")
    (source,) = open_sources(files("s3://bucket/other.txt"), tmp_path / "cache")
    s3.pipe_file("bucket/other.txt", b"another text")
    with pytest.raises(DataError, match=r"other\.txt: has changed while it was read"):
        list(read_units(source.train, quiet))
    (after,) = open_sources(files("s3://bucket/other.txt"), tmp_path / "cache")
    assert after.train[0].fingerprint != source.train[0].fingerprint


def test_s3_without_a_login(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    stores._opened.cache_clear()
    with pytest.raises(DataError, match="there is no login for it in this environment"):
        texts(tmp_path, "s3://bucket/other.txt")
