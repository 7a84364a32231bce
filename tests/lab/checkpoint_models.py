"""Small models that train for a few steps, checkpoints of them, and whether two are the same to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.optim import Optimizer
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from est_cli.storage.content import save_checkpoint
from est_cli.storage.tensors import take_snapshot

LAYERS = 3
VOCAB = 64
STATE = {"step": 3, "tokens": 96, "flops": 1.1e18, "wandb_id": "abc"}


def gpt2(seed: int, width: int = 16) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=width, n_layer=LAYERS, n_head=2, n_positions=8, bos_token_id=0, eos_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def llama(seed: int, tied: bool = False) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=32, max_position_embeddings=8, tie_word_embeddings=tied, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words)


def adamw(model: PreTrainedModel, **options: Any) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, **options)


def train(model: PreTrainedModel, optimizer: Optimizer, steps: range) -> None:
    """The batch is a function of the step. Layer 1 never gets a gradient, layer 2 from step 5 on, as if skipped."""
    for step in steps:
        ids = torch.randint(VOCAB, (2, 8), generator=torch.Generator().manual_seed(step))
        model(input_ids=ids, labels=ids).loss.backward()
        for name, param in model.named_parameters():
            if ".1." in name or (".2." in name and step < 5):
                param.grad = None
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def save(folder: Path, step: int, model: PreTrainedModel, optimizer: Optimizer, words: Any = None, **meta: str) -> Path:
    """A checkpoint of the model as it is, written at once."""
    return save_checkpoint(folder, step, take_snapshot(model, optimizer), words, STATE, meta)


def everything(model: PreTrainedModel, optimizer: Optimizer) -> dict[str, Tensor]:
    found = dict(model.named_parameters())
    for name, param in model.named_parameters():
        for key, value in optimizer.state.get(param, {}).items():
            found[f"{name}/{key}"] = value
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        other = found[name]
        assert (other.dtype, other.shape, other.device) == (tensor.dtype, tensor.shape, tensor.device), name
        assert torch.equal(other, tensor), name


def silent(message: str) -> None:
    raise AssertionError(message)
