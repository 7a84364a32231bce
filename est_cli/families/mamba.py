"""Mamba: the inner channels take the heads' place; there is no MLP and no attention.

A channel is its rows of in_proj (x and gate), its convolution, its rows of dt_proj, A and D, and its columns of x_proj
and out_proj. These two sum over channels, and so carry 1/p: x_proj makes dt, B and C of all channels together.
"""

from __future__ import annotations

import math
from typing import Any

from est_cli.est.spec import ModelSpec, Projection, SampledParameter, UnitSpan
from est_cli.families.shared.family import Family, Numbers


def settings(numbers: Numbers) -> dict[str, Any]:
    """As published, initialisation included: transformers' defaults are made for models that are loaded."""
    return {
        "vocab_size": numbers.vocab_size,
        "hidden_size": numbers.hidden_size,
        "num_hidden_layers": numbers.num_layers,
        "state_size": numbers.state_size,
        "expand": 2,
        "intermediate_size": 2 * numbers.hidden_size,
        "conv_kernel": 4,
        "time_step_rank": math.ceil(numbers.hidden_size / 16),
        "initializer_range": 0.02,
        "rescale_prenorm_residual": True,
        "layer_norm_epsilon": numbers.norm_eps,
        "tie_word_embeddings": numbers.tie_embeddings,
    }


def spec(config: Any) -> ModelSpec:
    d, channels, state = config.hidden_size, config.intermediate_size, config.state_size
    rank = int(config.time_step_rank)
    return ModelSpec(
        family="mamba",
        layers="backbone.layers",
        num_layers=config.num_hidden_layers,
        num_heads=channels,
        num_kv_heads=channels,
        head_dim=1,
        mlp_size=0,
        hidden_size=d,
        vocab_size=config.vocab_size,
        max_positions=None,
        projections=(
            Projection("mixer.in_proj", d, 2 * channels, "head", "out", (UnitSpan(1),) * 2),
            Projection("mixer.x_proj", channels, rank + 2 * state, "head", "in"),
            Projection("mixer.dt_proj", rank, channels, "head", "out"),
            Projection("mixer.out_proj", channels, d, "head", "in"),
        ),
        branches=("mixer",),
        parameters=(
            SampledParameter("mixer.conv1d", "weight", (channels, 1, config.conv_kernel), "head", products=1),
            SampledParameter("mixer.conv1d", "bias", (channels,), "head"),
            SampledParameter("mixer", "A_log", (channels, state), "head"),
            SampledParameter("mixer", "D", (channels,), "head"),
        ),
        attention=False,
    )


FAMILY = Family(
    spec,
    settings,
    required=("vocab_size", "hidden_size", "num_layers"),
    defaults={"state_size": 16, "tie_embeddings": True, "norm_eps": 1e-5},
)
