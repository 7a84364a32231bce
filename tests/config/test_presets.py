"""Every preset of a data set of the hub, on a small folder of exactly its layout and with the fields of its rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import yaml

from est_cli.common.errors import DataError
from est_cli.config import RunConfig
from est_cli.data.text import hub_access
from est_cli.data.text.hub_text import HubText, open_text
from est_cli.data.text.pieces import quiet
from est_cli.data.text.sources import open_sources
from est_cli.data.text.units import read_units
from tests.lab.commands import accepted

pytestmark = pytest.mark.slow

CONF = Path(__file__).resolve().parents[2] / "conf" / "dataset"
Row = dict[str, Any]


def configs(folder: Path, **paths: dict[str, str]) -> None:
    """The part of a data set's card that says which files a configuration has."""
    listed = [
        {
            "config_name": name,
            "data_files": [{"split": split, "path": path} for split, path in splits.items()],
        }
        for name, splits in paths.items()
    ]
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': listed})}---\n# A data set\n")


def write(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
        return
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)


def web_page(text: str) -> Row:
    """Of FineWeb."""
    url = {"url": "https://example.org", "date": "2024-01-01T00:00:00Z", "file_path": "s3://a", "language": "en"}
    return {"text": text, "id": "<urn:uuid:0>", "dump": "CC-MAIN-2024-10", **url, "token_count": 3}


def fineweb(folder: Path) -> None:
    configs(
        folder,
        **{
            "default": {"train": "data/*/*"},
            "sample-10BT": {"train": "sample/10BT/*"},
            "CC-MAIN-2024-10": {"train": "data/CC-MAIN-2024-10/*"},
        },
    )
    write(folder / "sample/10BT/000_00000.parquet", [web_page("a")])
    write(folder / "sample/10BT/001_00000.parquet", [web_page("b")])
    write(folder / "data/CC-MAIN-2024-10/train-00000-of-00001.parquet", [web_page("crawl")])


def fineweb_edu(folder: Path) -> None:
    fineweb(folder)
    for path in folder.rglob("*.parquet"):
        rows = parquet.read_table(path).to_pylist()
        write(path, [{**row, "score": 3.2, "int_score": 3} for row in rows])


def dclm(folder: Path) -> None:
    place = folder / "filtered/OH_eli5_vs_rw_v2_bigram_200k_train/fasttext_openhermes/processed_data"
    row = {"bff_contained_ngram_count_before_dedupe": 0, "language_id_whole_page_fasttext": {"en": 0.9}, "url": "u"}
    for number, text in enumerate("ab"):
        write(place / f"global-shard_01_of_10/local-shard_0_of_10/shard_{number:08d}.parquet", [{**row, "text": text}])


def c4(folder: Path) -> None:
    train, held = "en/c4-train.*.json.gz", "en/c4-validation.*.json.gz"
    configs(folder, en={"train": train, "validation": held}, de={"train": "multilingual/c4-de.tfrecord-*.json.gz"})
    for number, text in enumerate("ab"):
        row = {"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": "https://example.org"}
        write(folder / f"en/c4-train.{number:05d}-of-01024.json.gz", [row])
        write(folder / f"en/c4-validation.{number:05d}-of-00008.json.gz", [{**row, "text": "held"}])
    write(folder / "multilingual/c4-de.tfrecord-00000-of-01024.json.gz", [row])


def slimpajama(folder: Path) -> None:
    for number, text in enumerate("ab"):
        write(folder / f"data/train-{number:05d}-of-00002.parquet", [{"text": text}])


def starcoderdata(folder: Path) -> None:
    for language, text in (("go", "a"), ("python", "b")):
        row = {"max_stars_repo_path": "a.py", "max_stars_repo_name": "u/n", "max_stars_count": 3, "id": "0"}
        write(folder / language / "train-00000-of-00001.parquet", [{**row, "content": text}])


def the_stack_smol(folder: Path) -> None:
    for language, text in (("go", "a"), ("python", "b")):
        row = {"avg_line_length": 3.0, "max_line_length": 9, "alphanum_fraction": 0.5, "licenses": ["MIT"]}
        row |= {"repository_name": "u/n", "path": "a.py", "size": 3, "lang": language}
        write(folder / "data" / language / "data.json", [{"content": text, **row}])


def openwebtext(folder: Path) -> None:
    configs(folder, plain_text={"train": "plain_text/train-*"})
    for number, text in enumerate("ab"):
        write(folder / f"plain_text/train-{number:05d}-of-00080.parquet", [{"text": text}])


def wikipedia(folder: Path) -> None:
    configs(folder, **{f"20231101.{code}": {"train": f"20231101.{code}/train-*"} for code in ("en", "de")})
    for code, texts in (("en", "ab"), ("de", "c")):
        rows = [{"id": "1", "url": "https://example.org", "title": "T", "text": text} for text in texts]
        write(folder / f"20231101.{code}/train-00000-of-00041.parquet", rows)


def wikitext103(folder: Path) -> None:
    name = "wikitext-103-raw-v1"
    configs(folder, **{name: {split: f"{name}/{split}-*" for split in ("train", "validation")}})
    rows = [{"text": text} for text in ("", " = A = \n", "", " one \n", "", " = B = \n", "", " two \n")]
    for split in ("train", "validation"):
        write(folder / f"{name}/{split}-00000-of-00001.parquet", rows)


def tinystories(folder: Path) -> None:
    for number, text in enumerate("ab"):
        write(folder / f"data/train-{number:05d}-of-00002-2d5a1467fff1081b.parquet", [{"text": text}])
    write(folder / "data/validation-00000-of-00001-869c898b519ad725.parquet", [{"text": "held"}])


