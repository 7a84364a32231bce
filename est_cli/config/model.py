"""`model.*`: the model's family and sizes, or where one is described elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from est_cli.common.plugins import package_problem
from est_cli.config.batch import longest_sequence
from est_cli.config.data import Packing, packing_problems
from est_cli.config.setting import SETTLED, above, at_least, between, epsilon, setting
from est_cli.est.spec import ModelSpec
from est_cli.families import UnknownFamily, family_of, origin_of
from est_cli.families.shared.family import Family

if TYPE_CHECKING:
    from est_cli.config.run import RunConfig

HF = "hf"
"""The family of models that are described elsewhere, by `model.name_or_path`."""

_SIZE = at_least(1)


@dataclass
class ModelConfig:
    name: str = setting("gpt2_tiny", "Name of the preset; used in run names only.")
    family: str = setting(
        "gpt2",
        "How the model is made: a family of docs/families.md from the numbers below, or (hf) from name_or_path.",
        brief="Architecture (docs/families.md), or hf",
    )
    vocab_size: int | None = setting(None, "Tokens that the model knows.", within=_SIZE)
    hidden_size: int | None = setting(None, "Width of the model.", within=_SIZE)
    num_layers: int | None = setting(None, "Layers.", within=_SIZE)
    num_heads: int | None = setting(None, "Attention heads of a layer.", within=_SIZE)
    num_kv_heads: int | None = setting(
        None, "Key/value heads (grouped-query attention); null: as many as num_heads.", within=_SIZE
    )
    mlp_size: int | None = setting(None, "MLP columns; null: four times hidden_size.", within=_SIZE)
    max_positions: int | None = setting(
        None,
        "The longest sequence the model is made for; rotary models have no table of that length but keep the promise.",
        within=_SIZE,
    )
    dropout: float = setting(0.0, "Dropout in training.", within=between("[0, 1)"))
    tie_embeddings: bool | None = setting(
        None,
        "Whether the LM head shares the embedding's weight; null: as the family does (gpt2 yes, llama no).",
        brief="LM head and embedding share a weight",
    )
    rope_theta: float | None = setting(
        None, "Base of the rotary positions' wavelengths; null: as the family does (llama 10000).", within=above(0)
    )
    norm_eps: float | None = setting(
        None,
        "Epsilon of the norms; null: as the family does (gpt2 1e-5, llama 1e-6).",
        within=epsilon(below=1),
    )
    head_dim: int | None = setting(
        None,
        "Width of a head, in families where the heads need not be as wide as the model together (qwen3, the Gemmas); "
        "null: hidden_size / num_heads.",
        within=_SIZE,
        brief="Width of a head; null: hidden_size / num_heads",
    )
    sliding_window: int | None = setting(
        None,
        "Tokens that a layer with a window sees, itself included, in families that have such layers; null: as the "
        "family does.",
        within=_SIZE,
        brief="Tokens that a layer with a window sees",
    )
    state_size: int | None = setting(
        None,
        "State-space models: numbers that each channel (Mamba) or entry of a head (Mamba2) remembers; null: as the "
        "family does (mamba 16, mamba2 128).",
        within=_SIZE,
        brief="State-space models: numbers of state",
    )
    name_or_path: str | None = setting(
        None,
        "family=hf: a local config or checkpoint folder, or a hub id.",
        untracked=True,
        brief="family=hf: checkpoint folder or hub id",
    )
    revision: str | None = setting(
        None,
        "family=hf: commit, tag or branch of a model of the hub; null: the newest; config.yaml names the commit.",
        SETTLED,
        brief="family=hf: its commit, tag or branch",
    )
    pretrained: bool = setting(
        True,
        "family=hf: continue from the weights found there; false: only the architecture, freshly initialised.",
        brief="family=hf: continue from its weights",
    )
    fused_activation: bool = setting(
        True,
        "Compute gelu_new (GPT-2, Phi) by torch's fused GELU, the same function to rounding; config.json then says "
        "gelu_pytorch_tanh.",
        brief="GPT-2, Phi: GELU in one kernel of torch",
    )
    fused_scan: bool = setting(
        True,
        "Mamba without the kernels of mamba_ssm: a scan in linear time instead of transformers' own, the same to "
        "rounding; false where something needs the gradient of a gradient.",
        brief="Mamba: a linear-time scan without mamba_ssm",
    )
    package: str | None = setting(
        None,
        "The package that brings the family, NAME==VERSION, where it is not est's own; est writes it.",
        SETTLED,
        brief="package that brings it; est writes it",
    )


_NO_NUMBERS = (
    "name",
    "family",
    "package",
    "dropout",
    "name_or_path",
    "revision",
    "pretrained",
    "fused_activation",
    "fused_scan",
)
"""The keys that have a meaning in every family, or under hf only."""


def numbers_given(model: ModelConfig) -> dict[str, Any]:
    """The numbers in `model.*` that are set; which of them have a meaning is the family's to say."""
    return {key: value for key, value in asdict(model).items() if key not in _NO_NUMBERS and value is not None}


