import os
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from est_cli.common.errors import ConfigError, DataError
from est_cli.config import DatasetConfig
from est_cli.config import Source as SourceName
from est_cli.config.data import dataset_problems
from est_cli.data.text import hub, hub_access, parquet_pages, sources
from est_cli.data.text.pieces import TextSource, Unit, held_out, quiet, split
from est_cli.data.text.sources import open_sources
from est_cli.data.text.units import read_unit, read_units
from tests.lab.corpora import documents, files, write_jsonl


def opened(dataset: DatasetConfig) -> TextSource:
    """The only source of `dataset`."""
    hub.open_text.cache_clear()
    with tempfile.TemporaryDirectory() as cache_root:
        (source,) = open_sources(dataset, Path(cache_root))
    return source


def read(units: Sequence[Unit] | None) -> list[str]:
    assert units is not None
    return [piece.text for piece in read_units(units, quiet) if not piece.excluded]


def texts(dataset: DatasetConfig) -> list[str]:
    return read(opened(dataset).train)


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
    assert read(found.train) == ["a/z.py", "b.py"]
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
    before, stat = opened(files(path)).fingerprints, path.stat()
    path.write_text("some tExt")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert opened(files(path)).fingerprints != before
    path.write_text("some text")
    assert opened(files(path.rename(tmp_path / "b.txt"))).fingerprints == before


def test_fingerprint_follows_all_that_decides_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "content": "b"}\n')
    (tmp_path / "b.txt").write_text('{"text": "a", "content": "b"}\n')
    a, b = tmp_path / "a.jsonl", tmp_path / "b.txt"
    datasets = [files(a), files(a, text_fields=["content"]), files(b), files(a, b), files(b, a)]
    datasets += [files(a, validation_files=[str(b)])]
    assert len({str(opened(dataset).fingerprints) for dataset in datasets}) == len(datasets)


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
        opened(files())


def test_held_out_share_is_what_was_asked() -> None:
    for fraction in (0.0, 0.02, 0.5, 1.0):
        share = sum(held_out(str(index), fraction) for index in range(20_000)) / 20_000
        assert abs(share - fraction) < 0.01
    assert all(held_out(str(index), 0.5) for index in range(1000) if held_out(str(index), 0.1))


def test_a_document_is_held_out_whole(tmp_path: Path) -> None:
    for index in range(8):
        (tmp_path / f"{index}.txt").write_text("".join(f"{index} {line}\n" for line in range(60_000)))
    pieces = read_units(opened(files(tmp_path / "*.txt")).train, quiet)
    sides = {(piece.text[0], held) for piece, held in split(pieces, 0.5)}
    assert len(sides) == 8
    assert {held for _, held in sides} == {True, False}


def hub_folder(folder: Path, texts: list[str], split: str = "train") -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    path = folder / "data" / f"{split}-00000-of-00001.parquet"
    parquet.write_table(pa.table({"id": list(range(len(texts))), "text": texts}), path)
    return path


def from_hub(*names: Path | str, **settings: object) -> DatasetConfig:
    return DatasetConfig(source=SourceName.hub, hub_ids=[str(name) for name in names], **settings)  # type: ignore[arg-type]


def test_lines_of_wikitext_become_articles(tmp_path: Path) -> None:
    rows = ["", " = Title = \n", "", " paragraph one . \n", " = = Part = = \n", " paragraph two . \n", ""] * 3
    hub_folder(tmp_path / "set", rows)
    assert len(read(opened(from_hub(tmp_path / "set")).train)) == len(rows)
    article = " = Title = \n\n paragraph one . \n = = Part = = \n paragraph two . \n"
    assert read(opened(from_hub(tmp_path / "set", articles=True)).train) == [article] * 3


def test_folder_of_the_hubs_layout(tmp_path: Path) -> None:
    train, held = documents(5), documents(3, seed=1)
    hub_folder(tmp_path / "set", train)
    hub_folder(tmp_path / "set", held, "test")
    (tmp_path / "set" / "README.md").write_text("# A data set\n")
    loaded = opened(from_hub(tmp_path / "set", hub_validation_split="test"))
    assert read(loaded.train) == train
    assert loaded.validation is not None
    assert read(loaded.validation) == held
    refused(from_hub(tmp_path / "set", hub_split="tran"), r"has no loadable split 'tran' \(Bad split: tran")
    refused(from_hub(tmp_path / "set", hub_config="x"), "BuilderConfig 'x' not found")


def test_a_data_set_that_offline_work_lacks_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'nobody/has-this' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.load_dataset", unreachable)
    refused(from_hub(Path("nobody/has-this")), "was not downloaded to this machine before, and HF_HUB_OFFLINE is set")


