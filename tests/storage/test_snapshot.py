"""Snapshots: the same files as `save_pretrained`, and values of one moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from est_cli.storage import content
from est_cli.storage.content import save_model
from est_cli.storage.tensors import Buffers, take_snapshot
from tests.lab.checkpoint_models import VOCAB, adamw, assert_same, everything, gpt2, llama, tokenizer, train

MODELS: dict[str, Callable[[int], PreTrainedModel]] = {
    "gpt2": gpt2,
    "llama": llama,
    "tied llama": lambda seed: llama(seed, tied=True),
}
each_model = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@each_model
def test_the_files_are_those_of_save_pretrained(tmp_path: Path, build: Callable[[int], PreTrainedModel]) -> None:
    model, words = build(0), tokenizer()
    train(model, adamw(model), range(2))
    save_model(tmp_path / "ours", take_snapshot(model, None), words, {})
    model.save_pretrained(tmp_path / "theirs")
    words.save_pretrained(tmp_path / "theirs")
    names = {path.name for path in (tmp_path / "theirs").iterdir()}
    assert {path.name for path in (tmp_path / "ours").iterdir()} == names | {"MANIFEST.json"}
    for name in names:
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes(), name
    with safe_open(tmp_path / "ours" / content.WEIGHTS, "pt") as weights:
        assert weights.metadata() == {"format": "pt"}


def test_a_snapshot_keeps_its_values_in_memory_that_is_used_again() -> None:
    model, buffers = gpt2(0), Buffers()
    optimizer = adamw(model)
    train(model, optimizer, range(2))
    before, config = everything(model, optimizer), model.config.to_dict()
    first = take_snapshot(model, optimizer, buffers)
    model.config.n_positions = 99
    train(model, optimizer, range(2, 4))
    assert_same({**first.weights, **first.moments}, before)
    assert first.config.to_dict() | {"dtype": ..., "architectures": ...} == config | {
        "dtype": ...,
        "architectures": ...,
    }
    memory = {name: tensor.data_ptr() for name, tensor in buffers.items()}
    after = everything(model, optimizer)
    second = take_snapshot(model, optimizer, buffers)
    assert_same({**second.weights, **second.moments}, after)
    assert {name: tensor.data_ptr() for name, tensor in buffers.items()} == memory


def test_a_layer_that_gets_its_first_gradient_between_two_snapshots_is_in_the_second() -> None:
    model, buffers = gpt2(0), Buffers()
    optimizer = adamw(model)
    first = take_snapshot(model, optimizer, buffers)
    train(model, optimizer, range(1))
    second = take_snapshot(model, optimizer, buffers)
    assert not first.moments
    assert {name.split("/")[1] for name in second.moments} == {"step", "exp_avg", "exp_avg_sq"}


@on_gpu
def test_on_a_gpu_the_training_goes_on_while_the_copies_arrive() -> None:
    model, buffers = llama(0).cuda(), Buffers()
    optimizer = adamw(model, fused=True)
    ids = torch.arange(VOCAB, device="cuda").view(8, 8)
    for first in (True, False, False):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda._sleep(200_000_000)  # the copies queue up behind this
        expected = everything(model, optimizer)
        taken = take_snapshot(model, optimizer, buffers)
        assert taken.arrived is not None
        assert first or not taken.arrived.query(), "nothing waits, once the memory is there"
        with torch.no_grad():
            for param in model.parameters():
                param.add_(1.0)
        taken.wait()
        assert_same({**taken.weights, **taken.moments}, {name: value.cpu() for name, value in expected.items()})
    assert all(tensor.is_pinned() for tensor in buffers.values())