def preset_settings(model: ModelConfig) -> dict[str, Any]:
    """What the Hugging Face config of a checked preset is made with."""
    family = family_of(model.family)
    return {"model_type": model.family, **family.settings(family.numbers(numbers_given(model)))}


def preset_sizes(model: ModelConfig) -> ModelSpec:
    """The specification of a checked preset, without a Hugging Face config."""
    return family_of(model.family).spec(SimpleNamespace(**preset_settings(model)))


def model_problems(model: ModelConfig) -> Iterator[str]:
    if model.family == HF:
        if not model.name_or_path:
            yield "model.name_or_path: is missing; model=hf needs a config or checkpoint folder, or a hub id"
        for key in numbers_given(model):
            yield f"model.{key}: comes from model.name_or_path under model=hf; leave it null"
        return
    for key in ("name_or_path", "revision"):
        if getattr(model, key) is not None:
            yield f"model.{key}: has a meaning only with model=hf"
    try:
        family, origin = family_of(model.family), origin_of(model.family)
    except UnknownFamily as error:
        brought = "" if model.package is None else f"; the run began with that of {model.package}: pip install it"
        yield f"model.family: {error}, {HF}{brought}"
        return
    except ValueError as error:
        yield f"model.family: {error}"
        return
    if problem := package_problem("model.package", model.package, origin):
        yield problem
    yield from _number_problems(model, family)


def _number_problems(model: ModelConfig, family: Family) -> Iterator[str]:
    """Of numbers in their ranges: what the family needs, does not know, or cannot have together."""
    given = numbers_given(model)
    missing = [key for key in family.required if key not in given]
    yield from (f"model.{key}: null is not a size; give a positive integer" for key in missing)
    unknown = [key for key in given if key not in family.keys]
    also = "" if origin_of(model.family) is None else ", or name it in the `defaults` of that Family"
    yield from (f"model.{key}: has no meaning in the family {model.family}; leave it null{also}" for key in unknown)
    if not missing and not unknown and all(not isinstance(n, int) or n >= 1 for n in given.values()):
        yield from family.problems(family.numbers(given))


def fit_problems(config: RunConfig, sizes: ModelSpec) -> Iterator[str]:
    """What of the run does not fit a model of these sizes, but for the rates."""
    seq_len, positions = longest_sequence(config.train), sizes.max_positions
    if positions is not None and seq_len > positions:
        longer = "" if config.model.family == HF and config.model.pretrained else f", or model.max_positions={seq_len}"
        yield (
            f"train.seq_len: {seq_len} is longer than the model's {positions} positions (model.max_positions); "
            f"take train.seq_len={positions}{longer}"
        )
    if config.dataset.packing is Packing.document:
        yield from packing_problems(sizes)
    if sizes.attention:
        return
    if config.train.attention.value != "auto":
        word = config.train.attention.value
        yield f"train.attention: {word} has no meaning in the family {sizes.family}; leave it auto"
    if config.model.dropout:
        yield f"model.dropout: {config.model.dropout} has no meaning in the family {sizes.family}; leave it 0.0"
