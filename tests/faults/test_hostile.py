"""E2: checkpoints made to do harm, with a manifest that agrees: refused, nothing run, nothing allocated."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from est_cli.common.errors import CheckpointError
from est_cli.storage import content, manifest
from est_cli.storage.content import load_checkpoint
from tests.faults.conftest import Tally
from tests.faults.refused import told_as
from tests.faults.size import either
from tests.lab.checkpoint_models import adamw, assert_same, everything, gpt2, llama, save, silent, tokenizer, train
from tests.storage.test_content import Canary, edited, reseal

pytestmark = pytest.mark.row("E2")

EVERY = 10**9


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = gpt2(0)
    optimizer = adamw(model)
    train(model, optimizer, range(3))
    return save(tmp_path_factory.mktemp("made"), 3, model, optimizer, tokenizer())


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / made.name))


def refused(path: Path, *words: str) -> None:
    """And neither the model nor the optimizer has changed."""
    model = gpt2(1)
    optimizer = adamw(model)
    train(model, optimizer, range(1))
    before = everything(model, optimizer)
    line = told_as(CheckpointError, lambda: load_checkpoint(path, model, optimizer, silent))
    assert all(word in line for word in words), line
    assert_same(everything(model, optimizer), before)


@pytest.mark.parametrize("name", [content.WEIGHTS, content.OPTIMIZER, content.STATE, manifest.MANIFEST])
def test_a_pickle_in_any_place_is_not_run(path: Path, tmp_path: Path, tally: Tally, name: str) -> None:
    data = pickle.dumps(Canary(tmp_path / "canary"))
    if name == manifest.MANIFEST:
        (path / name).write_bytes(data)
    else:
        reseal(path, **{Path(name).stem: data})
    refused(path, name)
    assert not (tmp_path / "canary").exists()
    tally(inputs=1)


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file and its data."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def whole(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def with_entry(**changes: Any) -> Callable[[dict[str, Any], bytes], bytes]:
    def change(header: dict[str, Any], data: bytes) -> bytes:
        first = next(name for name in header if name != "__metadata__")
        return whole({**header, first: {**header[first], **changes}}, data)

    return change


def all_at_zero(header: dict[str, Any], data: bytes) -> bytes:
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    spans = {name: entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in tensors.items()}
    return whole({name: {**entry, "data_offsets": [0, spans[name]]} for name, entry in tensors.items()}, data)


def renamed(header: dict[str, Any], data: bytes) -> bytes:
    first = next(name for name in header if name != "__metadata__")
    return whole({"../../evil" if name == first else name: entry for name, entry in header.items()}, data)


HEADERS: dict[str, Callable[[dict[str, Any], bytes], bytes]] = {
    "10^9 x 10^9": with_entry(shape=[EVERY, EVERY]),
    "larger than a size can be": with_entry(shape=[2**63, 4]),
    "negative": with_entry(shape=[-1, 16]),
    "thousands of dimensions": with_entry(shape=[1] * 5000),
    "behind the end": with_entry(data_offsets=[0, 10**12]),
    "end before the start": with_entry(data_offsets=[10, 0]),
    "unknown dtype": with_entry(dtype="Q99"),
    "another dtype": with_entry(dtype="F64"),
    "a dtype as wide": with_entry(dtype="I32"),
    "all tensors in one place": all_at_zero,
    "a path for a name": renamed,
    "NaN": lambda header, data: whole(json.dumps(header).replace('"shape": [', '"shape": [NaN,', 1).encode(), data),
    "not UTF-8": lambda header, data: whole(b"\xff\xfe" + json.dumps(header).encode(), data),
    "nested": lambda header, data: whole(b"[" * 200_000, data),
    "a list": lambda header, data: whole([], data),
    "no header": lambda header, data: whole(b"", data),
    "length 0": lambda header, data: bytes(8) + data,
    "length 2^62": lambda header, data: (1 << 62).to_bytes(8, "little") + data,
    "length 99 MB": lambda header, data: (99_000_000).to_bytes(8, "little") + data,
    "metadata of numbers": lambda header, data: whole({**header, "__metadata__": {"a": 1}}, data),
    "a tensor lost": lambda header, data: whole({}, data),
    "an empty file": lambda header, data: b"",
    "more behind it": lambda header, data: whole(header, data) + b"\0",
    "256 MB that nobody asked for": lambda header, data: whole(
        {"a": {"dtype": "U8", "shape": [1 << 28], "data_offsets": [0, 1 << 28]}}, bytes(1 << 28)
    ),
}


@pytest.mark.parametrize("name", [content.WEIGHTS, content.OPTIMIZER])
@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_lies(path: Path, tally: Tally, case: str, name: str) -> None:
    if (case, name) == ("a dtype as wide", content.OPTIMIZER):
        pytest.skip("moments may be of any dtype")
    if case.startswith("256 MB") and not either(True, False):
        pytest.skip("part of make test-faults")
    reseal(path, **{Path(name).stem: HEADERS[case](*parts(path / name))})
    grown = grown_by(lambda: refused(path, name))
    assert grown < max(2 * (path / name).stat().st_size, 64 << 20), f"{grown} bytes more"
    tally(inputs=1)


def grown_by(work: Callable[[], None]) -> int:
    """By how many bytes the memory of this process was larger than before, at its largest."""
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    work()
    return peak() - before


def peak() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


NAMES = (
    *("../evil", "../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "a\nb", "a\0b", ".hidden", "é"),
    *("MANIFEST.json", *(f"model{suffix}" for suffix in manifest.CODE_SUFFIXES)),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_elsewhere_or_carries_code(path: Path, tally: Tally, name: str) -> None:
    found = json.loads((path / manifest.MANIFEST).read_bytes())
    found["files"][name] = {"sha256": "0" * 64, "bytes": 0}
    (path / manifest.MANIFEST).write_bytes(manifest.render(found["files"], found["meta"]))
    refused(path, manifest.MANIFEST)
    tally(inputs=1)


STATES = {
    "duplicate key": b'{"step": 1, "step": 2}',
    "NaN": b'{"step": 3, "last_loss": NaN}',
    "infinite": b'{"step": 3, "last_loss": 1e999}',
    "a list": b"[]",
    "nested": b'{"a":' * 50_000,
    "cut": b'{"step": 3',
    "not UTF-8": b'{"step": "\xff"}',
    "2 MB": b'{"step": "' + b"x" * (2 << 20) + b'"}',
    "a number of 10,000 digits": b'{"step": ' + b"9" * 10_000 + b"}",
    "pickled": pickle.dumps({"step": 3}),
}


@pytest.mark.parametrize("case", STATES)
def test_a_state_that_is_no_strict_json(path: Path, tally: Tally, case: str) -> None:
    reseal(path, state=STATES[case])
    refused(path, content.STATE)
    tally(inputs=1)


def test_links_that_lead_out(path: Path, tmp_path: Path, tally: Tally) -> None:
    names = sorted(os.listdir(path))
    for name in names:
        real = (path / name).rename(tmp_path / "real")
        (path / name).symlink_to(real)
        refused(path, name, "a link")
        (path / name).unlink()
        real.rename(path / name)
    (tmp_path / "link").symlink_to(path)
    refused(tmp_path / "link", "a link")
    tally(inputs=len(names) + 1)


def test_weights_of_another_model(path: Path, tmp_path: Path, tally: Tally) -> None:
    other = llama(0)
    optimizer = adamw(other)
    train(other, optimizer, range(3))
    foreign = save(tmp_path / "other", 3, other, optimizer)
    reseal(path, model=(foreign / content.WEIGHTS).read_bytes())
    refused(path, content.WEIGHTS, "another model")
    reseal(foreign, model=edited(path / content.WEIGHTS, lambda tensors: tensors.clear()))
    refused(foreign, content.WEIGHTS)
    tally(inputs=2)


def test_the_same_without_the_fault_is_loaded(path: Path) -> None:
    """So what was refused above was refused for its fault."""
    reseal(path, model=whole(*parts(path / content.WEIGHTS)))
    model = gpt2(1)
    assert load_checkpoint(path, model, adamw(model), lambda line: None)["step"] == 3
