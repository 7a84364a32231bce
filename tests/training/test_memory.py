"""The estimate, made on tensors without memory, against a real model that keeps real ones."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from est_cli.config import Attention, OptimConfig, OptimName, Precision
from est_cli.distributed.device import repeated_kv_heads
from est_cli.est import IndexGenerator, SamplingRates, apply_est, draw_positions
from est_cli.est.sizes import SamplingOptions
from est_cli.families import spec_of
from est_cli.models import checkpoint_activations
from est_cli.models.lm_loss import LmLoss
from est_cli.training import memory
from est_cli.training.memory import MemoryEstimate, estimate_memory
from est_cli.training.optim import build_optimizer, update
from tests.lab.est_models import FAMILIES, config_of

pytestmark = pytest.mark.slow

BATCH, SEQ_LEN = 3, 16
OPTIONS = SamplingOptions()
RATES = [SamplingRates(0.4, 0.6, 0.4), SamplingRates(0.4, 0.6, 1.0), SamplingRates()]
DRAWN = [SamplingRates(p_t=0.3), SamplingRates()]
SEQ_LENS = [SEQ_LEN] * len(RATES)


def small(family: str, **changes: Any) -> Any:
    return config_of(family, attn_implementation="sdpa", **changes)


def estimate(config: Any, bf16: bool = False, checkpointing: bool = False, loss: str = "chunked") -> MemoryEstimate:
    precision = Precision.bf16 if bf16 else Precision.fp32
    return estimate_memory(config, spec_of(config), OPTIONS, RATES, SEQ_LENS, precision, checkpointing, LmLoss(loss))


def kept(found: MemoryEstimate, batch: int = BATCH) -> list[int]:
    return [activations.of(batch) for activations in found.activations]


def really_kept(config: Any, rates: SamplingRates, bf16: bool, checkpointing: bool, loss: str, batch: int) -> int:
    """Bytes of the different storages that autograd holds at the end of a forward pass, parameters left out."""
    spec = spec_of(config)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    handle = apply_est(model, spec)
    if checkpointing:
        checkpoint_activations(model)
    handle.activate(IndexGenerator(spec, 0, OPTIONS).draw(0, rates))
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = torch.randint(0, config.vocab_size, (batch, SEQ_LEN))
    autocast = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor), autocast:
        graph = LmLoss(loss)(model, tokens, 1, drawn=draw_positions(0, 0, torch.arange(batch), SEQ_LEN, rates.p_t))
    assert graph.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


GROWING = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 2, "long_factor": [2.0] * 2, "rope_theta": 1e4}


@pytest.mark.parametrize(
    ("family", "rope"),
    [
        ("llama", GROWING),
        ("phi3", LONG | {"original_max_position_embeddings": 8}),
        ("gemma3_text", {"full_attention": GROWING, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}),
    ],
)
def test_positions_that_depend_on_the_length_of_the_sequence(family: str, rope: dict[str, Any]) -> None:
    """They look at values, which an estimate does not have."""
    config = small(family, rope_parameters=rope)
    assert kept(estimate(config)) == [really_kept(config, rates, False, False, "chunked", BATCH) for rates in RATES]


@pytest.mark.some(6)
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("loss", ["chunked", "whole"])
@pytest.mark.parametrize("family", FAMILIES)
def test_kept_activations_are_those_of_a_real_model(family: str, loss: str, checkpointing: bool, bf16: bool) -> None:
    """For any micro-batch, from an estimate that was made once."""
    config = small(family)
    found = estimate(config, bf16, checkpointing, loss)
    for batch in (1, BATCH, 8):
        assert kept(found, batch) == [really_kept(config, rates, bf16, checkpointing, loss, batch) for rates in RATES]


@pytest.mark.parametrize("loss", ["chunked", "whole"])
def test_drawn_positions_keep_fewer_logits(loss: str) -> None:
    config = small("gpt2")
    precision, lens = Precision.fp32, [SEQ_LEN] * len(DRAWN)
    found = estimate_memory(config, spec_of(config), OPTIONS, DRAWN, lens, precision, False, LmLoss(loss))
    assert kept(found) == [really_kept(config, rates, False, False, loss, BATCH) for rates in DRAWN]
    assert kept(found)[0] < kept(found)[1]


def test_repeated_kv_heads_are_kept_too() -> None:
    """As on a GPU whose kernels do not take grouped heads in fp32: K and V are as wide as Q."""
    config = small("llama")
    found = estimate_memory(
        config, spec_of(config), OPTIONS, RATES, SEQ_LENS, Precision.fp32, False, LmLoss(), Attention.auto, None, True
    )
    with repeated_kv_heads(True):
        repeated = [really_kept(config, rates, False, False, "chunked", BATCH) for rates in RATES]
    assert kept(found) == repeated
    spec = spec_of(config)
    wider = 2 * 4 * BATCH * SEQ_LEN * spec.head_dim * (spec.num_heads - spec.num_kv_heads) * spec.num_layers
    assert repeated[-1] - kept(estimate(config))[-1] == wider > 0


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", OptimName)
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_gradients_and_moments(family: str, name: OptimName, tied: bool) -> None:
    """As they are there after a step."""
    config, optim = small(family, tie_word_embeddings=tied), OptimConfig(name=name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    found = estimate_memory(
        config, spec_of(config), OPTIONS, RATES, SEQ_LENS, Precision.fp32, False, LmLoss("chunked"), optim=optim
    )
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    optimizer = build_optimizer(model, optim, apply_est(model, spec_of(config)))
    model(input_ids=torch.zeros(1, 4, dtype=torch.int64)).logits.sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    update(optimizer, 1e-3, 0.0, torch.tensor(1.0))
    moments = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    held = [*model.parameters(), *gradients, *moments]
    assert found.states == sum(tensor.nbytes for tensor in held)
    assert (found.states < 16 * found.parameters) is (name is OptimName.muon)


def test_a_smaller_subnetwork_and_checkpointing_keep_less() -> None:
    plain, checkpointed = (kept(estimate(small("gpt2"), checkpointing=on)) for on in (False, True))
    assert plain == sorted(plain) and len(set(plain)) == 3
    assert all(less < more for less, more in zip(checkpointed, plain, strict=True))
    config = small("gpt2")
    inputs_of_layers = config.n_layer * BATCH * SEQ_LEN * config.n_embd * 4
    assert checkpointed[-1] > inputs_of_layers  # they are what checkpointing has to keep


@pytest.mark.parametrize(
    ("limit", "free"),
    [
        ("max\n", 4000 * 1024),
        ("9000000\n", 4000 * 1024),
        ("3000000\n", 3_000_000 - (1_500_000 - 700_000)),
        (None, 4000 * 1024),
    ],
)
def test_memory_that_can_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, free: int
) -> None:
    """Of the machine, or of a container with less: its caches do not count as used."""
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:   4000 kB\nHugePages_Total:  0\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text("1500000\n")
        (tmp_path / "memory.stat").write_text("anon 800000\ninactive_file 700000\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.available_bytes() == free
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    assert 0 < memory.available_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_nothing_is_changed_by_estimating() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    estimate(small("gpt2"))
    assert torch.equal(torch.rand(1), expected)
    assert isinstance(torch.zeros(1), torch.Tensor) and not hasattr(torch.zeros(1), "fake_mode")
