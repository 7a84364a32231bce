"""Where a subnetwork begins to compute something else than the masked complete model: the message of est.check."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .masked import Batch, entries, largest, layers_of, output_of
from .spec import ModelSpec, Projection
from .subnetwork import Subnetwork

_CLOSE = 1e-6


def located(
    masked: nn.Module,
    sampled: nn.Module,
    spec: ModelSpec,
    batch: Batch,
    what: str,
    draw: Subnetwork,
    error: Exception | None = None,
) -> str:
    """One line. `error`: what the subnetwork's own forward raised."""
    number = draw.layer_idx[0] if draw.layer_idx else 0
    expected, found = (_records(model, spec, batch, number) for model in (masked, sampled))
    right: list[str] = []
    for path, wanted in expected.items():
        projection = next(p for p in spec.projections if p.path == path)
        if not _agree(found.get(path), wanted, projection, spec, draw, number):
            return _between(layers_of(sampled, spec)[number], spec, projection, right, what, error)
        right.append(path)
    came = "" if error is None else f" ({_first_line(error)})"
    return (
        f"model: with {what} sampled it gives something else than the masked complete model{came}, between its layers"
    )


def _records(model: nn.Module, spec: ModelSpec, batch: Batch, number: int) -> dict[str, Tensor]:
    """What the projections of a layer compute of units, or sum over, in the order in which they run."""
    layer, seen = layers_of(model, spec)[number], {}

    def watch(projection: Projection) -> RemovableHandle:
        def summed(module: nn.Module, args: Any) -> None:
            seen[projection.path] = args[0].detach()

        def computed(module: nn.Module, args: Any, output: Tensor) -> None:
            seen[projection.path] = output.detach()

        module = layer.get_submodule(projection.path)
        inside = projection.side == "in"
        return module.register_forward_pre_hook(summed) if inside else module.register_forward_hook(computed)

    hooks = [watch(projection) for projection in spec.projections]
    with suppress(RuntimeError, ValueError, IndexError, TypeError):  # what ran before is recorded
        output_of(model, batch)
    for hook in hooks:
        hook.remove()
    return seen


def _agree(
    found: Tensor | None, wanted: Tensor, projection: Projection, spec: ModelSpec, draw: Subnetwork, number: int
) -> bool:
    """Whether the units that run are the same in both."""
    if found is None:
        return False
    held = projection.weight
    kept = entries(held, spec, draw, number).nonzero()[:, 0]
    wanted = wanted[..., kept] if wanted.shape[-1] == held.shape[held.dim] else wanted
    if found.shape != wanted.shape:
        return False
    return largest(found - wanted) <= _CLOSE * largest(wanted)


def _between(
    layer: nn.Module, spec: ModelSpec, projection: Projection, right: list[str], what: str, error: Exception | None
) -> str:
    """The line where all projections of `right` agree and this one does not."""
    kind = "columns" if projection.unit == "column" else "heads"
    sees = "sums over" if projection.side == "in" else "gives"
    behind = f"behind {', '.join(right[-3:])}" if right else "at the layer's begin"
    came = "" if error is None else f" ({_first_line(error)})"
    return (
        f"model: with {what} sampled {projection.path} {sees} something else than in the masked complete model{came}: "
        f"{behind}, the forward has a number of {kind} that stays whole when some run; {_remedy(layer, spec, kind)}"
    )


def _remedy(layer: nn.Module, spec: ModelSpec, kind: str) -> str:
    if found := [*_numbers(layer, spec, kind)]:
        path, name = found[0]
        line = f'SampledAttribute("{path}", "{name}", lambda kept: ...)'
        return f"{path}.{name} is such a number: name it in attributes, {line}"
    return f"write -1 in its place and the width of one of them behind, as view(B, T, -1, {spec.head_dim}) does"


def _numbers(layer: nn.Module, spec: ModelSpec, kind: str) -> Iterator[tuple[str, str]]:
    """(module, attribute) of numbers in a layer's modules that may count heads or columns and are not declared."""
    heads, kv_heads, columns = spec.full
    counts = {columns} if kind == "columns" else {heads, kv_heads, heads * spec.head_dim, kv_heads * spec.head_dim}
    counts |= {spec.group_size} - {1} if kind == "heads" else set()
    declared = {(attribute.path, attribute.name) for attribute in spec.attributes}
    for path, module in layer.named_modules():
        for name, value in vars(module).items():
            plain = type(value) is int and value in counts and not name.startswith("_")
            if plain and (path, name) not in declared and not isinstance(module, nn.Linear):
                yield path, name


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
