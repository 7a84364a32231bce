"""A checkpoint as a classifier.

B examples, T tokens, D model, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoModelForSequenceClassification, PreTrainedModel

from est_cli.common.errors import CheckpointError
from est_cli.models.pretrained import Checkpoint, in_body, load_model


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
