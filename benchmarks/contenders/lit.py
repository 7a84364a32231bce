"""litgpt's model and its loss in a bare loop, as its pretrain.py has them; runs in litgpt's own environment."""

from __future__ import annotations

import torch
from litgpt import GPT, Config  # type: ignore[import-not-found, unused-ignore]
from litgpt.utils import chunked_cross_entropy  # type: ignore[import-not-found, unused-ignore]
from torch import Tensor, nn

from contenders import protocol
from contenders.protocol import Job


def build(job: Job) -> nn.Module:
    """The Llama of the job's sizes, with weights drawn as Llama's are."""
    config = Config(
        block_size=job.seq_len,
        padded_vocab_size=job.vocab_size,
        n_layer=job.num_layers,
        n_head=job.num_heads,
        n_query_groups=job.num_kv_heads,
        n_embd=job.hidden_size,
        intermediate_size=job.mlp_size,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    torch.manual_seed(job.seed)
    model = GPT(config)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    return model.to(job.device).train()


def main() -> None:
    job, replies = protocol.connect()
    model = build(job)
    forward = torch.compile(model) if job.compile else model

    def loss_of(tokens: Tensor) -> Tensor:
        logits = forward(tokens)
        loss: Tensor = chunked_cross_entropy(logits[:, :-1], tokens[:, 1:], chunk_size=0)
        return loss

    protocol.bare_loop(job, replies, model, loss_of)


if __name__ == "__main__":
    main()