def test_new_content_of_a_hub_folder_is_noticed(tmp_path: Path) -> None:
    path = hub_folder(tmp_path / "set", ["old text"])
    before, stat = opened(from_hub(tmp_path / "set")), path.stat()
    assert read(before.train) == ["old text"]
    hub_folder(tmp_path / "set", ["new text"])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = opened(from_hub(tmp_path / "set"))
    assert after.fingerprints != before.fingerprints
    assert read(after.train) == ["new text"]


def test_parquet_of_a_hub_folder_is_read_within_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By our own reader: the same rows in the same order as `datasets` gives, and no page of any size."""
    folder, rows = tmp_path / "set" / "data", [f"text {number}" for number in range(700)]
    folder.mkdir(parents=True)
    for number in range(2):
        half = pa.table({"id": range(350), "text": rows[350 * number : 350 * (number + 1)]})
        parquet.write_table(half, folder / f"train-0000{number}-of-00002.parquet", row_group_size=100)
    (units,) = [source.train for source in open_sources(from_hub(tmp_path / "set"), tmp_path / "cache")]
    assert [unit.arguments["file"] for unit in units] == sorted(map(str, folder.iterdir()))
    ours = [piece.text for unit in units for piece in read_unit(unit, quiet)]
    theirs = [unit.arguments | {"file": None} for unit in units]
    assert ours == rows == [piece.text for arguments in theirs for piece in hub.read_shard(quiet, **arguments)]
    monkeypatch.setattr(parquet_pages, "MAX_PAGE", 100)
    with pytest.raises(DataError, match="has a page of"):
        list(read_unit(units[0], quiet))


def test_several_hub_sets_are_concatenated(tmp_path: Path) -> None:
    hub_folder(tmp_path / "a", ["a"])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "train.jsonl").write_text('{"content": "b"}\n')
    assert texts(from_hub(tmp_path / "a", tmp_path / "b")) == ["a", "b"]
    (tmp_path / "b" / "train.jsonl").write_text('{"content": "b"}\n{"content": 3}\n')
    (tmp_path / "a" / "data" / "train-00000-of-00001.parquet").write_bytes(b"broken")
    refused(from_hub(tmp_path / "a"), "a' (has no loadable|cannot be read)")


def test_downloaded_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """What load_dataset gives for a name of the hub that is kept on the disk: a Dataset, not a stream."""
    rows = datasets.Dataset.from_dict({"title": ["t", "t", "t"], "content": ["a", "b", "c"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split, streaming, revision: rows)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "UNIT_BYTES", 20)
    loaded = opened(from_hub("user/name"))
    assert read(loaded.train) == ["a", "b", "c"] and len(loaded.train) > 1
    refused(
        from_hub("user/name", text_fields=["body"]), r"user/name \(train, part 1 of .\):1: no field body .*'content'"
    )


def test_streamed_set_is_pinned_to_a_revision_and_then_needs_no_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The boundary of the library is played here: the hub itself is a folder, and its revision is given."""
    for number in range(3):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / f"train-{number}.jsonl").write_text(f'{{"text": "{number}"}}\n')
    real, asked = datasets.load_dataset, []

    def load(name: str, config: str | None, split: str, streaming: bool, revision: str | None) -> object:
        asked.append((name, streaming, revision))
        return real(str(tmp_path / "set"), config, split=split, streaming=streaming)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub, "data_files", lambda text: [])
    monkeypatch.setattr(hub_access, "_answers", lambda url: True)
    monkeypatch.setattr(hub, "data_set_revision", lambda name, wanted: "c0ffee")
    hub.open_text.cache_clear()
    (source,) = open_sources(from_hub("user/name"), tmp_path / "cache")
    assert [read([unit]) for unit in source.train] == [["0"], ["1"], ["2"]]
    assert asked == [("user/name", True, "c0ffee")]
    monkeypatch.setattr(hub_access, "_answers", None)
    for broken in ("data_set_revision", "open_text"):
        monkeypatch.setattr(hub, broken, None)
    (again,) = open_sources(from_hub("user/name"), tmp_path / "cache")
    assert again == source and source.revisions == ("c0ffee",)
    assert open_sources(from_hub("user/name", revision=["c0ffee"]), tmp_path / "cache") == [source]
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    assert open_sources(from_hub("user/name"), tmp_path / "cache") == [source]