LAYOUTS: dict[str, Callable[[Path], None]] = {
    function.__name__: function
    for function in (
        *(fineweb_edu, fineweb, dclm, c4, slimpajama, starcoderdata, the_stack_smol, openwebtext, wikipedia),
        *(wikitext103, tinystories),
    )
}
ALL = {"wikitext103": [" = A = \n\n one \n", " = B = \n\n two \n"]}


def texts_of(name: str, folder: Path, *settings: str) -> tuple[list[str], list[str] | None]:
    """The documents to train on, and those that were named for validation."""
    open_text.cache_clear()
    config: RunConfig = accepted(f"dataset={name}", f"dataset.hub_ids=[{folder}]", *settings)
    (source,) = open_sources(config.dataset, folder.parent / "cache")
    train, held = ([*read_units(units or (), quiet)] for units in (source.train, source.validation))
    return [piece.text for piece in train], None if source.validation is None else [piece.text for piece in held]


def test_every_preset_of_the_hub_has_its_layout_here() -> None:
    presets = {path.stem: yaml.safe_load(path.read_text()) for path in CONF.glob("*.yaml")}
    single = {name for name, preset in presets.items() if len(preset.get("hub_ids", ())) == 1}
    assert single == {*LAYOUTS}
    mixed = presets["slimpajama_starcoder"]["hub_ids"]
    assert mixed == [*presets["slimpajama"]["hub_ids"], *presets["starcoderdata"]["hub_ids"]]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_preset_reads_its_layout(tmp_path: Path, name: str) -> None:
    LAYOUTS[name](tmp_path / "set")
    train, held = texts_of(name, tmp_path / "set")
    assert train == ALL.get(name, ["a", "b"])
    assert held == {"wikitext103": ALL["wikitext103"], "tinystories": ["held"]}.get(name)


@pytest.mark.parametrize(
    ("name", "setting", "texts"),
    [
        ("fineweb_edu", "dataset.hub_config=CC-MAIN-2024-10", ["crawl"]),
        ("fineweb", "dataset.hub_config=default", ["crawl"]),
        ("c4", "dataset.hub_config=de", ["b"]),
        ("wikipedia", "dataset.hub_config=20231101.de", ["c"]),
        ("starcoderdata", "dataset.data_dir=python", ["b"]),
        ("the_stack_smol", "dataset.data_dir=data/python", ["b"]),
        ("dclm", "dataset.data_files=[filtered/*/*/*/global-shard_01_of_10/*/shard_00000001.parquet]", ["b"]),
        ("fineweb_edu", "dataset.data_files=[sample/10BT/001_*]", ["b"]),
    ],
)
def test_other_parts_of_it(tmp_path: Path, name: str, setting: str, texts: list[str]) -> None:
    LAYOUTS[name](tmp_path / "set")
    assert texts_of(name, tmp_path / "set", setting)[0] == texts


def test_c4s_own_validation_set(tmp_path: Path) -> None:
    c4(tmp_path / "set")
    assert texts_of("c4", tmp_path / "set", "dataset.hub_validation_split=validation")[1] == ["held", "held"]


def test_where_rows_do_not_say_where_they_are_from_none_is_left_out(tmp_path: Path) -> None:
    slimpajama(tmp_path / "set")
    exclude = "dataset.exclude=['meta.redpajama_set_name=RedPajamaGithub']"
    assert texts_of("slimpajama", tmp_path / "set", exclude)[0] == ["a", "b"]
    for number, name in enumerate(("RedPajamaGithub", "RedPajamaC4")):  # as DKYoon/SlimPajama-6B
        row = {"text": "ab"[number], "meta": {"redpajama_set_name": name}, "__index_level_0__": number}
        write(tmp_path / f"set/data/train-{number:05d}-of-00002.parquet", [row])
    assert texts_of("slimpajama", tmp_path / "set", exclude)[0] == ["", "b"]


def test_ids_without_text_are_told(tmp_path: Path) -> None:
    """The second version of The Stack."""
    row = {"blob_id": "0", "directory_id": "1", "path": "/a.py", "content_id": "2", "src_encoding": "UTF-8"}
    write(tmp_path / "set/data/Python/train-00000-of-00001.parquet", [row])
    with pytest.raises(DataError, match=r"no field content .*'blob_id'.*; it holds ids of files, and not their text"):
        texts_of("the_stack_smol", tmp_path / "set")


def test_what_is_gated_is_told_with_the_way_in(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*args: object, **kwargs: object) -> None:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'bigcode/starcoderdata' is a gated dataset on the Hub.")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.setattr(hub_access.constants, "HF_HUB_OFFLINE", True)
    open_text.cache_clear()
    with pytest.raises(DataError) as caught:
        open_text(HubText("bigcode/starcoderdata", None, "train", "0" * 40))
    assert str(caught.value) == (
        "dataset.hub_ids: 'bigcode/starcoderdata' is gated: accept its terms on "
        "https://huggingface.co/datasets/bigcode/starcoderdata, then log in here with `hf auth login` (or set HF_TOKEN)"
    )


@pytest.mark.parametrize(
    ("message", "gated"),
    [
        ("Cannot access gated repo for url https://huggingface.co/x/resolve/main/config.json.", True),
        ("You are trying to access a gated repo.\nMake sure to have access to it", True),
        (
            "Repository Not Found. If you are trying to access a private or gated repo, make sure you are logged in",
            False,
        ),
    ],
)
def test_what_is_gated_and_what_is_not_there(message: str, gated: bool) -> None:
    error = OSError("cannot be loaded")
    error.__cause__ = ValueError(message)
    assert hub_access.is_gated(error) == gated
