"""Small things whose Hessian can be written down, and processes that are one or that are made up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from est_cli import est
from est_cli.analysis.analysis_job import Loss, Text, loss_on
from est_cli.common.rank import Rank
from est_cli.distributed import Group
from est_cli.distributed.workers import WorkShare

VOCAB, LENGTH = 11, 6
M = TypeVar("M", bound=nn.Module)


def alone() -> WorkShare:
    return WorkShare(Group(Rank(), 60.0), lambda cost: None)


def share_of(rank: int, size: int) -> WorkShare:
    """One of several processes, which finds zeros in place of the others' cells."""
    group = Group(Rank(), 60.0)
    group.rank = Rank(rank, size, rank, size)
    return WorkShare(group, lambda cost: None)


def text(sequences: int = 4, batch: int = 2, seed: int = 0) -> Text:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCAB, (sequences, LENGTH), generator=generator)
    return Text(tokens.split(batch), "made up")


def gpt2(seed: int = 0) -> GPT2LMHeadModel:
    """Two layers of width 8 in double precision, all parameters random."""
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes: dict[str, Any] = {
        "n_embd": 8,
        "n_layer": 2,
        "n_head": 2,
        "n_inner": 8,
        "n_positions": LENGTH,
        "vocab_size": VOCAB,
    }
    return _random(lambda: GPT2LMHeadModel(GPT2Config(**sizes, **dropout, **EAGER)), seed)


def llama(seed: int = 0) -> LlamaForCausalLM:
    sizes: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    more = {"vocab_size": VOCAB, "max_position_embeddings": LENGTH}
    return _random(lambda: LlamaForCausalLM(LlamaConfig(**sizes, **more, **EAGER)), seed)


EAGER: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "attn_implementation": "eager"}


def _random(make: Callable[[], M], seed: int) -> M:
    torch.manual_seed(seed)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.double().eval()


def full_hessian(loss: Loss, batches: int, parameters: Mapping[str, Tensor]) -> Tensor:
    """(n, n), entry by entry a derivative of a derivative: no vector and no probe takes part."""
    inputs = list(parameters.values())
    total = sum(loss(batch) for batch in range(batches))
    gradients = torch.autograd.grad(total, inputs, create_graph=True)
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    rows = torch.autograd.grad(flat, inputs, torch.eye(len(flat), dtype=flat.dtype), is_grads_batched=True)
    return torch.cat([row.reshape(len(flat), -1) for row in rows], dim=1)


def loss_of(model: nn.Module) -> tuple[Loss, int]:
    given = text()
    return loss_on(model, given), len(given.batches)  # type: ignore[arg-type]


class LinearLayer(nn.Module):
    """Columns without an activation, so that the output is linear in what is drawn."""

    def __init__(self, width: int, columns: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, columns), nn.Linear(columns, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x))


class LinearToy(nn.Module):
    def __init__(self, num_layers: int = 1, width: int = 4, columns: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LinearLayer(width, columns) for _ in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def toy_spec(num_layers: int = 1, width: int = 4, columns: int = 6) -> est.ModelSpec:
    projections = (
        est.Projection("up", width, columns, "column", "out"),
        est.Projection("down", columns, width, "column", "in"),
    )
    return est.ModelSpec("toy", "layers", num_layers, 1, 1, width, columns, width, 0, None, projections, ("down",))
