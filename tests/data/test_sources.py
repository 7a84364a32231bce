import os
import socket
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from est_cli.config import DatasetConfig, Source
from est_cli.data import hub, sources
from est_cli.data.pieces import held_out, quiet, split
from est_cli.data.sources import open_source
from est_cli.errors import ConfigError, DataError
from tests.data.corpora import documents, files, write_jsonl


def texts(dataset: DatasetConfig) -> list[str]:
    return [piece.text for piece in open_source(dataset).train(quiet)]


def test_stdlib_is_the_running_pythons_own() -> None:
    found = texts(DatasetConfig())
    assert Path(os.__file__).read_text() in found
    assert 2_000_000 < sum(map(len, found)) < 40_000_000


def test_stdlib_leaves_out_packages_tests_tables_and_what_is_not_utf8(tmp_path: Path) -> None:
    for name in ("b.py", "a/z.py", "site-packages/x.py", "a/test/x.py", "a/tests/x.py", "encodings/x.py", "readme.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "latin.py").write_bytes(b"\xff")
    found = sources._stdlib_source(tmp_path)
    assert [piece.text for piece in found.train(quiet)] == ["a/z.py", "b.py"]
    with pytest.raises(DataError, match=r"has no \.py files; give your own text"):
        sources._stdlib_source(tmp_path / "nothing")


def test_globs_are_sorted_and_each_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.txt", "c[1].txt", "deep/er/d.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    assert texts(files("*.txt", "a.txt")) == ["a.txt", "b.txt", "c[1].txt"]
    assert texts(files("c[1].txt", "**/d.txt")) == ["c[1].txt", "deep/er/d.txt"]


def test_fingerprint_follows_content_not_names_or_times(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("some text")
    before, stat = open_source(files(path)).fingerprint, path.stat()
    path.write_text("some tExt")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert open_source(files(path)).fingerprint != before
    path.write_text("some text")
    assert open_source(files(path.rename(tmp_path / "b.txt"))).fingerprint == before


def test_fingerprint_follows_all_that_decides_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "content": "b"}\n')
    (tmp_path / "b.txt").write_text('{"text": "a", "content": "b"}\n')
    a, b = tmp_path / "a.jsonl", tmp_path / "b.txt"
    datasets = [files(a), files(a, text_fields=["content"]), files(b), files(a, b), files(b, a)]
    datasets += [files(a, validation_files=[str(b)])]
    assert len({open_source(dataset).fingerprint for dataset in datasets}) == len(datasets)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    os.mkfifo(tmp_path / "fifo.txt")
    refused(files(tmp_path / "no*.txt"), rf"^dataset\.files: '{tmp_path}/no\*\.txt' matches no file")
    refused(files(tmp_path), rf"^{tmp_path}: is a folder; name its files")
    refused(files(tmp_path / "fifo.txt"), "fifo.txt: is not a regular file")
    refused(files("/dev/full"), "/dev/full: is not a regular file")
    refused(files(tmp_path / "a.txt", validation_files=["no.txt"]), r"^dataset\.validation_files: 'no\.txt' matches no")
    both = files(tmp_path / "*.txt", validation_files=[str(tmp_path / "a.txt")])
    (tmp_path / "fifo.txt").unlink()
    refused(both, r"^dataset\.validation_files: .*a\.txt is in dataset\.files too")
    with pytest.raises(ConfigError, match=r"^dataset\.files: is empty"):
        open_source(files())


def test_held_out_share_is_what_was_asked() -> None:
    for fraction in (0.0, 0.02, 0.5, 1.0):
        share = sum(held_out(index, fraction) for index in range(20_000)) / 20_000
        assert abs(share - fraction) < 0.01
    assert all(held_out(index, 0.5) for index in range(1000) if held_out(index, 0.1))


def test_a_document_is_held_out_whole(tmp_path: Path) -> None:
    for index in range(8):
        (tmp_path / f"{index}.txt").write_text(f"{index}\n" * 300_000)
    pieces = open_source(files(tmp_path / "*.txt")).train(quiet)
    sides = {(piece.text[0], held) for piece, held in split(pieces, 0.5)}
    assert len(sides) == 8
    assert {held for _, held in sides} == {True, False}


def hub_folder(folder: Path, texts: list[str], split: str = "train") -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    path = folder / "data" / f"{split}-00000-of-00001.parquet"
    parquet.write_table(pa.table({"id": list(range(len(texts))), "text": texts}), path)
    return path


def from_hub(*names: Path | str, **settings: object) -> DatasetConfig:
    return DatasetConfig(source=Source.hub, hub_ids=[str(name) for name in names], **settings)  # type: ignore[arg-type]


def test_folder_of_the_hubs_layout(tmp_path: Path) -> None:
    train, held = documents(5), documents(3, seed=1)
    hub_folder(tmp_path / "set", train)
    hub_folder(tmp_path / "set", held, "test")
    (tmp_path / "set" / "README.md").write_text("# A data set\n")
    loaded = open_source(from_hub(tmp_path / "set", hub_validation_split="test"))
    assert [piece.text for piece in loaded.train(quiet)] == train
    assert loaded.validation is not None
    assert [piece.text for piece in loaded.validation(quiet)] == held
    refused(from_hub(tmp_path / "set", hub_split="tran"), r"has no loadable split 'tran' \(Bad split: tran")
    refused(from_hub(tmp_path / "set", hub_config="x"), "BuilderConfig 'x' not found")


def test_new_content_of_a_hub_folder_is_noticed(tmp_path: Path) -> None:
    path = hub_folder(tmp_path / "set", ["old text"])
    before, stat = open_source(from_hub(tmp_path / "set")), path.stat()
    assert [piece.text for piece in before.train(quiet)] == ["old text"]
    hub_folder(tmp_path / "set", ["new text"])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = open_source(from_hub(tmp_path / "set"))
    assert after.fingerprint != before.fingerprint
    assert [piece.text for piece in after.train(quiet)] == ["new text"]


def test_several_hub_sets_are_concatenated(tmp_path: Path) -> None:
    hub_folder(tmp_path / "a", ["a"])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "train.jsonl").write_text('{"content": "b"}\n')
    assert texts(from_hub(tmp_path / "a", tmp_path / "b")) == ["a", "b"]
    (tmp_path / "b" / "train.jsonl").write_text('{"content": "b"}\n{"content": 3}\n')
    (tmp_path / "a" / "data" / "train-00000-of-00001.parquet").write_bytes(b"broken")
    refused(from_hub(tmp_path / "a"), "a' (has no loadable|cannot be read)")


