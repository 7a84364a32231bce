"""Documents of a sequence that do not see each other, in a plain Hugging Face model: positions that begin anew.

From them transformers makes the masks of its attention layers, whichever way attention is computed, windows among them.
B sequences, T tokens.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, masking_utils

from est_cli.common.errors import ConfigError
from est_cli.config.data import packing_problems
from est_cli.data.packing import document_positions
from est_cli.families import spec_of

SMALLEST_FLEX_HEAD = 16
MARK = "est_documents_apart"
"""In the config of a model: true where its training had dataset.packing=document."""


def document_inputs(model: PreTrainedModel, tokens: Tensor, end_of_text: int | None) -> dict[str, Any]:
    """What `model` takes beside `tokens` (B, T), so that each document, which `end_of_text` ends, is read
    as if it stood alone; nothing where that is None.

    Inside of packed_sequences() no value is waited for.
    """
    if end_of_text is None:
        return {}
    positions = document_positions(tokens, end_of_text)
    if model.config.model_type != "opt":
        return {"position_ids": positions}
    # OPT does not hand positions on to where its mask is made.
    like = tokens.new_zeros((), dtype=model.get_input_embeddings().weight.dtype).expand(*tokens.shape, 1)
    mask = masking_utils.create_causal_mask(model.config, like, None, None, position_ids=positions)
    return {"position_ids": positions, "attention_mask": mask}


def check_documents(config: Any, seq_len: int) -> None:
    """Raise ConfigError where documents in a sequence of so many tokens would be read otherwise than alone."""
    try:
        spec = spec_of(config)
    except ValueError as error:
        raise ConfigError(f"dataset.packing: document is for families that est knows ({error}); use across") from error
    for problem in packing_problems(spec):
        raise ConfigError(problem)
    longest = _longest_apart(config)
    if longest is not None and seq_len > longest:
        raise ConfigError(
            f"dataset.packing: {config.model_type} with longrope turns all documents of a batch by the longest of them "
            f"where that has more than {longest} positions; use across, or sequences of {longest} tokens"
        )


def use_flex_attention(config: Any, device: str) -> None:
    """Have the model of `config` compute attention block by block, leaving out blocks that no document reaches.

    In place. Raises ConfigError where that cannot be.
    """
    family, head_dim = config.model_type, spec_of(config).head_dim
    if device == "cpu":
        raise ConfigError("train.attention: flex has no backward pass on a CPU; use auto")
    if not AutoModelForCausalLM._model_mapping[type(config)]._supports_flex_attn:
        raise ConfigError(f"train.attention: transformers does not compute {family} by flex; use auto")
    if head_dim < SMALLEST_FLEX_HEAD:
        raise ConfigError(
            f"train.attention: flex needs heads of {SMALLEST_FLEX_HEAD} at least, not {head_dim}; use auto"
        )
    config._attn_implementation = "flex_attention"


def mark_documents(config: Any, apart: bool) -> None:
    """Have `config` say, in the config.json of each checkpoint, whether documents were apart; in place."""
    if apart:
        setattr(config, MARK, True)
    elif hasattr(config, MARK):  # of the checkpoint that is continued
        delattr(config, MARK)


def has_documents_apart(config: Any) -> bool:
    """Whether the model of `config` was trained on documents that did not see each other."""
    return getattr(config, MARK, False) is True


def _longest_apart(config: Any) -> int | None:
    """The longest sequence whose documents may be read together; None: any.

    Beyond the positions that it began with, `longrope` turns all of a batch by the longest in it.
    """
    ropes = getattr(config, "rope_parameters", None) or {}
    kinds = [ropes] if "rope_type" in ropes else ropes.values()
    found = [rope["original_max_position_embeddings"] for rope in kinds if rope["rope_type"] == "longrope"]
    return min(found, default=None)
