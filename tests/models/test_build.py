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
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel
from transformers.utils import logging

from est_cli.common.errors import ConfigError, DataError
from est_cli.config import ModelConfig
from est_cli.config.groups import CONF
from est_cli.config.model import preset_sizes
from est_cli.est import Kept, ModelSpec, apply_est
from est_cli.families import spec_of
from est_cli.models import attention_masks, build_model, empty_model, hf_config, set_end_of_text
from est_cli.models.foreign import CODE_KEYS
from est_cli.models.lm_loss import LmLoss
from tests.lab.commands import accepted
from tests.lab.est_models import ALL_FAMILIES, build, config_of

D, EMBEDDING = 128, 4096 * 128
GROUPED = 2 * D**2 + 2 * D * 64
"""The attention of a tiny preset with four heads of 32 and two KV heads."""
WIDE = 2 * D * 256 + 2 * D * 128
"""The same with heads of 64."""
GATED, PLAIN = 3 * D * 352, 8 * D**2
"""The MLPs."""
PARAMETERS = {
    "gemma2_2b": 2_614_341_888,
    "gemma2_tiny": EMBEDDING + 4 * (GROUPED + GATED + 4 * D) + D,
    "gemma3_1b": 999_885_952,
    "gemma3_tiny": EMBEDDING + 6 * (GROUPED + GATED + 4 * D + 2 * 32) + D,
    "gemma_2b": 2_506_172_416,
    "gemma_tiny": EMBEDDING + 4 * (WIDE + GATED + 2 * D) + D,
    "gpt2": 124_439_808,
    "gpt2_medium": 354_823_168,
    "gpt2_tiny": EMBEDDING + 512 * D + 4 * (12 * D**2 + 13 * D) + 2 * D,
    "gpt_neox_tiny": 2 * EMBEDDING + 4 * (12 * D**2 + 13 * D) + 2 * D,
    "granite_2b": 2_533_525_504,
    "granite_tiny": EMBEDDING + 4 * (GROUPED + GATED + 2 * D) + D,
    "llama_tiny": 2 * EMBEDDING + 4 * (GROUPED + GATED + 2 * D) + D,
    "mamba2_130m": 128_989_632,
    "mamba2_tiny": EMBEDDING + 4 * (D * 584 + 5 * 320 + 3 * 8 + 256 + 256 * D + D) + D,
    "mamba_130m": 129_135_360,
    "mamba_tiny": EMBEDDING + 4 * (D * 512 + 256 * (5 + 40 + 8 + 1 + 16 + 1) + 256 * D + D) + D,
    "mistral_7b": 7_241_732_096,
    "mistral_tiny": 2 * EMBEDDING + 4 * (GROUPED + GATED + 2 * D) + D,
    "olmo2_1b": 1_484_916_736,
    "olmo2_tiny": 2 * EMBEDDING + 4 * (4 * D**2 + GATED + 4 * D) + D,
    "opt_125m": 125_239_296,
    "opt_tiny": EMBEDDING + 514 * D + 4 * (12 * D**2 + 13 * D) + 2 * D,
    "phi3_mini": 3_821_079_552,
    "phi3_tiny": 2 * EMBEDDING + 4 * (GROUPED + GATED + 2 * D) + D,
    "phi_1_5": 1_418_270_720,
    "phi_tiny": 2 * EMBEDDING + 4096 + 4 * (12 * D**2 + 11 * D) + 2 * D,
    "pythia_160m": 162_322_944,
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_tiny": EMBEDDING + 4 * (GROUPED + 2 * D + GATED + 2 * D) + D,
    "qwen3_0_6b": 596_049_920,
    "qwen3_tiny": EMBEDDING + 4 * (WIDE + 2 * 64 + GATED + 2 * D) + D,
    "smollm3_3b": 3_075_098_624,
    "smollm3_tiny": EMBEDDING + 4 * (GROUPED + GATED + 2 * D) + D,
    "stablelm_3b": 2_795_443_200,
    "stablelm_tiny": 2 * EMBEDDING + 4 * (GROUPED + GATED + 4 * D) + 2 * D,
    "starcoder2_3b": 3_030_371_328,
    "starcoder2_tiny": EMBEDDING + 4 * (GROUPED + 3 * D + PLAIN + 5 * D + 4 * D) + 2 * D,
    "tinyllama": 1_100_048_384,
}
"""Parameters of each preset: as published, or counted by hand."""


