"""Validation and text samples. B sequences, T tokens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from est_cli.models.lm_loss import Objective, target_count


def validation_loss(
    objective: Objective,
    batches: Iterable[Tensor],
    autocast: Callable[[], AbstractContextManager[None]],
    filled_to: int = 1,
) -> tuple[float, int]:
    """(sum of the loss over `batches` of (B, T) tokens, its targets), dropout off. Activate the full model first.

    An empty batch counts nothing, but runs a forward pass as all do: under FSDP the processes gather weights together.
    `filled_to`: smaller batches are filled up to so many sequences, so that no other shape is compiled for them.
    """
    model = objective.model
    exact = torch.float32 if model.device.type == "mps" else torch.float64  # Apple's GPUs have no double precision
    total, targets = torch.zeros((), dtype=exact), 0
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for tokens in batches:
            count, missing = len(tokens), max(filled_to - len(tokens), 0)
            here = torch.cat([tokens, tokens.new_zeros(missing, tokens.shape[1])]) if missing else tokens
            with autocast():
                loss = objective(here.to(model.device, non_blocking=True), 1, None, count if missing else None)
            if count:
                total, targets = total.to(loss.device) + loss, targets + target_count(tokens)
    model.train(was_training)
    return total.item(), targets


def sample_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, new_tokens: int, seed: int
) -> str:
    """`prompt` and a continuation drawn at temperature 0.8 from the 40 likeliest tokens; the global RNG is kept.

    Both are cut to the positions that the model has; an empty prompt is the end of a text.
    """
    positions = getattr(model.config, "max_position_embeddings", sys.maxsize)  # a state-space model has no limit
    read = tokenizer(prompt, add_special_tokens=False).input_ids  # training never saw what some put before a text
    ids = (read or [tokenizer.eos_token_id or 0])[1 - positions :]
    inputs = torch.tensor([ids], device=model.device)
    was_training = model.training
    model.eval()
    eager = torch.compiler.set_stance("force_eager")  # each length is a shape
    with random_states_kept(model.device), torch.no_grad(), eager:
        torch.manual_seed(seed)
        tokens = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=min(new_tokens, positions - len(ids)),
            do_sample=True,
            temperature=0.8,
            top_k=40,
            pad_token_id=tokenizer.eos_token_id,
        )
    model.train(was_training)
    return tokenizer.decode(tokens[0], skip_special_tokens=True)


def random_states_kept(device: torch.device) -> AbstractContextManager[None]:
    """torch's own, of the CPU and this device: of all GPUs it would open those of the other processes."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])
