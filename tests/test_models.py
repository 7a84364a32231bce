"""Models of presets, and those that a folder of Hugging Face's layout describes. Nothing is fetched."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BertConfig, GPT2Config, LlamaConfig, MistralConfig, PreTrainedModel
from transformers.utils import logging

from est_cli.compose import CONF
from est_cli.config import Family, ModelConfig
from est_cli.errors import ConfigError, DataError
from est_cli.models import CODE_KEYS, build_model, hf_config, set_end_of_text

from .commands import accepted
from .est.models import FAMILIES, build, config_of

PARAMETERS = {
    "gpt2": 124_439_808,
    "gpt2_medium": 354_823_168,
    "gpt2_tiny": 4096 * 128 + 512 * 128 + 4 * (12 * 128**2 + 13 * 128) + 2 * 128,
    "llama_tiny": 2 * 4096 * 128 + 4 * (2 * 128**2 + 2 * 128 * 64 + 3 * 128 * 352 + 2 * 128) + 128,
    "tinyllama": 1_100_048_384,
}
"""Parameters of each preset: as published, or counted by hand."""


def preset(name: str) -> ModelConfig:
    return accepted(f"model={name}").model


@pytest.mark.parametrize("name", [path.stem for path in (CONF / "model").glob("*.yaml") if path.stem != "hf"])
def test_presets_have_the_published_sizes(name: str) -> None:
    with torch.device("meta"):
        model = build_model(preset(name), hf_config(preset(name)), 0)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_presets_take_their_numbers() -> None:
    gpt2, llama = (accepted(f"model={name}_tiny").model for name in ("gpt2", "llama"))
    gpt2.mlp_size, gpt2.tie_embeddings, gpt2.dropout = 300, False, 0.2
    config = hf_config(gpt2)
    set_end_of_text(config, gpt2, 7)
    assert (config.n_inner, config.tie_word_embeddings, config.n_positions) == (300, False, 512)
    assert (config.bos_token_id, config.eos_token_id) == (7, 7)
    llama.num_kv_heads, llama.mlp_size, llama.tie_embeddings, llama.rope_theta = None, None, True, 5e5
    llama.norm_eps = 1e-5
    config = hf_config(llama)
    assert (config.num_key_value_heads, config.intermediate_size, config.tie_word_embeddings) == (4, 512, True)
    assert config.rope_parameters["rope_theta"] == 5e5
    assert config.rms_norm_eps == 1e-5


@pytest.mark.parametrize("name", ["gpt2_tiny", "llama_tiny"])
def test_the_seed_decides_the_weights(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        model = build_model(preset(name), hf_config(preset(name)), seed)
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    torch.manual_seed(99)
    first = weights(0)
    assert torch.equal(first, weights(0)) and not torch.equal(first, weights(1))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("name", ["gpt2_tiny", "llama_tiny"])
def test_dropout_reaches_the_model(name: str, dropout: float) -> None:
    model = preset(name)
    model.dropout = dropout
    config = hf_config(model)
    keys = [key for key in config.to_dict() if key.endswith("_pdrop") or key == "attention_dropout"]
    assert keys and {getattr(config, key) for key in keys} == {dropout}
    built = build_model(model, config, 0).train()
    tokens = torch.arange(12)[None]
    one, two = (built(input_ids=tokens).logits for _ in range(2))
    assert torch.equal(one, two) == (dropout == 0.0)


def foreign(folder: Path, pretrained: bool = True, **settings: Any) -> ModelConfig:
    return ModelConfig(name="hf", family=Family.hf, name_or_path=str(folder), pretrained=pretrained, **settings)


def checkpoint(folder: Path, family: str) -> PreTrainedModel:
    """A folder with weights that no seed gives."""
    model = build(config_of(family, attn_implementation=None), seed=5)
    model.save_pretrained(folder)
    return model


def loaded(model: ModelConfig) -> PreTrainedModel:
    return build_model(model, hf_config(model), 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_a_checkpoint_folder(tmp_path: Path, family: str, capfd: pytest.CaptureFixture[str]) -> None:
    saved = checkpoint(tmp_path, family).state_dict()
    capfd.readouterr()
    model = loaded(foreign(tmp_path, dropout=0.1))
    assert capfd.readouterr() == ("", "")
    got = model.state_dict()
    assert got.keys() == saved.keys() and all(torch.equal(got[name], saved[name]) for name in saved)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert 0.1 in (getattr(model.config, "resid_pdrop", None), getattr(model.config, "attention_dropout", None))


def test_weights_in_half_precision_are_continued_in_fp32(tmp_path: Path) -> None:
    build(config_of("gpt2"), dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert {parameter.dtype for parameter in loaded(foreign(tmp_path)).parameters()} == {torch.float32}
    fresh = loaded(foreign(tmp_path, pretrained=False))
    assert {parameter.dtype for parameter in fresh.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_architecture_of_a_folder(tmp_path: Path, family: str) -> None:
    config_of(family).save_pretrained(tmp_path)
    one, same, other = (
        build_model(foreign(tmp_path, False), hf_config(foreign(tmp_path, False)), n) for n in (0, 0, 1)
    )
    assert one.config.vocab_size == 31 and one.config.num_hidden_layers == 5
    weights = [torch.cat([p.flatten() for p in made.parameters()]) for made in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    with pytest.raises(ConfigError, match=r"^model\.name_or_path: .*; model\.pretrained=false starts afresh$"):
        loaded(foreign(tmp_path))


def test_the_end_of_text_of_a_continued_model_is_its_own(tmp_path: Path) -> None:
    config_of("gpt2", eos_token_id=3).save_pretrained(tmp_path)
    for pretrained, expected in ((True, 3), (False, 7)):
        model = foreign(tmp_path, pretrained)
        config = hf_config(model)
        set_end_of_text(config, model, 7)
        assert config.eos_token_id == expected


def refusal(model: ModelConfig) -> str:
    with pytest.raises(ConfigError) as error:
        loaded(model)
    told = str(error.value)
    assert told.startswith("model.name_or_path: ") and "\n" not in told and len(told) < 500
    return told


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8),
        MistralConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8),
    ],
)
def test_other_architectures_are_refused_naming_the_supported_ones(tmp_path: Path, config: Any) -> None:
    config.save_pretrained(tmp_path)
    told = refusal(foreign(tmp_path, pretrained=False))
    assert repr(config.model_type) in told and "supported are gpt2, llama" in told


def write_config(folder: Path, family: str, **changes: Any) -> Path:
    settings = config_of(family).to_dict() | changes
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_map", {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}),
        ("_attn_implementation_internal", "someone/kernel"),
        ("_attn_implementation", "someone/kernel"),
        ("attn_implementation", "someone/kernel"),
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ],
)
def test_a_config_that_chooses_code_is_refused(tmp_path: Path, key: str, value: Any, pretrained: bool) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    told = refusal(foreign(write_config(tmp_path, "gpt2", **{key: value}), pretrained=pretrained))
    assert f"would choose code to run ({key} in config.json)" in told and key in CODE_KEYS
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gpt2", {"n_head": 0}),
        ("gpt2", {"n_head": 3}),
        ("gpt2", {"n_head": "many"}),
        ("gpt2", {"n_layer": -1}),
        ("gpt2", {"n_embd": None}),
        ("gpt2", {"activation_function": "evil"}),
        ("gpt2", {"model_type": ["gpt2"]}),
        ("gpt2", {"model_type": "new"}),
        ("llama", {"num_key_value_heads": 0}),
        ("llama", {"num_key_value_heads": 2}),
        ("llama", {"num_attention_heads": 0, "head_dim": None}),
        ("llama", {"vocab_size": 0}),
    ],
)
def test_sizes_that_make_no_model_are_refused(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    refusal(foreign(write_config(tmp_path, family, **changes), pretrained=False))


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", "{", '"gpt2"', "\x00"])
def test_what_is_no_config_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    assert "holds no config that transformers can read" in refusal(foreign(tmp_path))


def as_pickle(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def without_one(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def with_another_shape(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights | {"transformer.wte.weight": torch.zeros(3, 3)}, folder / "model.safetensors", {"format": "pt"})


def cut_off(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def not_tensors(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04]")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (as_pickle, "no file named model.safetensors"),
        (without_one, "1 weights are missing or have another shape, such as transformer.h.1.mlp.c_fc.weight"),
        (with_another_shape, "1 weights are missing or have another shape, such as transformer.wte.weight"),
        (cut_off, "cannot be loaded"),
        (not_tensors, "cannot be loaded"),
    ],
)
def test_weights_that_are_not_all_there_are_refused(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    damage: Callable[[Path, dict[str, torch.Tensor]], None],
    words: str,
) -> None:
    checkpoint(tmp_path, "gpt2")
    damage(tmp_path, load_file(tmp_path / "model.safetensors"))
    capfd.readouterr()
    assert words in refusal(foreign(tmp_path))
    assert capfd.readouterr() == ("", "")  # transformers would print a report


def test_transformers_is_as_loud_as_before(tmp_path: Path) -> None:
    checkpoint(tmp_path, "gpt2")
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    loaded(foreign(tmp_path))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize("path", ["./nothing", "/nothing", "~nobody/nothing"])
def test_a_folder_that_is_not_there(path: str) -> None:
    assert refusal(ModelConfig(family=Family.hf, name_or_path=path)) == (
        f"model.name_or_path: there is no folder {path}"
    )


@pytest.mark.parametrize("name", ["a/b/c", "no name", "x" * 5000 + "/y/z"])
def test_what_is_neither_a_folder_nor_a_name(name: str) -> None:
    with pytest.raises(DataError, match=r"^model\.name_or_path: .* is neither a folder nor the name"):
        hf_config(ModelConfig(family=Family.hf, name_or_path=name))


def test_presets_open_in_plain_transformers(tmp_path: Path) -> None:
    for name in ("gpt2_tiny", "llama_tiny"):
        model = build_model(preset(name), hf_config(preset(name)), 0).eval()
        model.save_pretrained(tmp_path / name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
        tokens = torch.arange(9)[None]
        assert torch.equal(model(input_ids=tokens).logits, again(input_ids=tokens).logits)
        assert isinstance(again.config, GPT2Config | LlamaConfig)


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(16)[None]).logits


def test_the_fused_activation_is_the_same_function_and_is_told_in_the_config(tmp_path: Path) -> None:
    preset = ModelConfig("x", Family.gpt2, 64, 32, 2, 4, max_positions=16)
    plain = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=16)
    assert plain.activation_function == "gelu_new"
    fused = build_model(preset, hf_config(preset), seed=0)
    fused.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["activation_function"] == "gelu_pytorch_tanh"
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(theirs), logits(fused)), "plain transformers runs what the config says"
    unfused = AutoModelForCausalLM.from_pretrained(tmp_path, config=plain)
    assert not torch.equal(logits(unfused), logits(fused))
    torch.testing.assert_close(logits(unfused), logits(fused), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ["gelu_new", "relu", "gelu"])
def test_only_gelu_new_is_fused_and_only_if_wanted(tmp_path: Path, activation: str) -> None:
    GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, activation_function=activation).save_pretrained(tmp_path)
    for fused in (True, False):
        config = hf_config(
            ModelConfig(family=Family.hf, name_or_path=str(tmp_path), pretrained=False, fused_activation=fused)
        )
        expected = "gelu_pytorch_tanh" if fused and activation == "gelu_new" else activation
        assert config.activation_function == expected
    llama = hf_config(ModelConfig("x", Family.llama, 64, 32, 2, 4, max_positions=16))
    assert llama.hidden_act == "silu"
