"""What each layer keeps, and with which chance it runs: rates, options and a model in whole units. No torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .protected import Protected, protected
from .schedule import SamplingRates
from .spec import Kept, ModelSpec

if TYPE_CHECKING:
    from .sizes import SamplingOptions


def sample_size(p: float, n: int) -> int:
    """Units that rate `p` keeps of `n`: p*n rounded half up, at least 1 (of 0: 0). Scaling uses the realised k/n."""
    return min(n, max(1, math.floor(p * n + 0.5)))


def column_size(p: float, n: int, multiple_of: int | None) -> int:
    """MLP columns that rate `p` keeps of `n`: the multiple nearest to p*n (see SamplingOptions), at least one.

    Raises ValueError where the model has fewer.
    """
    step = (8 if n % 8 == 0 and n >= 64 else 1) if multiple_of is None else multiple_of
    if p == 1.0 or n == 0:
        return n
    if step > n:
        raise ValueError(f"sampling.multiple_of: {step} is more than the {n} MLP columns of the model")
    return step * sample_size(p * n / (step * (n // step)), n // step)


def kept_units(spec: ModelSpec, rates: SamplingRates, options: SamplingOptions) -> tuple[Kept, ...]:
    """What runs in each layer, if it runs. Raises ValueError as sample_sizes() does."""
    if not options.protect and not rates.by_layer:
        return (_kept(spec, rates.p_h, rates.p_m, options),) * spec.num_layers
    always = protected_in(spec, options)
    _refuse_unsampled(spec.num_layers, rates, always)
    if rates.by_layer and (options.cover, options.layers_by) != ("independent", "batch"):
        key = "cover=balanced" if options.cover == "balanced" else "layers_by=sequence"
        raise ValueError(f"stage.layer_rates: does not go with sampling.{key}, which counts layers that are alike")
    kept = []
    for layer in range(spec.num_layers):
        p_h = 1.0 if layer in always.heads else _rate(rates, "p_h", layer)
        p_m = 1.0 if layer in always.columns else _rate(rates, "p_m", layer)
        kept.append(_kept(spec, p_h, p_m, options))
    return tuple(kept)


def _kept(spec: ModelSpec, p_h: float, p_m: float, options: SamplingOptions) -> Kept:
    return Kept(*_head_sizes(spec, p_h, options.kv_groups), column_size(p_m, spec.mlp_size, options.multiple_of))


def _refuse_unsampled(n: int, rates: SamplingRates, always: Protected) -> None:
    """Where a rate would sample nothing, and where rates by layer are those of another model."""
    if rates.by_layer and len(rates.by_layer) != n:
        raise ValueError(f"stage.layer_rates: has {len(rates.by_layer)} entries; the model has {n} layers")
    for kind, rate, whole in (("heads", "p_h", always.heads), ("columns", "p_m", always.columns)):
        if getattr(rates, rate) < 1.0 and len(whole | never_sampled(rates)) == n:
            raise ValueError(_none_left(kind, rate, rates, n))


def _none_left(kind: str, name: str, rates: SamplingRates, n: int) -> str:
    """Why a rate samples nothing."""
    all_of_them = f"all {n} layers" if kind == "layers" else f"the {kind} of all {n} layers"
    samples = f"so stage.{name} = {getattr(rates, name)} samples none; set it to 1"
    if rates.by_layer:
        return f"stage.layer_rates: {all_of_them} have the rate 1 or are protected, {samples}, or lower a rate"
    return f"sampling.protect: {all_of_them} are protected, {samples} or protect fewer layers"


def never_sampled(rates: SamplingRates) -> frozenset[int]:
    """The layers whose rate by layer says that all of them always runs."""
    return frozenset(layer for layer, rate in enumerate(rates.by_layer) if rate == 1.0)


def _rate(rates: SamplingRates, name: str, layer: int) -> float:
    """p_h or p_m of a layer. Raises ValueError where nothing would be left of it."""
    found = rates.of_layer(getattr(rates, name), layer)
    if found <= 0.0:
        raise ValueError(
            f"stage.layer_rates: at {name} = {getattr(rates, name):g} the rate of layer {layer} would be {found:.3g}; "
            f"raise {name} ({_mean(rates)}), or its entry, {rates.by_layer[layer]:g}"
        )
    return found


def _mean(rates: SamplingRates) -> str:
    return f"the entries' mean is {sum(rates.by_layer) / len(rates.by_layer):.3g}"


def layer_chances(spec: ModelSpec, rates: SamplingRates, options: SamplingOptions) -> list[float]:
    """Of each layer the probability to be among those that are drawn at p_l, which sum to their number.

    Raises ValueError where one would be 0 or less.
    """
    n, k, always = spec.num_layers, layer_size(spec, rates, options), always_run(spec, rates, options)
    if k == n:
        return [1.0] * n
    left_out = [0.0 if layer in always else 1.0 - rate for layer, rate in enumerate(rates.by_layer or [0.0] * n)]
    if not any(left_out):
        raise ValueError(_none_left("layers", "p_l", rates, n))
    chances = [1.0 - (n - k) * share / sum(left_out) for share in left_out]
    if rates.by_layer and min(chances) <= 0.0:
        layer = chances.index(min(chances))
        raise ValueError(
            f"stage.layer_rates: at p_l = {rates.p_l:g}, {k} of {n} layers, layer {layer} would run with the chance "
            f"{chances[layer]:.3g}; raise p_l ({_mean(rates)}), or its entry, {rates.by_layer[layer]:g}"
        )
    return chances


def protected_in(spec: ModelSpec, options: SamplingOptions) -> Protected:
    """What always runs complete. Raises ValueError where the model has no such layer."""
    return protected(options.protect, spec.num_layers, options.keep_ends)


def always_run(spec: ModelSpec, rates: SamplingRates, options: SamplingOptions) -> frozenset[int]:
    """The layers that are in every draw of some of the layers."""
    if rates.layers == "path":
        return frozenset({0, spec.num_layers - 1})
    return protected_in(spec, options).layers | never_sampled(rates)


def largest_layers(spec: ModelSpec, rates: SamplingRates, options: SamplingOptions) -> list[int]:
    """The layers of a draw that has the most parameters, in order."""
    k, n = layer_size(spec, rates, options), spec.num_layers
    if k == n or rates.layers == "first":
        return list(range(k))
    kept, always = kept_units(spec, rates, options), always_run(spec, rates, options)
    size = {units: sum(held.kept_entries(spec.full, units) for held in spec.sampled) for units in set(kept)}
    return sorted(sorted(range(n), key=lambda layer: (layer not in always, -size[kept[layer]]))[:k])


def varies(spec: ModelSpec, rates: SamplingRates, options: SamplingOptions) -> bool:
    """Whether draws at these rates differ in size: in how many layers run, or since not all of them keep as much."""
    if rates.random:
        return True
    k, n = layer_size(spec, rates, options), spec.num_layers
    if k == n or rates.layers == "first":
        return False
    kept, always = kept_units(spec, rates, options), always_run(spec, rates, options)
    return len(always) < k and len({kept[layer] for layer in range(n) if layer not in always}) > 1


def layer_size(spec: ModelSpec, rates: SamplingRates, options: SamplingOptions) -> int:
    """How many layers run; of a random number the most. Raises ValueError as sample_sizes() does."""
    n = spec.num_layers
    if rates.random:
        if options.protect and len(protected_in(spec, options).layers) == n:
            raise ValueError(f"sampling.protect: all {n} layers are protected, so none is sampled; protect fewer")
        if options.cover == "balanced":
            raise ValueError("sampling.cover: balanced needs as many layers in each draw, not some by chance")
        if options.layers_by == "sequence":
            raise ValueError("sampling.layers_by: sequence needs as many sequences in each layer, not some by chance")
        return n
    layers = sample_size(rates.p_l, n) if rates.num_layers is None else rates.num_layers
    if layers > n:
        raise ValueError(f"stage.depths: {layers} layers are more than the model's {n}")
    if rates.layers == "path" and layers < min(2, n):
        raise ValueError(
            f"stage.depths: a path of {layers} of {n} layers is too short; it holds the first and the last one"
        )
    if rates.layers == "sample" and rates.p_l < 1.0:
        _refuse_too_few(n, rates.p_l, layers, options)
    return layers


def _refuse_too_few(n: int, p_l: float, layers: int, options: SamplingOptions) -> None:
    """Where those that always run are more than the rate keeps."""
    always = protected(options.protect, n, options.keep_ends).layers
    if layers >= max(len(always), 2 * options.keep_ends):
        return
    keeps = f"p_l = {p_l} of {n} layers keeps only {layers}, but"
    if options.protect:
        listed = ", ".join(map(str, sorted(always)))
        raise ValueError(
            f"sampling.protect: {keeps} {len(always)} always run ({listed}); raise stage.p_l, or protect only the "
            "heads: and columns: of some"
        )
    raise ValueError(
        f"sampling.keep_ends: {keeps} the first and the last are 2; raise stage.p_l or set sampling.keep_ends=false"
    )


def _head_sizes(spec: ModelSpec, p_h: float, kv_groups: str) -> tuple[int, int]:
    """(query heads, KV heads) that run."""
    if p_h == 1.0:
        return spec.num_heads, spec.num_kv_heads
    if kv_groups == "whole":
        if spec.num_kv_heads == 1:
            raise ValueError(
                "sampling.kv_groups: `whole` cannot sample a model with one KV head; use sampling.kv_groups=within"
            )
        groups = sample_size(p_h, spec.num_kv_heads)
        return groups * spec.group_size, groups
    if spec.group_size == 1:
        raise ValueError(
            "sampling.kv_groups: `within` cannot sample groups of one query head; use sampling.kv_groups=whole"
        )
    if not spec.splits_groups:
        raise ValueError(
            f'sampling.kv_groups: `within` leaves out query heads of a group, and nothing in {spec.family} has "head" '
            'on its "out" side, so that they are computed as whole groups; use sampling.kv_groups=whole'
        )
    return spec.num_kv_heads * sample_size(p_h, spec.group_size), spec.num_kv_heads