def test_another_revision_is_another_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again the hub is a folder; what a branch means is looked up once."""
    hub_folder(tmp_path / "set", ["a"])
    real, asked = datasets.load_dataset, []

    def commit_of(name: str, wanted: str | None) -> str:
        asked.append(wanted)
        return f"commit of {wanted}"

    def load(name: str, config: str | None, split: str, streaming: bool, revision: str | None) -> object:
        return real(str(tmp_path / "set"), config, split=split, streaming=streaming)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub, "data_files", lambda text: [])
    monkeypatch.setattr(hub_access, "_answers", lambda url: True)
    monkeypatch.setattr(hub, "data_set_revision", commit_of)
    hub.open_text.cache_clear()
    sources = [
        open_sources(from_hub("user/name", revision=revision), tmp_path / "cache")[0]
        for revision in ([], ["v1"], ["v1"], ["v2"])
    ]
    assert asked == [None, "v1", "v2"]
    assert [source.revisions for source in sources] == [(f"commit of {name}",) for name in (None, "v1", "v1", "v2")]
    assert len({str(source.fingerprints) for source in sources}) == 3
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    assert open_sources(from_hub("user/name", revision=["v2"]), tmp_path / "cache") == [sources[-1]]
    with pytest.raises(DataError, match=r"^dataset\.revision: of 'user/name' the revision v3 was not read here before"):
        open_sources(from_hub("user/name", revision=["v3"]), tmp_path / "cache")


def test_files_of_a_hub_folder_are_units(tmp_path: Path) -> None:
    first = hub_folder(tmp_path / "set", ["a", "b"])
    first.rename(first.with_name("train-00000-of-00002.parquet"))
    hub_folder(tmp_path / "set", ["c"]).rename(first.with_name("train-00001-of-00002.parquet"))
    source = opened(from_hub(tmp_path / "set"))
    assert [read([unit]) for unit in source.train] == [["a", "b"], ["c"]]


def test_rows_of_a_hub_folder_are_excluded_by_nested_fields(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    meta = [{"redpajama_set_name": f"RedPajama{name}"} for name in ("C4", "Github", "Book")]
    parquet.write_table(pa.table({"text": ["a", "b", "c"], "meta": meta}), folder / "train-0.parquet")
    exclude = ["meta.redpajama_set_name=RedPajamaGithub"]
    assert texts(from_hub(tmp_path / "set", exclude=exclude)) == ["a", "c"]
    assert texts(from_hub(tmp_path / "set")) == ["a", "b", "c"]


def test_weights_make_every_entry_a_source(tmp_path: Path) -> None:
    for name in ("a0.txt", "a1.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    mixed = files(tmp_path / "a*.txt", tmp_path / "b.txt", weights=[7.0, 3.0])
    assert [read(source.train) for source in open_sources(mixed, tmp_path / "cache")] == [
        ["a0.txt", "a1.txt"],
        ["b.txt"],
    ]
    overlapping = files(tmp_path / "a*.txt", tmp_path / "*.txt", weights=[7.0, 3.0])
    with pytest.raises(DataError, match=r"^dataset\.files: .*a0\.txt is in two entries"):
        open_sources(overlapping, tmp_path / "cache")


@pytest.mark.parametrize("server", ["refuses", "is silent"])
def test_no_network_is_told_soon(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setattr(hub_access, "TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if server == "is silent" else 9
        monkeypatch.setattr(hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        start = time.monotonic()
        refused(from_hub("user/name"), r"^dataset\.hub_ids: 'user/name' cannot be fetched, .*dataset\.files.*HF_HUB")
        assert time.monotonic() - start < 3


def test_hub_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"^dataset\.hub_ids: is empty"):
        opened(from_hub())
    with pytest.raises(ConfigError, match=r"^dataset\.hub_validation_split: is 'train'"):
        opened(from_hub("a", hub_validation_split="train"))
    refused(from_hub("./no/such/folder"), "is neither a folder nor the name")


def refused(dataset: DatasetConfig, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        texts(dataset)
    assert "\n" not in str(caught.value)


def test_write_jsonl_helper_round_trips(tmp_path: Path) -> None:
    assert texts(files(write_jsonl(tmp_path / "a.jsonl", documents(3)))) == documents(3)


def test_addresses_are_for_text_alone() -> None:
    with pytest.raises(DataError, match=r"eval\.files: https://h/a\.txt lies elsewhere, and is read from here only"):
        sources.expand(["https://h/a.txt?sig=CANARY"], "eval.files")
    ids = DatasetConfig(source=SourceName.tokens, files=["s3://b/a.bin"])
    assert "dataset.files: s3://b/a.bin lies elsewhere; ids are read from here only, so download it" in [
        *dataset_problems(ids, "gpt2")
    ]
    text = DatasetConfig(source=SourceName.files, files=["http://example.com/a.txt"], validation_files=["ftp://h/a"])
    found = [*dataset_problems(text, "bpe")]
    assert [problem.partition(":")[0] for problem in found] == ["dataset.files", "dataset.validation_files"]
