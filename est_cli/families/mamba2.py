"""Mamba2: its heads are the units; B and C belong to all heads and always run; there is no MLP and no attention.

The gated norm in front of out_proj normalises over the heads that run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from est_cli.est.spec import ModelSpec, Projection, SampledAttribute, SampledParameter, UnitSpan
from est_cli.families.shared.family import Family, Numbers

EXPAND = 2
"""How much wider the heads together are than the model, in all published models."""


def settings(numbers: Numbers) -> dict[str, Any]:
    """As published, initialisation included; a chunk of the scan costs as much inside as for its state."""
    return {
        "vocab_size": numbers.vocab_size,
        "hidden_size": numbers.hidden_size,
        "num_hidden_layers": numbers.num_layers,
        "num_heads": EXPAND * numbers.hidden_size // numbers.head_dim,
        "head_dim": numbers.head_dim,
        "state_size": numbers.state_size,
        "n_groups": 1,
        "expand": EXPAND,
        "conv_kernel": 4,
        "chunk_size": 2 * numbers.state_size,
        "initializer_range": 0.02,
        "rescale_prenorm_residual": True,
        "layer_norm_epsilon": numbers.norm_eps,
        "tie_word_embeddings": numbers.tie_embeddings,
    }


def spec(config: Any) -> ModelSpec:
    if config.n_groups != 1:
        raise ValueError(f"model: Mamba2 with n_groups={config.n_groups} is not supported; only n_groups=1 is")
    d, heads, width, state = config.hidden_size, config.num_heads, config.head_dim, config.state_size
    inner, shared = heads * width, 2 * state
    convolved = inner + shared
    gate, conv, dt = (
        UnitSpan(width),
        (UnitSpan(width), UnitSpan(shared, fixed=True)),
        UnitSpan(1),
    )  # conv: x, then B and C
    return ModelSpec(
        family="mamba2",
        layers="backbone.layers",
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width,
        mlp_size=0,
        hidden_size=d,
        vocab_size=config.vocab_size,
        max_positions=None,
        projections=(
            Projection("mixer.in_proj", d, inner + convolved + heads, "head", "out", (gate, *conv, dt)),
            Projection("mixer.out_proj", inner, d, "head", "in"),
        ),
        branches=("mixer",),
        parameters=(
            SampledParameter("mixer.conv1d", "weight", (convolved, 1, config.conv_kernel), "head", 0, conv, products=1),
            SampledParameter("mixer.conv1d", "bias", (convolved,), "head", 0, conv),
            *(SampledParameter("mixer", name, (heads,), "head") for name in ("A_log", "D", "dt_bias")),
            SampledParameter("mixer.norm", "weight", (inner,), "head"),
        ),
        attributes=(
            SampledAttribute("mixer", "num_heads", lambda kept: kept.heads),
            SampledAttribute("mixer", "intermediate_size", lambda kept: kept.heads * width),
            SampledAttribute("mixer", "conv_dim", lambda kept: kept.heads * width + shared),
            SampledAttribute("mixer.norm", "group_size", lambda kept: kept.heads * width),
        ),
        attention=False,
    )


def problems(numbers: Numbers) -> Iterator[str]:
    inner = EXPAND * numbers.hidden_size
    if inner % numbers.head_dim:
        yield f"model.head_dim: {numbers.head_dim} does not divide {EXPAND} * model.hidden_size = {inner}"


FAMILY = Family(
    spec,
    settings,
    required=("vocab_size", "hidden_size", "num_layers"),
    defaults={"state_size": 128, "head_dim": 64, "tie_embeddings": True, "norm_eps": 1e-5},
    problems=problems,
)
