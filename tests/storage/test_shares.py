"""Checkpoints in shares: what 8 processes write is what one writes, however it is read; damaged ones do no harm."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import debug, distribute_tensor
from torch.optim import Optimizer
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM, PreTrainedModel

from est_cli.common.errors import CheckpointError, NumericsError, StorageError
from est_cli.config import LaunchConfig
from est_cli.distributed import shard
from est_cli.est import apply_est
from est_cli.families import spec_of
from est_cli.models.foreign import load_weights
from est_cli.models.lm_loss import LmLoss, Objective
from est_cli.storage import content, disk, store
from est_cli.storage.consolidate import main
from est_cli.storage.content import load_checkpoint
from est_cli.storage.shares import Shares, take_shares, write_shares
from est_cli.storage.together import help_to_save, save_together
from tests.lab.checkpoint_models import (
    STATE,
    adamw,
    assert_same,
    everything,
    gpt2,
    llama,
    save,
    silent,
    tokenizer,
    train,
)

MODELS: dict[str, Callable[[int], PreTrainedModel]] = {"gpt2": gpt2, "tied llama": lambda seed: llama(seed, tied=True)}
COUNT = 3
"""Rows of 16, 32, 48 and 64 are not divisible by it."""


@contextmanager
def process(rank: int, world: int = COUNT) -> Iterator[None]:
    """Among processes that are not there. DTensor remembers places by those of the process before."""
    for name in ("_clear_python_sharding_prop_cache", "_clear_fast_path_sharding_prop_cache"):
        getattr(debug, name, lambda: None)()
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def trained(build: Callable[[int], PreTrainedModel], spread: bool = False, **launch: Any) -> tuple[Any, Optimizer]:
    """Three steps old; `spread`: over the processes of now."""
    model = build(0)
    optimizer = adamw(model, fused=True)
    train(model, optimizer, range(3))
    if not spread:
        return model, optimizer
    old = [(parameter, optimizer.state.get(parameter, {})) for parameter in model.parameters()]
    handle = apply_est(model, spec_of(model.config))
    world = dist.get_world_size()
    shard(
        Objective(model, LmLoss()), handle.layers, torch.device("cpu"), world, LaunchConfig(strategy="fsdp", **launch)
    )
    optimizer = adamw(model, fused=True)
    for parameter, (_, state) in zip(model.parameters(), old, strict=True):
        for key, value in state.items():
            optimizer.state[parameter][key] = _spread(value, parameter) if value.dim() else value
    return model, optimizer


def _spread(value: torch.Tensor, like: Any) -> Any:
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def shares_of(rank: int, build: Callable[[int], PreTrainedModel] = gpt2, world: int = COUNT, **launch: Any) -> Shares:
    with process(rank, world):
        return take_shares(*trained(build, spread=True, **launch))


class Others:
    """What the first process hears from others, who write their `shares` where it says."""

    def __init__(self, shares: list[Shares]) -> None:
        self.shares, self.heard = shares, []
        self._outcomes: list[Any] = []

    def share(self, value: Any) -> Any:
        self.heard.append(value)
        for shares in self.shares if "place" in value else ():
            peer = Told(value)
            with pytest.raises(StopIteration):
                help_to_save(shares, peer)
            self._outcomes += peer.said
        return value

    def exchange(self, value: Any) -> list[Any]:
        return [value, *self._outcomes]


class Told:
    """What another process hears from the first: one value."""

    def __init__(self, value: Any) -> None:
        self._values, self.said = iter([value]), []

    def share(self, value: Any) -> Any:
        return next(self._values)

    def exchange(self, value: Any) -> list[Any]:
        self.said.append(value)
        return self.said


def save_shares(
    folder: Path, build: Callable[[int], PreTrainedModel] = gpt2, world: int = COUNT, **launch: Any
) -> Path:
    first, *others = (shares_of(rank, build, world, **launch) for rank in range(world))
    save_together(folder, 3, first, tokenizer(), STATE, {}, Others(others))
    return folder / "step-000003"


@pytest.mark.parametrize("model_name", MODELS)
def test_they_are_the_checkpoint_of_one_process(
    tmp_path: Path, model_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build = MODELS[model_name]
    model, optimizer = trained(build)
    path, plain = save_shares(tmp_path / "shares", build), save(tmp_path, 3, model, optimizer, tokenizer())
    names = set(store.verify_folder(path)["files"])
    assert {name for name in names if name.endswith(".safetensors")} == {
        f"{kind}-0000{number}-of-0000{COUNT}.safetensors" for kind in ("weights", "optim") for number in (1, 2, 3)
    }
    modes = {entry.stat().st_mode for entry in path.iterdir()}
    assert modes == {(plain / "state.json").stat().st_mode}
    other = build(1)
    restored = adamw(other, fused=True)
    assert load_checkpoint(path, other, restored, silent) == STATE
    assert_same(everything(other, restored), everything(model, optimizer))
    assert main([str(path), str(tmp_path / "plain")]) == 0 and str(tmp_path / "plain") in capsys.readouterr().out
    assert {entry.name for entry in (tmp_path / "plain").iterdir()} == {entry.name for entry in plain.iterdir()}
    for entry in plain.iterdir():
        if entry.name != "MANIFEST.json":
            assert (tmp_path / "plain" / entry.name).read_bytes() == entry.read_bytes()
    (path / "generation_config.json").write_text('{"max_length": 77}')
    opened, missing = load_weights(AutoModelForCausalLM, str(path), model.config)
    assert opened.generation_config.max_length == 77
    assert missing == [] and torch.equal(opened.lm_head.weight, model.lm_head.weight)
    assert_same(dict(opened.named_parameters()), {name: p.detach() for name, p in model.named_parameters()})


def test_torchs_own_reader_opens_them(tmp_path: Path) -> None:
    path, (model, optimizer) = save_shares(tmp_path), trained(gpt2)
    expected = everything(model, optimizer)
    found = {name: torch.empty_like(tensor) for name, tensor in expected.items() if name != "lm_head.weight"}
    dcp.load(found, storage_reader=dcp.HuggingFaceStorageReader(str(path)), no_dist=True)
    assert_same(found, {name: expected[name] for name in found})


def test_what_torchs_own_writer_writes_is_opened(tmp_path: Path) -> None:
    model, optimizer = trained(gpt2)
    path, expected = save(tmp_path, 3, model, optimizer), everything(model, optimizer)
    meta = store.verify_folder(path)["meta"]
    for kind, wanted in (("weights", False), ("optim", True)):
        tensors = {name: tensor for name, tensor in expected.items() if ("/" in name) is wanted}
        dcp.save(tensors, storage_writer=dcp.HuggingFaceStorageWriter(str(tmp_path / kind), save_distributed=True))
        (written,) = (tmp_path / kind).glob("*.safetensors")
        written.rename(path / f"{kind}-00001-of-00001.safetensors")
    other = gpt2(1)
    restored = adamw(other, fused=True)
    names = {entry.name: {} for entry in path.iterdir()}
    load_checkpoint(path, other, restored, silent, verified={"files": names, "meta": meta})
    assert_same(everything(other, restored), expected)


@pytest.mark.parametrize(("before", "after"), [(3, 5), (5, 3)])
def test_each_process_reads_its_own_rows_of_another_number(tmp_path: Path, before: int, after: int) -> None:
    """The last of 5 holds no row of 16."""
    path, shares = save_shares(tmp_path, world=before), shares_of(after - 1, world=after)
    with process(after - 1, after):
        model, optimizer = trained(gpt2, spread=True)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        optimizer.state.clear()
        load_checkpoint(path, model, optimizer, silent)
        found = take_shares(model, optimizer)
    assert found.begins == shares.begins
    assert_same(found.snapshot.weights, shares.snapshot.weights)
    assert_same(found.snapshot.moments, shares.snapshot.moments)


def test_of_equal_copies_one_is_written(tmp_path: Path) -> None:
    found = [shares_of(rank, world=4, shard_size=2) for rank in range(4)]
    assert [(shares.number, shares.count) for shares in found] == [(1, 2), (2, 2), (None, 2), (None, 2)]
    assert write_shares(tmp_path, found[2]) == {} and not found[2].snapshot.weights
    path, (model, optimizer) = save_shares(tmp_path / "x", world=4, shard_size=2), trained(gpt2)
    held = [
        sum(tensor.nbytes for tensor in (*s.snapshot.weights.values(), *s.snapshot.moments.values())) for s in found
    ]
    whole = sum(tensor.nbytes for tensor in everything(model, optimizer).values())
    assert sum(held) == whole and max(held) < 0.51 * whole, "in the host's memory"
    other = gpt2(1)
    restored = adamw(other, fused=True)
    load_checkpoint(path, other, restored, silent)
    assert_same(everything(other, restored), everything(model, optimizer))


def test_an_error_of_one_is_told_to_all_and_nothing_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (shares_of(rank) for rank in range(COUNT))

    def full(name: str) -> None:
        if name == "write optim-00002-of-00003.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disks:
        disks.setattr(disk, "fault_point", full)
        others = Others([second, third])
        with pytest.raises(StorageError, match="No space left") as caught:
            save_together(tmp_path, 3, first, None, STATE, {}, others)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError) as told:
        help_to_save(third, Told(others.heard[-1]))
    assert str(told.value) == str(caught.value)
    next(iter(second.snapshot.weights.values())).view(-1)[0] = torch.nan
    with pytest.raises(NumericsError, match="not finite"):
        save_together(tmp_path, 3, first, None, STATE, {}, Others([second, third]))
    assert list(tmp_path.iterdir()) == []


def test_what_the_first_cannot_write_is_told_where_the_others_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = (shares_of(rank) for rank in range(COUNT))
    asked = []

    class Listening(Others):
        def share(self, value: Any) -> Any:
            asked.append("share")
            return super().share(value)

        def exchange(self, value: Any) -> list[Any]:
            asked.append("exchange")
            return super().exchange(value)

    def full(name: str) -> None:
        if name == "write state.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk, "fault_point", full)
    with pytest.raises(StorageError, match="No space left"):
        save_together(tmp_path, 3, first, None, STATE, {}, Listening(others))
    assert asked == ["share", "exchange", "share"] and list(tmp_path.iterdir()) == []


def test_a_share_that_is_not_seen_is_no_checkpoint(tmp_path: Path) -> None:
    """As where a machine has another file system."""
    first, *others = (shares_of(rank) for rank in range(COUNT))

    class Elsewhere(Others):
        def exchange(self, value: Any) -> list[Any]:
            (Path(self.heard[-1]["place"]) / "weights-00002-of-00003.safetensors").unlink()
            return super().exchange(value)

    with pytest.raises(CheckpointError, match="weights-00002-of-00003"):
        save_together(tmp_path, 3, first, None, STATE, {}, Elsewhere(others))
    assert list(tmp_path.iterdir()) == []


def cut_rows(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor[:-1].clone() if tensor.dim() > 1 else tensor for name, tensor in tensors.items()}


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "one is gone": (lambda path: path.unlink(), "2 files weights-NUMBER-of-COUNT.safetensors, which are not all"),
    "no safetensors": (lambda path: path.write_bytes(b"x" * 99), "not a safetensors file"),
    "no beginnings": (lambda path: save_file(load_file(path), path), "does not say where the rows"),
    "odd beginnings": (
        lambda path: save_file(load_file(path), path, {"DCP_SHARDING_INFO": '{"lm_head.weight": 3}'}),
        "does not say where the rows",
    ),
    "beginnings without end": (
        lambda path: save_file(load_file(path), path, {"DCP_SHARDING_INFO": "[" * 99_999}),
        "does not say where the rows",
    ),
    "a count without end": (
        lambda path: path.rename(path.with_name(f"weights-00002-of-{10**20}.safetensors")),
        "3 files weights-NUMBER-of-COUNT.safetensors, which are not all",
    ),
    "rows too few": (
        lambda path: save_file(cut_rows(load_file(path)), path, header_of(path)),
        "in pieces that do not join",
    ),
    "other numbers": (
        lambda path: save_file({n: t.double() for n, t in load_file(path).items()}, path, header_of(path)),
        "in pieces that do not join",
    ),
}


def header_of(path: Path) -> dict[str, str]:
    with content.safe_open(path, "pt") as file:
        return dict(file.metadata())


@pytest.mark.parametrize("damage", DAMAGES)
def test_shares_that_do_not_fit_change_nothing(tmp_path: Path, damage: str) -> None:
    """Whoever made them has made a manifest that fits."""
    path = save_shares(tmp_path)
    harm, said = DAMAGES[damage]
    harm(path / "weights-00002-of-00003.safetensors")
    names = {entry.name: {} for entry in path.iterdir()}
    model = gpt2(1)
    optimizer = adamw(model, fused=True)
    before = everything(model, optimizer)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_checkpoint(path, model, optimizer, silent, verified={"files": names, "meta": {}})
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert_same(everything(model, optimizer), before)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "CHECKPOINT FOLDER"),
        (("there", "no/such"), 2, "there is no folder"),
        (("gone", "new"), 4, "gone"),
        (("plain", "new"), 4, "is a plain folder already"),
        (("shares", "plain"), 4, "never overwritten"),
    ],
)
def test_what_cannot_be_consolidated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, said: str
) -> None:
    save(tmp_path, 1, *trained(gpt2)).rename(tmp_path / "plain")
    save_shares(tmp_path / "saved").rename(tmp_path / "shares")
    assert main([str(tmp_path / name) for name in arguments]) == code
    assert said in capsys.readouterr().err and not (tmp_path / "new").exists()
