"""How many units a rate keeps, and which choices are refused."""

from __future__ import annotations

import pytest

from est_cli.est import IndexGenerator, SamplingOptions, SamplingRates, sample_size
from est_cli.est.kept import column_size
from est_cli.families import spec_of
from tests.lab.est_models import gpt2_config, llama_config


@pytest.mark.parametrize(
    ("p", "n", "expected"),
    [
        (0.5, 12, 6),
        (0.5, 5, 3),  # 2.5 is rounded up, where Python's round gives 2
        (0.5, 7, 4),  # 3.5 as well
        (0.5, 1, 1),
        (0.01, 12, 1),  # never nothing
        (0.1, 12, 1),  # 1.2
        (0.13, 12, 2),  # 1.56
        (1 / 3, 12, 4),
        (0.7, 22, 15),  # 15.4, TinyLlama's layers
        (0.99, 12, 12),  # 11.88
        (1.0, 3072, 3072),
    ],
)
def test_sample_size_is_half_up_and_at_least_one(p: float, n: int, expected: int) -> None:
    assert sample_size(p, n) == expected


@pytest.mark.parametrize(
    ("p", "n", "multiple_of", "expected"),
    [
        (0.6, 3072, None, 1840),  # 1843.2; GPT-2's
        (0.9, 5632, None, 5072),  # 5068.8; TinyLlama's
        (0.5, 3072, None, 1536),
        (0.6, 3072, 1, 1843),
        (0.6, 3072, 128, 1792),
        (0.01, 3072, 128, 128),
        (0.99, 3072, 128, 3072),
        (0.6, 56, None, 34),  # too few for a rule
        (0.6, 100, None, 60),
        (0.6, 100, 8, 64),  # 60 lies between, and half is rounded up
        (1.0, 3074, None, 3074),
        (0.5, 0, 8, 0),  # a model without MLP
    ],
)
def test_columns_are_the_nearest_multiple(p: float, n: int, multiple_of: int | None, expected: int) -> None:
    assert column_size(p, n, multiple_of) == expected


def test_more_than_all_columns_are_refused() -> None:
    spec, options = spec_of(gpt2_config()), SamplingOptions(multiple_of=24)
    with pytest.raises(ValueError, match=r"^sampling.multiple_of: 24 is more than the 23 MLP columns"):
        IndexGenerator(spec, 0, options).draw(0, SamplingRates(0.5, 0.5, 0.5))


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.0000001, 2, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["p_h", "p_m", "p_l"])
def test_rates_outside_zero_to_one_are_refused(name: str, rate: float) -> None:
    with pytest.raises(ValueError, match=name):
        SamplingRates(**{name: rate})


def test_rates_are_one_by_default_and_may_be_tiny() -> None:
    assert SamplingRates() == SamplingRates(1.0, 1.0, 1.0)
    assert SamplingRates(1e-9, 1e-9, 1e-9).p_l == 1e-9


@pytest.mark.parametrize("name", ["redraw", "kv_groups", "layer_scale"])
def test_unknown_choices_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        SamplingOptions(**{name: "sometimes"})


def test_the_defaults_are_those_of_the_paper_and_the_design() -> None:
    expected = SamplingOptions(redraw="step", per_layer=True, kv_groups="whole", layer_scale="none", keep_ends=False)
    assert SamplingOptions() == expected


def test_whole_with_one_kv_head_is_refused_and_names_within() -> None:
    spec = spec_of(llama_config(num_key_value_heads=1))
    with pytest.raises(ValueError, match="within"):
        IndexGenerator(spec, 0, SamplingOptions(kv_groups="whole")).draw(0, SamplingRates(p_h=0.5))
    assert IndexGenerator(spec, 0, SamplingOptions(kv_groups="within")).draw(
        0, SamplingRates(p_h=0.5)
    ).head_idx.shape == (5, 5)


@pytest.mark.parametrize("config", [gpt2_config(), llama_config(num_key_value_heads=9)])
def test_within_groups_of_one_is_refused_and_names_whole(config: object) -> None:
    with pytest.raises(ValueError, match="whole"):
        IndexGenerator(spec_of(config), 0, SamplingOptions(kv_groups="within")).draw(0, SamplingRates(p_h=0.5))


@pytest.mark.parametrize(
    ("config", "kv_groups"), [(llama_config(num_key_value_heads=1), "whole"), (gpt2_config(), "within")]
)
def test_these_choices_are_no_matter_where_no_heads_are_sampled(config: object, kv_groups: str) -> None:
    subnetwork = IndexGenerator(spec_of(config), 0, SamplingOptions(kv_groups=kv_groups)).draw(
        0, SamplingRates(p_m=0.5)
    )
    assert subnetwork.head_idx is None and subnetwork.kv_idx is None


def test_keep_ends_needs_two_layers() -> None:
    generator = IndexGenerator(spec_of(gpt2_config()), 0, SamplingOptions(keep_ends=True))
    with pytest.raises(ValueError, match="keep_ends"):
        generator.draw(0, SamplingRates(p_l=0.2))
    assert generator.draw(0, SamplingRates(p_l=0.4)).layer_idx == (0, 4)
