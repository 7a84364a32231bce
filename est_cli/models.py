"""Build the model of a run: from the numbers of a preset, or from a Hugging Face config or checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    masking_utils,
)
from transformers.utils import logging

from est_cli.arch import spec_of
from est_cli.config import Family, ModelConfig
from est_cli.data.hub import require_hub
from est_cli.errors import ConfigError

CODE_KEYS = (
    "auto_map",
    "_attn_implementation_internal",
    "_attn_implementation",
    "attn_implementation",
    "quantization_config",
)
"""Keys of a config.json that load or choose code (an attention may name a repository); they are refused."""


def hf_config(model: ModelConfig) -> Any:
    """The Hugging Face config of the run's model. Raises ConfigError for a model that EST does not support."""
    config = _loaded_config(model) if model.family is Family.hf else _preset_config(model)
    _set_dropout(config, model.dropout)
    if model.fused_activation:
        _fuse_activation(config)
    return config


def set_end_of_text(config: Any, model: ModelConfig, token_id: int) -> None:
    """Write the tokenizer's end-of-text id into `config`, in place; a model that is continued keeps its own."""
    if not (model.family is Family.hf and model.pretrained):
        config.bos_token_id = config.eos_token_id = token_id


def build_model(model: ModelConfig, config: Any, seed: int) -> PreTrainedModel:
    """The model in fp32 on the CPU: pre-trained weights under family=hf, otherwise initialised from `seed`."""
    torch.manual_seed(seed)
    if model.family is not Family.hf:
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    name = str(model.name_or_path)
    try:
        if model.pretrained:
            return _pretrained(name, config)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except ConfigError:
        raise
    except Exception as error:  # whatever transformers and safetensors raise for files that are not ours
        hint = "; model.pretrained=false starts afresh" if model.pretrained else ""
        raise ConfigError(f"model.name_or_path: {name} cannot be loaded: {_reason(error)}{hint}") from error


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
            layer_norm_epsilon=1e-5 if model.norm_eps is None else model.norm_eps,
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
        rms_norm_eps=1e-6 if model.norm_eps is None else model.norm_eps,
        tie_word_embeddings=bool(model.tie_embeddings),
        bos_token_id=None,
        eos_token_id=None,
        rope_parameters=rope,
    )


def _loaded_config(model: ModelConfig) -> Any:
    name = str(model.name_or_path)
    local = _is_local(name)
    try:
        raw, _ = PreTrainedConfig.get_config_dict(name, local_files_only=local)
        code = [key for key in CODE_KEYS if raw.get(key) is not None]
        if not code:
            config = AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=local)
    except Exception as error:  # whatever transformers raises for files that are not ours
        raise ConfigError(
            f"model.name_or_path: {name} holds no config that transformers can read: {_reason(error)}"
        ) from error
    if code:
        keys = ", ".join(code)
        raise ConfigError(f"model.name_or_path: {name} would choose code to run ({keys} in config.json); remove that")
    _check_sizes(name, config)
    return config


def _check_sizes(name: str, config: Any) -> None:
    """Raise ConfigError for an architecture that EST does not support, and for sizes that make no model."""
    try:
        spec = spec_of(config)
    except ZeroDivisionError:
        raise ConfigError(f"model.name_or_path: {name} has no heads in its config.json") from None
    except ValueError as error:
        raise ConfigError(str(error).replace("model:", "model.name_or_path:", 1)) from error
    counts = (spec.num_layers, spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.mlp_size, spec.vocab_size)
    if min(counts) < 1 or spec.num_heads % spec.num_kv_heads:
        raise ConfigError(
            f"model.name_or_path: {name} has sizes in its config.json that make no model: {spec.num_layers} layers, "
            f"{spec.num_heads} heads of {spec.head_dim}, {spec.num_kv_heads} KV heads, {spec.mlp_size} MLP columns, "
            f"{spec.vocab_size} tokens"
        )


def _is_local(name: str) -> bool:
    """Whether `name` is a folder; a hub id is looked up quickly, so that being offline is told in seconds."""
    if os.path.isdir(name):
        return True
    if name.startswith((".", "/", "~")):
        raise ConfigError(f"model.name_or_path: there is no folder {name}")
    require_hub("model.name_or_path", name, "give the folder of a downloaded model")
    return False


def _pretrained(name: str, config: Any) -> PreTrainedModel:
    """The model with the weights of `name`, which must hold every one of them."""
    with quiet_transformers():
        model, info = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=os.path.isdir(name),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    wrong = sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])
    if wrong:
        raise ConfigError(
            f"model.name_or_path: {name} does not fit its config.json: {len(wrong)} weights are missing or "
            f"have another shape, such as {wrong[0]}"
        )
    return model


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bar and no report on stderr: what is wrong is told in one line."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _set_dropout(config: Any, dropout: float) -> None:
    """Hugging Face's GPT-2 has dropout 0.1 by default; the run's own value counts in every family."""
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, dropout)


def _fuse_activation(config: Any) -> None:
    """One kernel instead of seven for the same function; both names are transformers' own."""
    for name in ("activation_function", "hidden_act"):
        if getattr(config, name, None) == "gelu_new":
            setattr(config, name, "gelu_pytorch_tanh")
