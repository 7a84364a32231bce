"""Which weights of a model are what, told by the modules that hold them, whatever the family."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from est_cli.common.errors import ConfigError
from est_cli.config import Parameters

GROUPS = ("embeddings", "attention", "mlp", "norms", "other")
_KINDS = {
    "attention": re.compile(r"attn|attention"),
    "mlp": re.compile(r"mlp|ffn|feed_forward|^fc\d*$|expert|moe"),
}
"""How families call the part of a module's path that says it."""


def group_names(model: nn.Module) -> dict[str, str]:
    """Name of each parameter, in their order, tied ones once -> its group; the LM head is among the embeddings."""
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    modules = dict(model.named_modules())
    return {
        name: _group(name, modules[name.rpartition(".")[0]], head is modules[name.rpartition(".")[0]])
        for name, _ in model.named_parameters()
    }


def _group(name: str, module: nn.Module, is_head: bool) -> str:
    if is_head or isinstance(module, nn.Embedding):
        return "embeddings"
    if "norm" in type(module).__name__.lower():
        return "norms"
    for part in name.split("."):
        for kind, pattern in _KINDS.items():
            if pattern.search(part):
                return kind
    return "other"


def chosen(model: nn.Module, choice: Parameters) -> dict[str, Tensor]:
    """The parameters that a setting chooses, by name. Raises ConfigError where the model has none of the kind."""
    groups = group_names(model)

    def wanted(group: str) -> bool:
        return choice is Parameters.all or (
            group != "embeddings" if choice is Parameters.body else group == choice.value
        )

    found: dict[str, Tensor] = {name: parameter for name, parameter in model.named_parameters() if wanted(groups[name])}
    if not found:
        there = ", ".join(group for group in GROUPS if group in groups.values())
        raise ConfigError(f"analyze.parameters: {choice.value} has no weights in this model, which has {there}")
    return found


def sizes(parameters: Mapping[str, Tensor], groups: Mapping[str, str]) -> dict[str, int]:
    """Numbers of weights by group, in the order of GROUPS, of the groups that are there."""
    count: Counter[str] = Counter()
    for name, parameter in parameters.items():
        count[groups[name]] += parameter.numel()
    return {group: count[group] for group in GROUPS if count[group]}


def filter_dims(model: nn.Module) -> dict[str, int]:
    """Name of each parameter of at least two dimensions -> the dimension that its filters lie along.

    A filter is what one output of the module is computed with: a row of a Linear, a column of GPT-2's Conv1D (stored in
    x out), a token's embedding.
    """
    modules = dict(model.named_modules())
    return {
        name: int(isinstance(modules[name.rpartition(".")[0]], Conv1D))
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1
    }
