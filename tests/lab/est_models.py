"""Tiny models of every family. Every size is odd on purpose: p * N is rarely an integer, so realised rates show.

All biases and options that add parameters are on, windows are shorter than the sequences, caps and factors not 1.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

VOCAB = 31
FAMILIES = ("gpt2", "llama")
"""The two that every test of the method goes through; test_families.py goes through all."""


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


SIZES = {"vocab_size": VOCAB, "num_hidden_layers": 5, "max_position_embeddings": 24}
SETTINGS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, "attn_implementation": "eager"}
GROUPS = {"num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 25}
NARROW = {**GROUPS, "hidden_size": 18, "head_dim": 4}
"""9 heads of 4, wider than the model."""
SQUARE = {**GROUPS, "hidden_size": 36}
FIVE = {"hidden_size": 20, "num_attention_heads": 5}
HALF_TURNED = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}
ALTERNATING = ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"]

OTHERS: dict[str, dict[str, Any]] = {
    "gemma": {**NARROW, "attention_bias": True},
    "gemma2": {
        **NARROW,
        "attention_bias": True,
        "sliding_window": 4,
        "query_pre_attn_scalar": 3,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 1.5,
    },
    "gemma3_text": {
        **NARROW,
        "attention_bias": True,
        "sliding_window": 4,
        "layer_types": ALTERNATING,
        "query_pre_attn_scalar": 3,
        "final_logit_softcapping": 1.5,
    },
    "gpt_neox": {**FIVE, "intermediate_size": 23, "rope_parameters": HALF_TURNED},
    "granite": {
        **SQUARE,
        "attention_bias": True,
        "mlp_bias": True,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.4,
        "residual_multiplier": 0.7,
        "logits_scaling": 3.0,
    },
    "mistral": {**NARROW, "sliding_window": 4},
    "olmo2": {**SQUARE, "attention_bias": True},
    "opt": {**FIVE, "ffn_dim": 23, "word_embed_proj_dim": 20, "dropout": 0.0},
    "phi": {**SQUARE, "rope_parameters": HALF_TURNED},
    "phi3": {**SQUARE, "sliding_window": 4, "rope_parameters": HALF_TURNED},
    "qwen2": SQUARE,
    "qwen3": {**NARROW, "attention_bias": True},
    "smollm3": {**SQUARE, "attention_bias": True, "mlp_bias": True, "no_rope_layer_interval": 2},
    "stablelm": {**SQUARE, "use_qkv_bias": True, "rope_parameters": HALF_TURNED},
    "starcoder2": {**SQUARE, "sliding_window": 4},
}
"""What config_of() adds to SIZES and SETTINGS."""

ALL_FAMILIES = (*FAMILIES, *OTHERS)
"""Every attention family."""


def config_of(family: str, **changes: Any) -> PreTrainedConfig:
    if family == "gpt2":
        return gpt2_config(**changes)
    if family == "llama":
        return llama_config(**changes)
    return AutoConfig.for_model(family, **(SIZES | SETTINGS | OTHERS[family] | changes))


def build(config: PreTrainedConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model in training mode whose parameters, biases and norms included, are all random."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.to(dtype).train()


def tokens(batch: int = 2, length: int = 7, seed: int = 0) -> torch.Tensor:
    """(batch, length) token ids."""
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))
