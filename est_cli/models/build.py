"""Build the model of a run: from the numbers of a preset, or from a Hugging Face config or checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, masking_utils
from transformers.utils import logging

from est_cli.common.errors import ConfigError, reason
from est_cli.common.nearby import did_you_mean, looks_like_a_path, no_folder
from est_cli.common.plugins import package_problem
from est_cli.config import HF, ModelConfig
from est_cli.config.model import preset_settings
from est_cli.data.text.hub_access import commit_here, how_to_enter, is_gated, refuse_revision, require_hub
from est_cli.families import logits_of, origin_of, spec_of
from est_cli.models.foreign import TRAINING_DROPOUTS, load_weights, read_config, register_classes, set_dropout


def hf_config(model: ModelConfig) -> Any:
    """The Hugging Face config of the run's model. Raises ConfigError for a model that EST does not support."""
    config = _loaded_config(model) if model.family == HF else _preset_config(model)
    set_dropout(config, TRAINING_DROPOUTS, model.dropout)  # GPT-2's own default is 0.1
    if model.fused_activation:
        _fuse_activation(config)
    if config.model_type in ("mamba", "mamba2"):
        _settle_scan(config, model)
    return config


def pinned(model: ModelConfig, config: Any) -> ModelConfig:
    """The same with the commit that was loaded, where its config came from the hub, and the package that brings the
    family. ConfigError where a run is continued that began with that of another package."""
    origin = origin_of(config.model_type)
    if problem := package_problem("model.package", model.package, origin):
        raise ConfigError(problem)
    model = replace(model, package=model.package or (str(origin) if origin else None))
    if model.family != HF:
        return model
    commit = commit_here(str(model.name_or_path), model.revision, ["config.json"])
    return replace(model, revision=commit or model.revision)


def set_end_of_text(config: Any, model: ModelConfig, token_id: int) -> None:
    """Write the tokenizer's end-of-text id into `config`, in place; a model that is continued keeps its own.

    Nothing is padded in training, and the token that pads elsewhere would never learn: its embedding gets no gradient.
    """
    if not (model.family == HF and model.pretrained):
        config.bos_token_id = config.eos_token_id = token_id
        config.pad_token_id = None


def build_model(model: ModelConfig, config: Any, seed: int) -> PreTrainedModel:
    """The model in fp32 on the CPU: pre-trained weights under family=hf, otherwise initialised from `seed`."""
    torch.manual_seed(seed)
    if model.family != HF:
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    name = str(model.name_or_path)
    try:
        if model.pretrained:
            return _pretrained(model, config)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except ConfigError:
        raise
    except Exception as error:  # whatever transformers and safetensors raise for files that are not ours
        hint = "; model.pretrained=false starts afresh" if model.pretrained else ""
        raise ConfigError(f"model.name_or_path: {name} cannot be loaded: {reason(error)}{hint}") from error


def empty_model(config: Any) -> PreTrainedModel:
    """The model of `config` on the meta device: shapes and names, no memory and no weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Recompute each layer in the backward pass instead of keeping its activations."""
    if hasattr(model, "activation_checkpointing_enable"):  # transformers 5.23 renamed it
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def uses_kernels(config: Any) -> bool:
    """Whether attention is computed by one of torch's kernels; transformers knows those of a model that was built."""
    return str(config._attn_implementation) == "sdpa"


def attention_masks(config: Any, seq_len: int, packed: bool = False) -> tuple[bool, ...]:
    """For each kind of attention layer, whether it masks more than later tokens: other documents (`packed`), or what
    lies before a window shorter than the sequence."""
    if packed:
        return (True,)
    window = getattr(config, "sliding_window", None)
    if window is None or seq_len < window:
        return (False,)
    kinds = getattr(config, "layer_types", None)  # without it, all layers have the window
    return (True,) if kinds is None else tuple(sorted({kind == "sliding_attention" for kind in kinds}))


def unpacked_sequences() -> AbstractContextManager[None]:
    """Tell transformers that no row of a batch holds several sequences, instead of letting it look.

    Looking reads values of the position ids, which fake tensors do not have, and a GPU only when all before is done.
    """
    return _telling(lambda position_ids: None)


def packed_sequences() -> AbstractContextManager[None]:
    """Tell transformers that rows of a batch hold several sequences: where the position is no successor, one begins."""
    return _telling(_sequence_numbers)


