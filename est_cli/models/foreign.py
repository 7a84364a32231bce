"""A model's folder that somebody else made: what is looked at before transformers opens it, and how it is opened.

Whatever is odd is a ValueError of one line. Nothing is allocated for it: of weights only the headers are read.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from est_cli.common.errors import reason
from est_cli.families import classes_of
from est_cli.storage import strict_json
from est_cli.storage.shares import joined_weights
from est_cli.storage.store import MOMENTS

CODE_KEYS = (
    "auto_map",
    "_attn_implementation_internal",
    "_attn_implementation",
    "attn_implementation",
    "quantization_config",
)
"""Keys of a config.json that load or choose code (an attention may name a repository); they are refused."""
ADAPTER = "adapter_config.json"
INDEX = "model.safetensors.index.json"
INDEX_BYTES = 1 << 26
HEADER_BYTES = 1 << 24
"""Of a file of weights: 150,000 tensors. A million that are empty take a GB and minutes."""
_DROPOUTS = (
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout"),
    *("dropout", "embedding_dropout"),
)
"""How families call it in their config.json."""
TRAINING_DROPOUTS = (*_DROPOUTS, "residual_dropout")
"""A run leaves those of heads that it does not have as they are, in the config that it exports, too."""
FINETUNE_DROPOUTS = (
    *(*_DROPOUTS, "hidden_dropout_prob", "attention_probs_dropout_prob", "mlp_dropout"),
    *("summary_first_dropout", "classifier_dropout", "seq_classif_dropout"),
)
"""With those of encoders and heads. StarCoder2's residual_dropout, which is not among them, stays the checkpoint's:
setting it would be another result of the same settings (FINETUNE_VERSION)."""
_NAME = re.compile(r"(?!\.)[A-Za-z0-9_.-]+\.safetensors")


def read_config(place: str, local: bool, revision: str | None = None) -> Any:
    """The config of a model, by its folder (`local`) or its hub id. ValueError: none, or one that would run code."""
    of = {"local_files_only": local, "revision": revision or "main"}
    try:
        if local:
            _refuse_odd_folder(Path(place))
        raw, _ = PreTrainedConfig.get_config_dict(place, **of)
        code = code_keys(raw)
        if not code:
            register_classes(raw.get("model_type"))
            return AutoConfig.from_pretrained(place, trust_remote_code=False, **of)
    except Exception as error:  # whatever transformers raises for files that are not ours
        raise ValueError(f"holds no config that transformers can read: {reason(error)}") from error
    raise ValueError(f"would choose code to run ({', '.join(code)} in config.json); remove that")


_registered: set[object] = set()


def register_classes(model_type: object) -> None:
    """Tell transformers of the classes that a family of somebody else's brings. ValueError where that does not work."""
    if model_type not in _registered and (classes := classes_of(model_type)) is not None:
        _registered.add(model_type)
        config_class, model_class = classes
        AutoConfig.register(str(model_type), config_class)  # refuses a name that transformers has itself
        AutoModelForCausalLM.register(config_class, model_class)


def load_weights(kind: Any, place: str, config: Any, **options: Any) -> tuple[PreTrainedModel, list[str]]:
    """The model in a folder or on the hub, in fp32 on the CPU, and names of weights that are missing or do not fit.

    `kind`: transformers' auto class that makes it. Raises whatever transformers and safetensors raise.
    """
    local = os.path.isdir(place)
    with quiet_transformers():
        if local:
            refuse_larger(Path(place), kind, config)
        weights = joined_weights(Path(place)) if local else None
        if weights is not None:  # which an auto class does not take
            with torch.device("meta"):
                kind = type(kind.from_config(config, trust_remote_code=False))
        model, info = kind.from_pretrained(
            place if weights is None else None,
            config=config,
            state_dict=weights,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=local,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
        if weights is not None and model.can_generate():
            with suppress(OSError):  # there is none
                model.generation_config = GenerationConfig.from_pretrained(place, local_files_only=True)
    return model, sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])


def set_dropout(config: Any, names: Iterable[str], dropout: float) -> None:
    """Those of `names` that the config has."""
    for name in names:
        if hasattr(config, name):
            setattr(config, name, dropout)


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


def code_keys(settings: Any) -> list[str]:
    """Those of CODE_KEYS that a config.json sets, at any depth: a model of several parts has a config for each."""
    return [key for key in CODE_KEYS if key in set(_set_keys(settings))]


def _refuse_odd_folder(folder: Path) -> None:
    """ValueError for what makes transformers look into other folders or repositories for the weights."""
    if (folder / ADAPTER).exists():
        raise ValueError(f"{ADAPTER} makes it an adapter of another model; merge the two and give the result")
    if not (folder / INDEX).exists():
        return
    index = strict_json.read_file(folder / INDEX, INDEX_BYTES)
    names = index.get("weight_map")
    if not isinstance(names, dict) or not all(_NAME.fullmatch(str(name)) for name in names.values()):
        raise ValueError(f"{INDEX} names files that are no *.safetensors in this folder")
    if (folder / "model.safetensors").exists():
        return  # transformers takes that
    if missing := sorted(name for name in set(names.values()) if not (folder / name).is_file()):
        raise ValueError(f"{INDEX} names {missing[0]}, which is not there")
    if not names or not isinstance(index.get("metadata"), dict):
        raise ValueError(f"{INDEX} has no weights or no `metadata`")


def refuse_larger(folder: Path, kind: Any, config: Any) -> None:
    """ValueError where config.json describes a much larger model than the weights of the folder can fill.

    `kind`: the auto class of transformers that is going to load it.
    """
    tensors, numbers = _held(folder)
    layers = getattr(config, "num_hidden_layers", 0)
    if not tensors or not isinstance(layers, int):
        return
    if layers > tensors:
        raise ValueError(f"config.json describes {layers:,} layers, its weights are {tensors:,} tensors")
    with torch.device("meta"):
        described = sum(weight.numel() for weight in kind.from_config(config, trust_remote_code=False).parameters())
    if described > 2 * numbers:  # a head that is to be made anew, or is another name of the embedding
        raise ValueError(f"config.json describes a model of {described:,} numbers, its weights are {numbers:,}")


def _set_keys(settings: Any) -> Iterator[str]:
    if isinstance(settings, dict):
        for key, value in settings.items():
            if value is not None:
                yield str(key)
            yield from _set_keys(value)
    elif isinstance(settings, list):
        for value in settings:
            yield from _set_keys(value)


def _held(folder: Path) -> tuple[int, int]:
    """Tensors in the weights of `folder`, and the numbers in them."""
    tensors = numbers = 0
    for path in folder.glob("*.safetensors"):
        if MOMENTS.fullmatch(path.name):
            continue
        with path.open("rb") as begin:
            size = int.from_bytes(begin.read(8), "little")
        if HEADER_BYTES < size < path.stat().st_size:
            raise ValueError(f"{path.name} has a header of {size:,} bytes, more than {HEADER_BYTES:,}")
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118  (not a dict)
        except SafetensorError as error:
            raise ValueError(f"{path.name} is not a safetensors file ({error})") from error
        tensors, numbers = tensors + len(shapes), numbers + sum(map(math.prod, shapes))
    return tensors, numbers
