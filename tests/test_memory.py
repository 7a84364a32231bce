"""The estimate, made on tensors without memory, against a real model that keeps real ones."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from est_cli.arch import spec_of
from est_cli.est import IndexGenerator, SamplingRates, apply_est
from est_cli.est.sizes import SamplingOptions
from est_cli.evaluate import next_token_loss
from est_cli.memory import MemoryEstimate, estimate_memory
from est_cli.models import checkpoint_activations

from .est.models import FAMILIES, config_of

BATCH, SEQ_LEN = 3, 16
OPTIONS = SamplingOptions()
RATES = [SamplingRates(0.4, 0.6, 0.4), SamplingRates(0.4, 0.6, 1.0), SamplingRates()]


def small(family: str, **changes: Any) -> Any:
    return config_of(family, attn_implementation="sdpa", **changes)


def estimate(config: Any, batch: int = BATCH, bf16: bool = False, checkpointing: bool = False) -> MemoryEstimate:
    return estimate_memory(config, spec_of(config), OPTIONS, RATES, batch, SEQ_LEN, bf16, checkpointing)


def really_kept(config: Any, rates: SamplingRates, bf16: bool, checkpointing: bool) -> int:
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

    tokens = torch.randint(0, config.vocab_size, (BATCH, SEQ_LEN))
    autocast = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        with autocast:
            logits = model(input_ids=tokens, use_cache=False).logits
        loss = next_token_loss(logits, tokens)
    assert loss.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_kept_activations_are_those_of_a_real_model(family: str, checkpointing: bool, bf16: bool) -> None:
    config = small(family)
    wanted = [really_kept(config, rates, bf16, checkpointing) for rates in RATES]
    assert estimate(config, bf16=bf16, checkpointing=checkpointing).activations == wanted


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_gradients_and_moments(family: str, tied: bool) -> None:
    config = small(family, tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    found = estimate(config)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.zeros(1, 4, dtype=torch.int64)).logits.sum().backward()
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    held = [*model.parameters(), *(p.grad for p in model.parameters() if p.grad is not None), *moments]
    assert found.states == sum(tensor.nbytes for tensor in held)


def test_a_smaller_subnetwork_and_checkpointing_keep_less() -> None:
    kept, checkpointed = (estimate(small("gpt2"), checkpointing=on).activations for on in (False, True))
    assert kept == sorted(kept) and len(set(kept)) == 3
    assert all(less < more for less, more in zip(checkpointed, kept, strict=True))
    config = small("gpt2")
    inputs_of_layers = config.n_layer * BATCH * SEQ_LEN * config.n_embd * 4
    assert checkpointed[-1] > inputs_of_layers  # they are what checkpointing has to keep


def test_activations_grow_with_the_batch() -> None:
    one, two, four = (estimate(small("llama"), batch=batch).activations[-1] for batch in (1, 2, 4))
    assert four - two == 2 * (two - one) > 0


def test_nothing_is_changed_by_estimating() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    estimate(small("gpt2"))
    assert torch.equal(torch.rand(1), expected)
    assert isinstance(torch.zeros(1), torch.Tensor) and not hasattr(torch.zeros(1), "fake_mode")