def _sequence_numbers(position_ids: Tensor) -> Tensor:
    """(B, T) -> (B, T): of each token, how many sequences came before its own in the row."""
    return F.pad(position_ids.diff(dim=-1) != 1, (1, 0)).cumsum(-1)


@contextmanager
def _telling(answer: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    look = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = answer
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = look


def settle_positions(model: PreTrainedModel) -> None:
    """Let rotary positions that grow with the longest sequence (`dynamic`) stay what they are up to the model's length.

    Whether to grow is read from the position ids, whose values fake tensors do not have.
    """
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if kind == "dynamic":
            module.rope_type = "default"  # what its buffers hold from the beginning
        elif isinstance(kind, dict):  # Gemma 3: one for each kind of layer
            module.rope_type = {layers: "default" if of == "dynamic" else of for layers, of in kind.items()}


def _preset_config(model: ModelConfig) -> Any:
    settings = preset_settings(model)
    try:
        register_classes(model.family)
    except Exception as error:  # whatever code of somebody else's raises
        raise ConfigError(f"model.family: the classes of {model.family!r} are of no use: {reason(error)}") from error
    try:
        return AutoConfig.for_model(**settings, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    except Exception as error:  # whatever transformers raises for numbers that it does not allow
        raise ConfigError(f"model: transformers refuses these numbers: {reason(error)}") from error


def _loaded_config(model: ModelConfig) -> Any:
    name = str(model.name_or_path)
    local = _is_local(name)
    refuse_revision("model.revision", name, model.revision)
    if local and not os.path.isfile(os.path.join(name, "config.json")):
        why = "holds no config.json, so this is no model; give a folder such as outputs/NAME/model"
        raise ConfigError(f"model.name_or_path: {name} {why}")
    try:
        config = read_config(name, local, model.revision)
    except ValueError as error:
        if is_gated(error):
            raise ConfigError(f"model.name_or_path: {name} {how_to_enter(name)}") from error
        near = "" if local else did_you_mean(name)
        raise ConfigError(f"model.name_or_path: {name} {error}{near}") from error
    config.return_dict = True  # whatever the caller of that model wanted
    _check_sizes(name, config)
    return config


def _check_sizes(name: str, config: Any) -> None:
    """Raise ConfigError for an architecture that EST does not support, and for sizes that make no model."""
    try:
        spec = spec_of(config)
        logits_of(config)
    except ZeroDivisionError:
        raise ConfigError(f"model.name_or_path: {name} divides by a 0 in its config.json, such as 0 heads") from None
    except ValueError as error:
        raise ConfigError(str(error).replace("model:", "model.name_or_path:", 1)) from error
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()) and config.sliding_window is None:
        raise ConfigError(f"model.name_or_path: {name} has layers with a sliding window in its config.json, of no size")
    counts = [spec.num_layers, spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.vocab_size]
    if any(projection.unit == "column" for projection in spec.projections):
        counts.append(spec.mlp_size)
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
    if looks_like_a_path(name):
        raise ConfigError(f"model.name_or_path: {no_folder(name)}")
    require_hub("model.name_or_path", name, "give the folder of a downloaded model")
    return False


def _pretrained(given: ModelConfig, config: Any) -> PreTrainedModel:
    """The model with the weights of its folder or hub id, which must hold every one of them."""
    name = str(given.name_or_path)
    model, wrong = load_weights(AutoModelForCausalLM, name, config, revision=given.revision or "main")
    if wrong:
        raise ConfigError(
            f"model.name_or_path: {name} does not fit its config.json: {len(wrong)} weights are missing or "
            f"have another shape, such as {wrong[0]}"
        )
    return model


def _settle_scan(config: Any, model: ModelConfig) -> None:
    if not torch.cuda.is_available():  # where the kernels that it recommends do not run
        logging.get_logger("transformers.integrations.hub_kernels").setLevel(logging.ERROR)
    if config.model_type == "mamba":
        from est_cli.models.selective_scan import use_selective_scan  # it imports the whole of transformers' Mamba

        use_selective_scan(model.fused_scan)


def _fuse_activation(config: Any) -> None:
    """One kernel instead of seven for the same function; both names are transformers' own."""
    for name in ("activation_function", "hidden_act"):
        if getattr(config, name, None) == "gelu_new":
            setattr(config, name, "gelu_pytorch_tanh")
