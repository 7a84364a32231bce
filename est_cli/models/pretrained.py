"""A checkpoint to be examined, ours or any plain Hugging Face one: what is known of it, and the model in it."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from est_cli.common.errors import CheckpointError, reason
from est_cli.data.text.hub_access import require_hub
from est_cli.data.tokens.tokenizer import token_count
from est_cli.models.foreign import FINETUNE_DROPOUTS, load_weights, quiet_transformers, read_config, set_dropout
from est_cli.storage.digest import digest_files, fingerprint
from est_cli.storage.run_dir import local_model
from est_cli.storage.store import verify_folder


@dataclass(frozen=True)
class Checkpoint:
    """What is known of a checkpoint before its weights are loaded."""

    name: str
    """For people and records: the folder and the beginning of the digest of its files, or the hub id."""
    place: str
    """The folder, or the hub id."""
    config: Any
    tokenizer: PreTrainedTokenizerBase

    @property
    def is_ours(self) -> bool:
        """Whether est-train has written it."""
        return os.path.isfile(os.path.join(self.place, "MANIFEST.json"))

    @property
    def pad_id(self) -> int:
        """What fills up a batch, behind the attention mask; any id will do where the model has none for it."""
        ids = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((number for number in ids if number is not None), 0)


def open_checkpoint(key: str, name: str, tokenizer: str | None = None) -> Checkpoint:
    """The checkpoint that the setting `key` names, with its own tokenizer or with that of a folder or the hub.

    Raises CheckpointError, ConfigError or, of the hub, DataError.
    """
    folder = local_model(key, name)
    if folder is None:
        require_hub(key, name, "give the folder of a downloaded model")
        return _fitting(Checkpoint(name, name, _config(name, local=False), _tokenizer_of(name, tokenizer)))
    if (folder / "MANIFEST.json").exists():
        verify_folder(folder)
    place, shown = str(folder), f"{folder}@{model_digest(folder)[:8]}"
    return _fitting(Checkpoint(shown, place, _config(place, local=True), _tokenizer_of(place, tokenizer)))


def _fitting(checkpoint: Checkpoint) -> Checkpoint:
    tokens, known = token_count(checkpoint.tokenizer), getattr(checkpoint.config, "vocab_size", None)
    if known is not None and tokens > known:
        raise CheckpointError(f"{checkpoint.place}: its tokenizer has {tokens} tokens, the model only {known}")
    return checkpoint


def load_language_model(checkpoint: Checkpoint, attention: str | None = None) -> PreTrainedModel:
    """The model with its LM head, in fp32 on the CPU. `attention`: transformers' name of how that is computed."""
    return load_model(AutoModelForCausalLM, checkpoint, attention=attention)


def load_model(
    kind: Any,
    checkpoint: Checkpoint,
    dropout: float | None = None,
    outputs: int | None = None,
    attention: str | None = None,
) -> PreTrainedModel:
    """The model as transformers' auto class `kind` makes it, in fp32 on the CPU; `outputs`: with a head of so many.

    Raises CheckpointError where weights are missing; with a new head only those below it must be there.
    """
    config = copy.deepcopy(checkpoint.config)
    if dropout is not None:
        set_dropout(config, FINETUNE_DROPOUTS, dropout)
    if outputs is not None:
        config.num_labels = outputs
    options = {} if attention is None else {"attn_implementation": attention}
    try:
        model, wrong = load_weights(kind, checkpoint.place, config, **options)
    except Exception as error:
        raise CheckpointError(f"{checkpoint.place}: cannot be loaded: {reason(error)}") from error
    wrong = [key for key in wrong if outputs is None or (in_body(model, key) and "pooler" not in key)]
    if wrong:
        raise CheckpointError(
            f"{checkpoint.place}: {len(wrong)} weights are missing or have another shape, such as {wrong[0]}"
        )
    return model


def max_tokens(checkpoint: Checkpoint, requested: int | None) -> int:
    """How many tokens a sequence may have: those requested, or as many as the model has positions."""
    config = checkpoint.config
    positions = getattr(config, "max_position_embeddings", None) or 512
    if config.model_type in _OFFSET_POSITIONS:  # the first positions stand for padding
        positions -= (config.pad_token_id or 0) + 1
    return min(positions, requested or positions)


_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet", "data2vec-text")


def in_body(model: PreTrainedModel, name: str) -> bool:
    """Whether the weight of this name is below the model's head."""
    return name.startswith(f"{model.base_model_prefix}.")


def model_digest(folder: Path) -> str:
    """Of a model's weights, configuration and tokenizer; the beginning of it is in the name of a Checkpoint."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json"))
    return fingerprint([path.name for path in files if path.name != "MANIFEST.json"], digest_files(files))


def _config(place: str, local: bool) -> Any:
    try:
        return read_config(place, local)
    except ValueError as error:
        raise CheckpointError(f"{place}: {error}") from error


def _tokenizer_of(place: str, other: str | None) -> PreTrainedTokenizerBase:
    if other is None:
        return _tokenizer(place, local=os.path.isdir(place))
    if not os.path.isdir(other):
        require_hub("tokenizer", other, "give the folder of a downloaded one")
    return _tokenizer(other, local=os.path.isdir(other))


def _tokenizer(place: str, local: bool) -> PreTrainedTokenizerBase:
    if local and not any((Path(place) / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise CheckpointError(
            f"{place}: holds no tokenizer; save the one the model was trained with there (tokenizer.save_pretrained)"
        )
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(place, trust_remote_code=False, local_files_only=local)
    except Exception as error:
        raise CheckpointError(f"{place}: its tokenizer cannot be loaded: {reason(error)}") from error
