"""What differs between model families: the specification of a model follows from its config alone."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import BertConfig, GPT2Config, JambaConfig, LlamaConfig, MixtralConfig, Qwen3MoeConfig

from est_cli.est import ModelSpec
from est_cli.families import spec_of
from tests.lab.est_models import ALL_FAMILIES, build, config_of

SIZES = (
    "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_size", "hidden_size", "vocab_size", "max_positions",
)  # fmt: skip


def sizes(spec: ModelSpec) -> dict[str, int]:
    return {name: getattr(spec, name) for name in SIZES}


def expected(*numbers: int) -> dict[str, int]:
    return dict(zip(SIZES, numbers, strict=True))


TINYLLAMA = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "max_position_embeddings": 2048}


@pytest.mark.parametrize(
    ("config", "numbers"),
    [
        (GPT2Config(), (12, 12, 12, 64, 3072, 768, 50257, 1024)),
        (GPT2Config(n_layer=24, n_head=16, n_embd=1024), (24, 16, 16, 64, 4096, 1024, 50257, 1024)),
        (config_of("gpt2"), (5, 5, 5, 4, 23, 20, 31, 24)),
        (
            LlamaConfig(**TINYLLAMA, num_attention_heads=32, num_key_value_heads=4),
            (22, 32, 4, 64, 5632, 2048, 32000, 2048),
        ),
        (LlamaConfig(**TINYLLAMA, num_attention_heads=32), (22, 32, 32, 64, 5632, 2048, 32000, 2048)),
        (config_of("llama"), (5, 9, 3, 4, 25, 18, 31, 24)),  # head_dim is not hidden_size / num_heads
    ],
)
def test_sizes(config: Any, numbers: tuple[int, ...]) -> None:
    assert sizes(spec_of(config)) == expected(*numbers)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_a_model_and_its_config_have_the_same_specification(family: str) -> None:
    config = config_of(family)
    assert sizes(spec_of(build(config))) == sizes(spec_of(config))
    assert spec_of(build(config)).projections == spec_of(config).projections


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_the_projections_are_all_matrices_of_a_layer(family: str) -> None:
    """Nothing that costs FLOPs is forgotten or counted twice."""
    model = build(config_of(family))
    spec = spec_of(model)
    matrices = {
        name: tuple(parameter.shape)
        for name, parameter in model.get_submodule(f"{spec.layers}.0").named_parameters()
        if parameter.ndim == 2
    }
    listed = {f"{p.path}.weight": (p.in_features, p.out_features) for p in spec.projections}
    assert len(listed) == len(spec.projections)
    assert {name: sorted(shape) for name, shape in matrices.items()} == {name: sorted(s) for name, s in listed.items()}


@pytest.mark.parametrize("config", [BertConfig(), MixtralConfig(), Qwen3MoeConfig(), JambaConfig()])
def test_other_families_are_refused_naming_the_supported_ones(config: Any) -> None:
    with pytest.raises(ValueError, match="supported") as error:
        spec_of(config)
    message = str(error.value)
    assert config.model_type in message and all(family in message for family in ALL_FAMILIES) and "\n" not in message


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("gpt2", {"add_cross_attention": True}, "cross-attention"),
        ("opt", {"word_embed_proj_dim": 8}, "embeddings of another width"),
        ("opt", {"layerdrop": 0.1}, "layerdrop"),
        ("stablelm", {"qk_layernorm": True}, "qk_layernorm"),
        *((gemma, {"use_bidirectional_attention": True}, "bidirectional") for gemma in ("gemma", "gemma2")),
        ("gemma3_text", {"use_bidirectional_attention": True}, "bidirectional"),
    ],
)
def test_what_a_config_says_that_est_cannot_do_is_refused(family: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^model: .*{words}[^\n]*$"):
        spec_of(config_of(family, **changes))


@pytest.mark.parametrize("nothing", [None, object(), {"model_type": "gpt2"}])
def test_what_is_no_model_is_refused(nothing: Any) -> None:
    with pytest.raises(ValueError, match="supported"):
        spec_of(nothing)


def test_the_name_that_users_of_the_method_import() -> None:
    from est_cli.arch import spec_of as imported

    from est_cli import families

    assert imported is families.spec_of
