"""Training checkpoints: continuing is the same to the last bit, other tools open them, hostile ones do no harm."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import est_cli
from est_cli.common.errors import CheckpointError, NumericsError, StorageError
from est_cli.storage import content, manifest, store
from est_cli.storage.content import load_checkpoint, save_model
from est_cli.storage.tensors import take_snapshot
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


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = gpt2(0)
    optimizer = adamw(model)
    train(model, optimizer, range(3))
    return save(tmp_path / "checkpoints", 3, model, optimizer, tokenizer(), run="a")


OPTIMIZERS: dict[str, Callable[[PreTrainedModel], Optimizer]] = {
    "fused": lambda model: adamw(model, fused=True),
    "foreach": lambda model: adamw(model, foreach=True),
    "amsgrad": lambda model: adamw(model, amsgrad=True),
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9),
    "sgd without state": lambda model: torch.optim.SGD(model.parameters(), lr=1e-2),
    "adafactor": lambda model: torch.optim.Adafactor(model.parameters(), lr=1e-2),
}
MODELS = {"gpt2": gpt2, "llama": llama, "tied llama": lambda seed: llama(seed, tied=True)}


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("model_name", MODELS)
def test_continuing_after_save_and_load_is_the_same_to_the_last_bit(
    tmp_path: Path, model_name: str, optimizer_name: str
) -> None:
    build, make = MODELS[model_name], OPTIMIZERS[optimizer_name]
    model = build(0)
    optimizer = make(model)
    train(model, optimizer, range(3))
    at_save, with_state = everything(model, optimizer), len(optimizer.state)
    path = save(tmp_path / "checkpoints", 3, model, optimizer)
    assert len(optimizer.state) == with_state
    assert_same(everything(model, optimizer), at_save)
    train(model, optimizer, range(3, 8))

    other = build(1)
    restored = make(other)
    train(other, restored, range(5, 6))  # gives layers a state that the checkpoint does not have
    before = {name: id(param) for name, param in other.named_parameters()}
    assert load_checkpoint(path, other, restored, silent) == STATE
    assert_same(everything(other, restored), at_save)
    assert {name: id(param) for name, param in other.named_parameters()} == before
    train(other, restored, range(3, 8))
    assert_same(everything(other, restored), everything(model, optimizer))


def test_a_layer_without_state_stays_without(saved: Path) -> None:
    names = set(load_file(saved / content.OPTIMIZER))
    assert "transformer.h.0.mlp.c_fc.weight/exp_avg" in names and "transformer.h.0.mlp.c_fc.weight/step" in names
    assert not [name for name in names if ".h.1." in name or ".h.2." in name]


def test_a_dtype_narrower_than_the_moments(tmp_path: Path) -> None:
    model = gpt2(0).to(torch.bfloat16)
    optimizer = adamw(model)
    train(model, optimizer, range(2))
    for state in optimizer.state.values():
        state["exp_avg"] = state["exp_avg"].float()
    path = save(tmp_path, 2, model, optimizer)
    other = gpt2(1).to(torch.bfloat16)
    restored = adamw(other)
    load_checkpoint(path, other, restored, silent)
    assert_same(everything(other, restored), everything(model, optimizer))


def test_both_kinds_of_folder_open_with_transformers(tmp_path: Path, saved: Path) -> None:
    model = gpt2(0)
    train(model, adamw(model), range(3))
    save_model(tmp_path / "model", take_snapshot(model, None), tokenizer(), {})
    assert not (tmp_path / "model" / content.STATE).exists()
    ids = torch.arange(8)[None]
    for path in (saved, tmp_path / "model"):
        opened = AutoModelForCausalLM.from_pretrained(path)
        assert torch.equal(opened(ids).logits, model.eval()(ids).logits)
        assert AutoTokenizer.from_pretrained(path)("w3 w5").input_ids == [3, 5]
        assert (path / "generation_config.json").exists()


def test_the_manifest_says_with_what_it_was_made(saved: Path) -> None:
    meta = store.verify_folder(saved)["meta"]
    assert meta["run"] == "a"
    assert meta["versions"]["torch"] == version("torch")
    assert meta["versions"]["est-cli"] == est_cli.__version__
    assert meta["threads"] == torch.get_num_threads()
    assert "git_commit" in meta


def test_no_progress_bar_on_the_way(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_model(saved.parent / "model", take_snapshot(gpt2(0), None), tokenizer(), {})
    assert capfd.readouterr() == ("", "")


def test_other_threads_or_libraries_are_one_warning(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    monkeypatch.setattr(content, "versions", lambda: {"torch": "9.9"})
    lines: list[str] = []
    model = gpt2(1)
    load_checkpoint(saved, model, adamw(model), lines.append)
    assert len(lines) == 1 and "77 now" in lines[0] and "9.9 now" in lines[0] and "\n" not in lines[0]


@pytest.mark.parametrize(("then", "lines"), [(None, 0), ("0.0.9", 1)])
def test_another_version_of_est_is_told_where_the_checkpoint_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str | None, lines: int
) -> None:
    model = gpt2(0)
    libraries = {name: version for name, version in content.versions().items() if name != "est-cli"}
    with monkeypatch.context() as earlier:
        earlier.setattr(content, "versions", lambda: libraries | ({"est-cli": then} if then else {}))
        path = save(tmp_path / "checkpoints", 1, model, adamw(model))
    told: list[str] = []
    load_checkpoint(path, model, adamw(model), told.append)
    assert len(told) == lines and all(f"est-cli 0.0.9 then, {est_cli.__version__} now" in line for line in told)


@pytest.mark.parametrize("where", ["weight", "moment"])
def test_values_that_are_not_finite_are_never_saved(tmp_path: Path, where: str) -> None:
    model = gpt2(0)
    optimizer = adamw(model)
    train(model, optimizer, range(2))
    weight = model.transformer.h[0].mlp.c_fc.weight
    tensor = weight if where == "weight" else optimizer.state[weight]["exp_avg"]
    with torch.no_grad():
        tensor.view(-1)[5] = float("inf")
    with pytest.raises(NumericsError, match=r"transformer\.h\.0\.mlp\.c_fc\.weight.*not finite"):
        save(tmp_path / "checkpoints", 1, model, optimizer)
    if where == "weight":
        with pytest.raises(NumericsError):
            save_model(tmp_path / "model", take_snapshot(model, None), None, {})
    assert list(tmp_path.iterdir()) == []


def test_an_intact_checkpoint_of_the_same_step_stays_and_later_ones_are_set_aside(saved: Path) -> None:
    model = gpt2(1)
    optimizer = adamw(model)
    folder = saved.parent
    later = save(folder, 9, model, optimizer)
    before = (saved / "MANIFEST.json").read_bytes()
    assert save(folder, 3, model, optimizer) == saved
    assert (saved / "MANIFEST.json").read_bytes() == before
    assert not later.exists() and store.is_intact(folder / "aside-step-000009-0")
    (saved / content.STATE).unlink()
    save(folder, 3, model, optimizer)
    assert store.is_intact(saved) and (folder / "aside-step-000003-0").exists()


def test_a_second_final_model_does_not_overwrite_the_first(tmp_path: Path) -> None:
    for seed in (0, 1):
        save_model(tmp_path / "model", take_snapshot(gpt2(seed), None), None, {})
    assert store.is_intact(tmp_path / "model") and store.is_intact(tmp_path / "aside-model-0")


def test_a_full_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A link to the device that is always full, where the optimizer's file goes: the kernel's own ENOSPC.
    real = content.save_file

    def on_a_full_disk(tensors: dict[str, Tensor], path: Path, **options: Any) -> None:
        if path.name == content.OPTIMIZER:
            with open("/dev/full", "wb", buffering=0) as full:
                full.write(b"x")
        real(tensors, path, **options)

    model = gpt2(0)
    monkeypatch.setattr(content, "save_file", on_a_full_disk)
    with pytest.raises(StorageError, match="ENOSPC"):
        save(tmp_path / "checkpoints", 1, model, adamw(model))
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_errors_of_safetensors_and_tokenizers_about_the_disk_are_storage_errors(tmp_path: Path) -> None:
    def save_weights(folder: Path) -> None:
        save_file({"a": torch.zeros(1)}, folder / "a.safetensors")

    def save_tokenizer(folder: Path) -> None:
        tokenizer().backend_tokenizer.save(str(folder / "tokenizer.json"))

    for write in (save_weights, save_tokenizer):

        def fill(tmp: Path, write: Callable[[Path], None] = write) -> None:
            write(tmp / "no folder")

        with pytest.raises(StorageError, match="ENOENT"):
            store.write_folder(tmp_path / "model", fill, {})


def test_what_was_just_verified_is_not_read_a_second_time(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = store.newest_valid(saved.parent, silent)
    assert found is not None
    monkeypatch.setattr(store, "verify_folder", lambda path: pytest.fail("verified again"))
    model = gpt2(1)
    assert load_checkpoint(found[0], model, adamw(model), silent, verified=found[1]) == STATE


def reseal(path: Path, **replaced: bytes | None) -> None:
    """Replace files of a checkpoint (None: drop) and write a manifest that agrees, as an attacker would."""
    for stem, data in replaced.items():
        file = path / next(p.name for p in path.iterdir() if p.stem == stem)
        file.unlink()
        if data is not None:
            file.write_bytes(data)
    (path / manifest.MANIFEST).unlink()
    files = {
        p.name: {"sha256": hashlib.sha256(p.read_bytes()).hexdigest(), "bytes": p.stat().st_size}
        for p in path.iterdir()
    }
    (path / manifest.MANIFEST).write_bytes(manifest.render(files, {}))


def assert_refused(path: Path, *words: str, model: PreTrainedModel | None = None) -> None:
    model = gpt2(1) if model is None else model
    optimizer = adamw(model)
    train(model, optimizer, range(1))
    before = everything(model, optimizer)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, model, optimizer, silent)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message
    assert_same(everything(model, optimizer), before)


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("stem", ["model", "optim", "state"])
def test_a_pickle_in_any_place_is_refused_and_not_run(saved: Path, tmp_path: Path, stem: str) -> None:
    reseal(saved, **{stem: pickle.dumps(Canary(tmp_path / "canary"))})
    assert_refused(saved, f"{stem}.")
    assert not (tmp_path / "canary").exists()


def test_a_header_of_a_huge_tensor_is_refused(saved: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4 * 10**18]}}).encode()
    reseal(saved, model=len(header).to_bytes(8, "little") + header)
    assert_refused(saved, "model.safetensors")
    reseal(saved, model=(1 << 62).to_bytes(8, "little"))
    assert_refused(saved, "model.safetensors")


@pytest.mark.parametrize("state", [b'{"step": 1, "step": 2}', b'{"loss": NaN}', b"[]", b"{"])
def test_a_state_that_is_not_strict_json_is_refused(saved: Path, state: bytes) -> None:
    reseal(saved, state=state)
    assert_refused(saved, "state.json")


@pytest.mark.parametrize("stem", ["model", "optim", "state"])
def test_a_checkpoint_without_one_of_its_parts_is_refused(saved: Path, stem: str) -> None:
    reseal(saved, **{stem: None})
    assert_refused(saved, f"{stem}.", "missing")


def test_a_damaged_file_is_refused_by_name(saved: Path) -> None:
    data = bytearray((saved / content.WEIGHTS).read_bytes())
    data[-100] ^= 1
    (saved / content.WEIGHTS).write_bytes(data)
    assert_refused(saved, "model.safetensors", "SHA-256")


def test_weights_of_another_model_are_refused_before_anything_changes(saved: Path) -> None:
    assert_refused(saved, "model.safetensors", "[64, 16]", model=gpt2(1, width=32))
    assert_refused(saved, "model.safetensors", "F32", model=gpt2(1).to(torch.bfloat16))
    assert_refused(saved, "model.safetensors", "of another model", model=llama(1))


def edited(path: Path, change: Callable[[dict[str, Tensor]], object]) -> bytes:
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)
    return path.read_bytes()


def test_a_tensor_too_many_or_too_few_is_refused(saved: Path) -> None:
    weights = saved / content.WEIGHTS
    reseal(saved, model=edited(weights, lambda tensors: tensors.update(extra=torch.zeros(1))))
    assert_refused(saved, "extra")
    reseal(saved, model=edited(weights, lambda tensors: tensors.pop("extra")))
    reseal(saved, model=edited(weights, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(64, 16)})))
    assert_refused(saved, "2 times")
    reseal(saved, model=edited(weights, lambda tensors: tensors.pop("lm_head.weight")))
    reseal(saved, model=edited(weights, lambda tensors: tensors.pop("transformer.ln_f.bias")))
    assert_refused(saved, "transformer.ln_f.bias", "0 times")


@pytest.mark.parametrize(
    ("entry", "shape"), [("nobody/exp_avg", (1,)), ("step", ()), ("transformer.ln_f.bias/exp_avg", (17,))]
)
def test_optimizer_state_that_fits_nothing_is_refused(saved: Path, entry: str, shape: tuple[int, ...]) -> None:
    changed = edited(saved / content.OPTIMIZER, lambda tensors: tensors.update({entry: torch.zeros(shape)}))
    reseal(saved, optim=changed)
    assert_refused(saved, "optim.safetensors", entry)
