"""Plain Hugging Face in a bare loop: the model as transformers makes it, its own loss, clipping, fused AdamW.

Eager, or as one graph with `compile` (torch.compile of the whole model, as nanoGPT does it).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from contenders import protocol
from contenders.protocol import Job


def hf_model(job: Job) -> Any:
    """In fp32 on the device, without dropout; everything else is the default of transformers."""
    config = _llama(job) if job.family == "llama" else _gpt2(job)
    torch.manual_seed(job.seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(job.device).train()


def _gpt2(job: Job) -> Any:
    return GPT2Config(
        vocab_size=job.vocab_size,
        n_embd=job.hidden_size,
        n_layer=job.num_layers,
        n_head=job.num_heads,
        n_positions=job.seq_len,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )


def _llama(job: Job) -> Any:
    return LlamaConfig(
        vocab_size=job.vocab_size,
        hidden_size=job.hidden_size,
        num_hidden_layers=job.num_layers,
        num_attention_heads=job.num_heads,
        num_key_value_heads=job.num_kv_heads,
        intermediate_size=job.mlp_size,
        max_position_embeddings=job.seq_len,
        bos_token_id=None,
        eos_token_id=None,
    )


def main() -> None:
    job, replies = protocol.connect()
    model = hf_model(job)
    forward = torch.compile(model) if job.compile else model

    def loss_of(tokens: Tensor) -> Tensor:
        loss: Tensor = forward(input_ids=tokens, labels=tokens, use_cache=False).loss
        return loss

    protocol.bare_loop(job, replies, model, loss_of)


if __name__ == "__main__":
    main()
