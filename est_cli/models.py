"""Build the model of a run: from the numbers of a preset, or from a Hugging Face config or checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel, masking_utils

from est_cli.arch import spec_of
from est_cli.config import Family, ModelConfig
from est_cli.data.hub import require_hub
from est_cli.errors import ConfigError

CODE_KEYS = ("auto_map", "_attn_implementation_internal")
"""Keys of a config.json that would load or choose code; a config with one of them is refused."""


def hf_config(model: ModelConfig, end_of_text_id: int | None = None) -> Any:
    """The Hugging Face config of the run's model. Raises ConfigError for a model that EST does not support."""
    config = _loaded_config(model) if model.family is Family.hf else _preset_config(model)
    if end_of_text_id is not None and not (model.family is Family.hf and model.pretrained):
        config.bos_token_id = config.eos_token_id = end_of_text_id
    try:
        spec_of(config)
    except ValueError as error:
        raise ConfigError(str(error).replace("model:", "model.name_or_path:", 1)) from error
    _set_dropout(config, model.dropout)
    return config


def build_model(model: ModelConfig, config: Any, seed: int) -> PreTrainedModel:
    """The model in fp32 on the CPU: pre-trained weights under family=hf, otherwise initialised from `seed`."""
    torch.manual_seed(seed)
    if model.family is Family.hf and model.pretrained:
        return _pretrained(str(model.name_or_path), config)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Recompute each layer in the backward pass instead of keeping its activations."""
    if hasattr(model, "activation_checkpointing_enable"):  # transformers 5.23 renamed it
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


@contextmanager
def unpacked_sequences() -> Iterator[None]:
    """Tell transformers that no row of a batch holds several sequences, instead of letting it look.

    Looking reads values of the position ids, which fake tensors do not have.
    """
    look = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = look


def _preset_config(model: ModelConfig) -> Any:
    if model.family is Family.gpt2:
        return GPT2Config(
            vocab_size=model.vocab_size,
            n_embd=model.hidden_size,
            n_layer=model.num_layers,
            n_head=model.num_heads,
            n_inner=model.mlp_size,
            n_positions=model.max_positions,
            tie_word_embeddings=True if model.tie_embeddings is None else model.tie_embeddings,
            bos_token_id=None,
            eos_token_id=None,
        )
    assert model.hidden_size is not None
    rope = {"rope_type": "default", "rope_theta": 10000.0 if model.rope_theta is None else model.rope_theta}
    return LlamaConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        num_key_value_heads=model.num_kv_heads,
        intermediate_size=4 * model.hidden_size if model.mlp_size is None else model.mlp_size,
        max_position_embeddings=model.max_positions,
        tie_word_embeddings=bool(model.tie_embeddings),
        bos_token_id=None,
        eos_token_id=None,
        rope_parameters=rope,
    )


def _loaded_config(model: ModelConfig) -> Any:
    name = str(model.name_or_path)
    local = _is_local(name)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=local)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"model.name_or_path: {name} holds no config that transformers can read: {reason}") from error
    code = [key for key in CODE_KEYS if config.to_dict().get(key)]
    if code:
        keys = ", ".join(code)
        raise ConfigError(f"model.name_or_path: {name} would choose code to run ({keys} in config.json); remove that")
    return config


def _is_local(name: str) -> bool:
    """Whether `name` is a folder; a hub id is looked up quickly, so that being offline is told in seconds."""
    if Path(name).is_dir():
        return True
    if name.startswith((".", "/", "~")):
        raise ConfigError(f"model.name_or_path: there is no folder {name}")
    require_hub("model.name_or_path", name, "give the folder of a downloaded model")
    return False


def _pretrained(name: str, config: Any) -> PreTrainedModel:
    try:
        return AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=Path(name).is_dir(),
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"model.name_or_path: {name} has no weights in safetensors ({reason}); model.pretrained=false starts afresh"
        ) from error


def _set_dropout(config: Any, dropout: float) -> None:
    """Hugging Face's GPT-2 has dropout 0.1 by default; the run's own value counts in every family."""
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, dropout)
