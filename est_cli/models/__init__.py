"""The model of a run: built or opened, its loss, its scan; what is looked at before a foreign folder is opened."""

from est_cli.models.build import (
    attention_masks,
    build_model,
    checkpoint_activations,
    empty_model,
    hf_config,
    packed_sequences,
    pinned,
    set_end_of_text,
    settle_positions,
    unpacked_sequences,
    uses_kernels,
)
from est_cli.models.foreign import quiet_transformers

__all__ = [
    "attention_masks",
    "build_model",
    "checkpoint_activations",
    "empty_model",
    "hf_config",
    "packed_sequences",
    "pinned",
    "quiet_transformers",
    "set_end_of_text",
    "settle_positions",
    "unpacked_sequences",
    "uses_kernels",
]
