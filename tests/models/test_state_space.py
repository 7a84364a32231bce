"""Mamba and Mamba2 from the configuration to a text sample: what differs from models with attention."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from est_cli.common.errors import ConfigError
from est_cli.config import ModelConfig, OptimConfig
from est_cli.est import apply_est
from est_cli.families import spec_of
from est_cli.models import build_model, hf_config
from est_cli.models.selective_scan import use_selective_scan
from est_cli.training.optim import build_optimizer
from est_cli.training.validation import sample_text
from tests.est.test_mamba import build
from tests.lab.commands import accepted
from tests.lab.mamba_reference import FAMILIES, config_of

every_family = pytest.mark.parametrize("family", FAMILIES)


KERNELS = logging.getLogger("transformers.integrations.hub_kernels")


@pytest.fixture(autouse=True)
def transformers_as_before() -> Iterator[None]:
    yield
    use_selective_scan(False)
    KERNELS.setLevel(logging.NOTSET)


class Letters:
    """As much of a tokenizer as a sample needs."""

    eos_token_id = 0

    def __call__(self, text: str, add_special_tokens: bool) -> object:
        return type("Encoding", (), {"input_ids": [ord(letter) % 31 for letter in text]})

    def decode(self, ids: torch.Tensor, skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids.tolist()))


@every_family
@pytest.mark.parametrize("prompt", ["def ", ""])
def test_a_sample_has_no_limit_of_positions(family: str, prompt: str) -> None:
    model, tokenizer = build(family, eos_token_id=None), Letters()
    text = sample_text(model, tokenizer, prompt, 20, seed=0)  # type: ignore[arg-type]
    assert len(text.split()) == max(1, len(prompt)) + 20
    assert text == sample_text(model, tokenizer, prompt, 20, seed=0)  # type: ignore[arg-type]
    assert model.training


@every_family
def test_a_checkpoint_is_continued(family: str, tmp_path: Path) -> None:
    plain = build(family)
    plain.save_pretrained(tmp_path)
    model = ModelConfig("hf", "hf", name_or_path=str(tmp_path))
    loaded = build_model(model, hf_config(model), 0)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_checkpoint_with_groups_is_refused(tmp_path: Path) -> None:
    config_of("mamba2", n_groups=3).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"^model.name_or_path: Mamba2 with n_groups=3 is not supported"):
        hf_config(ModelConfig("hf", "hf", name_or_path=str(tmp_path)))


def test_channels_are_as_many_as_the_config_says(tmp_path: Path) -> None:
    """Not `expand` times the width, where both stand there."""
    config = config_of("mamba")
    config.intermediate_size = 20
    config.save_pretrained(tmp_path)
    model = ModelConfig("hf", "hf", name_or_path=str(tmp_path), pretrained=False)
    built = build_model(model, hf_config(model), 0)
    assert spec_of(built).num_heads == 20
    apply_est(built, spec_of(built))


@every_family
def test_the_published_preset_is_transformers_default_but_for_sizes(family: str) -> None:
    """The defaults of transformers' configs are those of the larger published models (Mamba2: with groups)."""
    config = hf_config(accepted(f"model={family}_130m").model)
    ours, theirs = config.to_dict(), type(config)().to_dict()
    differ = {key for key in theirs if ours[key] != theirs[key]}
    sizes = {"hidden_size", "num_hidden_layers", "vocab_size", "num_heads", "n_groups", "time_step_rank"}
    begin = {"initializer_range", "rescale_prenorm_residual", "bos_token_id", "eos_token_id", "pad_token_id"}
    assert differ - sizes - begin == ({"tie_word_embeddings"} if family == "mamba2" else {"intermediate_size"} & differ)


@every_family
@pytest.mark.parametrize("has_gpu", [True, False])
def test_only_a_gpu_is_told_of_its_kernels(family: str, has_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    KERNELS.setLevel(logging.NOTSET)
    hf_config(accepted(f"model={family}_tiny").model)
    assert KERNELS.level == (logging.NOTSET if has_gpu else logging.ERROR)


def test_the_logarithms_of_rates_do_not_decay() -> None:
    model = build("mamba")
    decaying, others = build_optimizer(model, OptimConfig()).param_groups
    names = {parameter: name.rpartition(".mixer.")[2] for name, parameter in model.named_parameters()}
    mixer = {"A_log", "D", "conv1d.bias", "dt_proj.bias", "in_proj.bias", "out_proj.bias"}
    assert {names[p] for p in others["params"] if "norm" not in names[p]} == mixer
    assert {"conv1d.weight", "x_proj.weight"} < {names[p] for p in decaying["params"]}