ONE_KV_HEAD = ("gemma_2b", "gemma3_1b")


def preset(name: str) -> ModelConfig:
    return accepted(f"model={name}", *["sampling.kv_groups=within"] * (name in ONE_KV_HEAD)).model


def told_apart(spec: ModelSpec) -> dict[str, Any]:
    """What can be compared; functions are each their own."""
    counts = Kept(6, 3, 5)
    attributes = [(a.path, a.name, a.value(counts)) for a in spec.attributes]
    return {name: getattr(spec, name) for name in vars(spec)} | {"attributes": attributes}


@pytest.mark.some(8)
@pytest.mark.slow
@pytest.mark.parametrize("name", [path.stem for path in (CONF / "model").glob("*.yaml") if path.stem != "hf"])
def test_presets_have_the_published_sizes(name: str) -> None:
    with torch.device("meta"):
        model = build_model(preset(name), hf_config(preset(name)), 0)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert told_apart(spec_of(model)) == told_apart(preset_sizes(preset(name)))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.some(5)
@pytest.mark.slow
@pytest.mark.parametrize("name", [path.stem for path in (CONF / "model").glob("*_tiny.yaml")])
def test_an_empty_model_lacks_nothing_but_its_memory(name: str) -> None:
    """Names, sizes and layout of what a process gets from another one, and no tensor that it would not get."""
    whole, empty = build_model(preset(name), hf_config(preset(name)), 0), empty_model(hf_config(preset(name)))
    for tensors in ("named_parameters", "named_buffers"):
        there, here = dict(getattr(whole, tensors)()), dict(getattr(empty, tensors)())
        assert all(tensor.is_meta for tensor in here.values())
        told = [{key: (x.shape, x.stride(), x.dtype) for key, x in found.items()} for found in (there, here)]
        assert [*told[0].items()] == [*told[1].items()]
    assert not [name for part in empty.modules() for name, x in vars(part).items() if isinstance(x, torch.Tensor)]


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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PARAMETERS if name.endswith("_tiny")])
def test_no_dropout_of_a_family_is_forgotten(name: str) -> None:
    model = preset(name)
    model.dropout = 0.3
    heads_only = {"summary_first_dropout", "classifier_dropout", "layerdrop"}
    keys = {key for key in hf_config(model).to_dict() if "drop" in key} - heads_only
    assert {getattr(hf_config(model), key) for key in keys} <= {0.3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "masks"),
    [
        ("llama_tiny", {}, (False,)),
        ("mistral_tiny", {}, (True,)),
        ("phi3_tiny", {}, (True,)),
        ("mistral_tiny", {"sliding_window": 257}, (False,)),
        ("gemma2_tiny", {}, (False, True)),
        ("gemma3_tiny", {"num_layers": 5}, (True,)),
        ("qwen2_tiny", {}, (False,)),
        ("smollm3_tiny", {}, (False,)),
        ("starcoder2_tiny", {"sliding_window": 256}, (True,)),
    ],
    ids=str,
)
def test_which_layers_need_a_mask(name: str, changes: dict[str, Any], masks: tuple[bool, ...]) -> None:
    """As transformers makes them for 256 tokens."""
    model = preset(name)
    for key, value in changes.items():
        setattr(model, key, value)
    assert attention_masks(hf_config(model), 256) == masks
    seen = set()
    built = build_model(model, hf_config(model), 0)
    for module in built.modules():
        if type(module).__name__.endswith("Attention"):
            module.register_forward_pre_hook(
                lambda _, args, kwargs: seen.add(kwargs["attention_mask"] is not None), with_kwargs=True
            )
    with torch.no_grad():
        built(input_ids=torch.zeros(1, 256, dtype=torch.int64))
    if name != "gemma2_tiny":  # eager attention has a mask always
        assert seen == set(masks)


def foreign(folder: Path, pretrained: bool = True, **settings: Any) -> ModelConfig:
    return ModelConfig(name="hf", family="hf", name_or_path=str(folder), pretrained=pretrained, **settings)


