"""Checkpoints of two layers with a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

POSITIONS = 48
END = "<|end|>"
SIZES: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 1}


def gpt2(**sizes: Any) -> GPT2LMHeadModel:
    config = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS, "vocab_size": 260}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(**{**SIZES, **config, **dropout, **sizes}))


def llama(**sizes: Any) -> LlamaForCausalLM:
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    positions = {"max_position_embeddings": POSITIONS, "vocab_size": 260}
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **config, **positions, **sizes}))


def bert(**sizes: Any) -> BertForMaskedLM:
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "pad_token_id": 0}
    positions = {"max_position_embeddings": POSITIONS, "vocab_size": 260}
    return BertForMaskedLM(BertConfig(**{**config, **dropout, **positions, **sizes}))


def byte_tokenizer(encoder: bool = False) -> PreTrainedTokenizerFast:
    """A token for each byte: ids 4 ...; an encoder's puts marks around texts."""
    special = ["[PAD]", END, "[CLS]", "[SEP]"]
    vocabulary = {
        token: number for number, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if not encoder:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")


MODELS = {"gpt2": gpt2, "llama": llama, "bert": bert}


def save(folder: Path, family: str = "gpt2", tokenizer: bool = True, seed: int = 0, **sizes: Any) -> Path:
    torch.manual_seed(seed)
    MODELS[family](**sizes).save_pretrained(folder)
    if tokenizer:
        byte_tokenizer(encoder=family == "bert").save_pretrained(folder)
    return folder