def test_downloaded_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """What load_dataset gives for a name of the hub: a Dataset, not a stream."""
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"title": ["t", "t"], "content": ["a", "b"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split, streaming: rows)
    monkeypatch.setattr(hub, "_answers", lambda url: True)
    loaded = open_source(from_hub("user/name"))
    assert [piece.text for piece in loaded.train(quiet)] == ["a", "b"]
    assert loaded.total == 2
    refused(from_hub("user/name", text_fields=["body"]), r"user/name \(train\):1: no field body .*'title', 'content'")


@pytest.mark.parametrize("server", ["refuses", "is silent"])
def test_no_network_is_told_soon(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setattr(hub, "TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if server == "is silent" else 9
        monkeypatch.setattr(hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        start = time.monotonic()
        refused(from_hub("user/name"), r"^dataset\.hub_ids: 'user/name' cannot be fetched, .*dataset\.files.*HF_HUB")
        assert time.monotonic() - start < 3


def test_hub_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"^dataset\.hub_ids: is empty"):
        open_source(from_hub())
    with pytest.raises(ConfigError, match=r"^dataset\.hub_validation_split: is 'train'"):
        open_source(from_hub("a", hub_validation_split="train"))
    refused(from_hub("./no/such/folder"), "is neither a folder nor the name")


def refused(dataset: DatasetConfig, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(open_source(dataset).train(quiet))
    assert "\n" not in str(caught.value)


def test_write_jsonl_helper_round_trips(tmp_path: Path) -> None:
    assert texts(files(write_jsonl(tmp_path / "a.jsonl", documents(3)))) == documents(3)