def checkpoint(folder: Path, family: str) -> PreTrainedModel:
    """A folder with weights that no seed gives."""
    model = build(config_of(family, attn_implementation=None), seed=5)
    model.save_pretrained(folder)
    return model


def loaded(model: ModelConfig) -> PreTrainedModel:
    return build_model(model, hf_config(model), 0)


@pytest.mark.parametrize("family", ALL_FAMILIES)
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


@pytest.mark.parametrize("family", ALL_FAMILIES)
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


@pytest.mark.parametrize("kind", ["bert", "mixtral", "qwen2_moe", "granitemoe", "jamba", "t5"])
def test_other_architectures_are_refused_naming_the_supported_ones(tmp_path: Path, kind: str) -> None:
    """Mixtures of experts, hybrids and encoders included."""
    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    told = refusal(foreign(tmp_path, pretrained=False))
    assert f"{kind!r} is not supported; supported are gemma, gemma2, gemma3_text, gpt2, gpt_neox," in told


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


def test_the_folder_of_a_run_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_config(tmp_path / "model", "gpt2")
    assert refusal(foreign(tmp_path)) == (
        f"model.name_or_path: {tmp_path} holds no config.json, so this is no model; give a folder such as "
        "outputs/NAME/model"
    )


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", "{", '"gpt2"', "\x00"])
def test_what_is_no_config_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    assert "holds no config that transformers can read" in refusal(foreign(tmp_path))


def test_layers_with_a_window_of_no_size_are_refused(tmp_path: Path) -> None:
    folder = write_config(tmp_path, "gemma2", sliding_window=None)
    assert "has layers with a sliding window in its config.json, of no size" in refusal(foreign(folder, False))
    everywhere = write_config(tmp_path, "gemma2", sliding_window=None, layer_types=["full_attention"] * 5)
    assert attention_masks(hf_config(foreign(everywhere, False)), 24) == (False,)


def test_what_a_forward_returns_is_ours_to_say(tmp_path: Path) -> None:
    """A config.json may ask for a tuple."""
    folder = write_config(tmp_path, "llama", return_dict=False)
    tokens = torch.arange(6)[None]
    model = loaded(foreign(folder, False))
    assert torch.isfinite(LmLoss()(model, tokens, 5))
    assert "return_dict" not in json.loads(model.config.to_json_string())


@pytest.mark.parametrize(
    ("family", "changes"), [("stablelm", {"head_dim": 8}), ("gpt_neox", {"head_dim": 8}), ("opt", {"head_dim": 8})]
)
def test_a_width_of_heads_that_a_family_does_not_read(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    model = loaded(foreign(write_config(tmp_path, family, **changes), False))
    assert spec_of(model).head_dim == 4
    apply_est(model, spec_of(model))


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
    assert refusal(ModelConfig(family="hf", name_or_path=path)) == (f"model.name_or_path: there is no folder {path}")


def test_a_misspelt_folder_is_told_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "myllama").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("est_cli.data.text.hub_access.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("est_cli.data.text.hub_access._answers", lambda url: False)
    with pytest.raises(DataError) as error:
        hf_config(ModelConfig(family="hf", name_or_path="mylama"))
    start = "model.name_or_path: there is no folder mylama; did you mean myllama?; as a name of the hub 'mylama'"
    assert str(error.value).startswith(start)


@pytest.mark.parametrize("name", ["a/b/c", "no name", "x" * 5000 + "/y/z"])
def test_what_is_neither_a_folder_nor_a_name(name: str) -> None:
    with pytest.raises(DataError, match=r"^model\.name_or_path: .* is neither a folder nor the name"):
        hf_config(ModelConfig(family="hf", name_or_path=name))


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
    preset = ModelConfig("x", "gpt2", 64, 32, 2, 4, max_positions=16)
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
            ModelConfig(family="hf", name_or_path=str(tmp_path), pretrained=False, fused_activation=fused)
        )
        expected = "gelu_pytorch_tanh" if fused and activation == "gelu_new" else activation
        assert config.activation_function == expected
    llama = hf_config(ModelConfig("x", "llama", 64, 32, 2, 4, max_positions=16))
    assert llama.hidden_act == "silu"
