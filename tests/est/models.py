"""Tiny models of both families. Every size is odd on purpose: p * N is rarely an integer, so realised rates show."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel

VOCAB = 31
FAMILIES = ("gpt2", "llama")


def gpt2_config(**changes: Any) -> GPT2Config:
    """5 layers, 5 heads of 4, 23 columns."""
    sizes = {"vocab_size": VOCAB, "n_embd": 20, "n_head": 5, "n_layer": 5, "n_inner": 23, "n_positions": 24}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    settings = {"bos_token_id": 0, "eos_token_id": 0, "attn_implementation": "eager"}
    return GPT2Config(**(sizes | dropout | settings | changes))


def llama_config(**changes: Any) -> LlamaConfig:
    """5 layers, 9 query heads of 4 in 3 KV groups (36 wide, the model 18), 25 columns, biases everywhere."""
    sizes = {"vocab_size": VOCAB, "hidden_size": 18, "head_dim": 4, "num_attention_heads": 9, "num_key_value_heads": 3}
    more = {"num_hidden_layers": 5, "intermediate_size": 25, "max_position_embeddings": 24}
    biases = {"attention_bias": True, "mlp_bias": True}
    settings = {"bos_token_id": 0, "eos_token_id": 0, "attn_implementation": "eager"}
    return LlamaConfig(**(sizes | more | biases | settings | changes))


def config_of(family: str, **changes: Any) -> PreTrainedConfig:
    return gpt2_config(**changes) if family == "gpt2" else llama_config(**changes)


def build(config: PreTrainedConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model in training mode whose parameters, biases and norms included, are all random."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(config) if config.model_type == "gpt2" else LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.to(dtype).train()


def tokens(batch: int = 2, length: int = 7, seed: int = 0) -> torch.Tensor:
    """(batch, length) token ids."""
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))
