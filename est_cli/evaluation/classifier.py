"""A checkpoint as a classifier: examples as token ids, their order and batches, and the model with a new head.

B examples, T tokens, D model, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoModelForSequenceClassification, PreTrainedModel

from est_cli.common.errors import CheckpointError
from est_cli.est.hashing import hash_numbers
from est_cli.evaluation.glue import Example
from est_cli.models.pretrained import Checkpoint, in_body, load_model

Row = dict[str, list[int]]
"""`input_ids`, and `token_type_ids` for a model that tells two texts apart by them."""


@dataclass(frozen=True)
class Encoded:
    """Examples of one split as a model reads them."""

    rows: list[Row]
    labels: list[float]
    truncated: int
    """Rows that were longer than the model can read."""

    def __len__(self) -> int:
        return len(self.rows)


def encode(examples: Sequence[Example], checkpoint: Checkpoint, max_tokens: int) -> Encoded:
    """Token ids as the checkpoint's tokenizer makes them; of too long pairs the longer text loses its end first.

    A tokenizer that sets no mark between two texts, such as GPT-2's, gets a line break there.
    """
    texts = [example.texts for example in examples]
    if texts and len(texts[0]) == 2 and not _marks_pairs(checkpoint):
        texts = [(first, f"\n{second}") for first, second in texts]
    rows, truncated = [], 0
    for batch in (texts[at : at + 1000] for at in range(0, len(texts), 1000)):
        for text, row in zip(batch, _rows(batch, checkpoint, None), strict=True):
            if len(row["input_ids"]) > max_tokens:
                truncated += 1
                (row,) = _rows([text], checkpoint, max_tokens)
            rows.append(row)
    return Encoded(rows, [example.label for example in examples], truncated)


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """A permutation of range(count), a pure function of seed and epoch (0-based)."""
    generator = torch.Generator().manual_seed(hash_numbers((seed, epoch)))
    return torch.randperm(count, generator=generator).tolist()


def steps_of(count: int, batch_size: int, epochs: float) -> tuple[int, int]:
    """(optimizer steps in all, and in a whole epoch); the last batch of an epoch may be smaller."""
    per_epoch = math.ceil(count / batch_size)
    return max(1, math.ceil(per_epoch * epochs - 1e-9)), per_epoch


def collate(rows: Sequence[Row], pad_id: int, device: torch.device) -> dict[str, Tensor]:
    """(B, T) of each part of the rows, filled up on the right, and `attention_mask`."""
    longest = max(len(row["input_ids"]) for row in rows)
    batch = {"attention_mask": [[1] * len(row["input_ids"]) for row in rows]}
    batch |= {name: [row[name] for row in rows] for name in rows[0]}
    fill = {"input_ids": pad_id}
    padded = {
        name: [ids + [fill.get(name, 0)] * (longest - len(ids)) for ids in columns] for name, columns in batch.items()
    }
    return {name: torch.tensor(columns).to(device, non_blocking=True) for name, columns in padded.items()}


def _rows(texts: Sequence[tuple[str, ...]], checkpoint: Checkpoint, max_tokens: int | None) -> list[Row]:
    columns = [list(column) for column in zip(*texts, strict=True)]
    typed = getattr(checkpoint.config, "type_vocab_size", 1) > 1
    encoded = checkpoint.tokenizer(
        *columns,
        truncation="longest_first" if max_tokens else False,
        max_length=max_tokens,
        return_token_type_ids=typed,
        return_attention_mask=False,
        verbose=False,
    )
    rows = [{name: ids[number] for name, ids in encoded.items()} for number in range(len(texts))]
    return [row if row["input_ids"] else {name: [checkpoint.pad_id] for name in row} for row in rows]  # an empty text


def _marks_pairs(checkpoint: Checkpoint) -> bool:
    """Whether the tokenizer puts something of its own between (or around) two texts."""
    return checkpoint.tokenizer.num_special_tokens_to_add(pair=True) > 0


def load_classifier(checkpoint: Checkpoint, outputs: int, seed: int, dropout: float | None) -> PreTrainedModel:
    """The model with a new head of so many `outputs`, a pure function of `seed`, in fp32 on the CPU."""
    if getattr(checkpoint.config, "is_encoder_decoder", False):
        raise CheckpointError(f"{checkpoint.place}: encoder-decoder models are not supported; give one or the other")
    if type(checkpoint.config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise CheckpointError(
            f"{checkpoint.place}: transformers has no classifier of the family {checkpoint.config.model_type}; "
            "task=perplexity and task=lm_eval:NAME can evaluate it"
        )
    torch.manual_seed(seed)
    model = load_model(AutoModelForSequenceClassification, checkpoint, dropout, outputs)
    torch.manual_seed(seed)
    _initialise_head(model)
    return model


def logits_of(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """(B, C): `input_ids`, `attention_mask` (B, T), padded on the right.

    Of a decoder at the last token of the text, which the mask tells. transformers looks for the last token that is not
    pad_token_id: the wrong one where a text ends with the token that is also used for padding.
    """
    if not hasattr(model, "score"):
        return model(**inputs).logits
    hidden = model.base_model(**inputs, use_cache=False).last_hidden_state  # (B, T, D)
    last = inputs["attention_mask"].sum(1) - 1
    return model.score(hidden[torch.arange(len(last), device=last.device), last])


def _initialise_head(model: PreTrainedModel) -> None:
    """A head that the checkpoint brings along, from an earlier fine-tuning, is not used."""
    deviation = float(getattr(model.config, "initializer_range", None) or 0.02)
    for name, parameter in model.named_parameters():
        if not in_body(model, name):
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=deviation)
            else:
                nn.init.constant_(parameter, float(name.endswith("weight")))
