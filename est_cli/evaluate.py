"""Loss of next-token prediction, validation, and text samples. B sequences, T tokens, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

IGNORED = -100


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Sum of the cross-entropy (nats) of each token given those before it: logits (B, T, V), tokens (B, T).

    The labels are shifted, not the logits: slicing these would copy the largest tensor of the step.
    """
    labels = F.pad(tokens[:, 1:], (0, 1), value=IGNORED)
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def target_count(tokens: Tensor) -> int:
    """Predictions that `next_token_loss` sums over: all but the first token of each sequence."""
    return tokens.shape[0] * (tokens.shape[1] - 1)


def validation_loss(
    model: PreTrainedModel, batches: Iterable[Tensor], autocast: Callable[[], AbstractContextManager[None]]
) -> float:
    """Token mean of the loss over `batches` of (B, T) tokens, dropout off. Activate the full model first."""
    total, count = 0.0, 0
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for tokens in batches:
            tokens = tokens.to(model.device)
            with autocast():
                logits = model(input_ids=tokens, use_cache=False).logits
            total += next_token_loss(logits, tokens).item()
            count += target_count(tokens)
    model.train(was_training)
    return total / count


def sample_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, new_tokens: int, seed: int
) -> str:
    """`prompt` and a continuation drawn at temperature 0.8 from the 40 likeliest tokens; the global RNG is kept.

    Both are cut to the positions that the model has; an empty prompt is the end of a text.
    """
    positions = model.config.max_position_embeddings
    ids = (tokenizer(prompt).input_ids or [tokenizer.eos_token_id or 0])[1 - positions :]
    inputs = torch.tensor([ids], device=model.device)
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(), torch.no_grad():
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
