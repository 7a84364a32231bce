"""est-train on the small preset of every family: it trains, goes on after a kill, and saves what it evaluated."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from est_cli.config.groups import CONF
from est_cli.families import FAMILIES, family_of
from tests.lab.lab import T2, Lab, cached_tokens, outcome, train_records
from tests.training.test_resume import before_step

PRESETS = sorted(
    {path.stem for path in (CONF / "model").glob("*_tiny.yaml")} - {"gpt2_tiny", "mamba_tiny", "mamba2_tiny"}
)
"""GPT-2 is in all other tests of the loop, state-space models have a test of their own (tests/est/test_mamba.py)."""
SIX = ("train.max_steps=6", "stage.t1=2", "stage.t2=4", "train.eval_every=0", "train.checkpoint_every=0")


def small(preset: str) -> list[str]:
    """The preset with other sizes: heads of 8, a window shorter than a sequence."""
    keys = family_of(preset.removesuffix("_tiny").replace("gemma3", "gemma3_text")).keys
    sizes = {"mlp_size": 64, "num_kv_heads": 2, "head_dim": 8, "sliding_window": 8}
    return [f"model={preset}", *(f"model.{key}={value}" for key, value in sizes.items() if key in keys)]


def test_every_family_has_a_preset() -> None:
    families = {name.removesuffix("_tiny").replace("gemma3", "gemma3_text") for name in PRESETS}
    assert families == set(FAMILIES) - {"gpt2", "mamba", "mamba2"}


@pytest.mark.some(3)
@pytest.mark.parametrize("preset", PRESETS)
def test_it_trains_and_plain_transformers_finds_the_same_loss(shared: Lab, preset: str) -> None:
    ended = shared.tiny(preset, *small(preset), *SIX)
    assert ended.code == 0, ended.err
    run = shared.at(preset)
    assert [record["stage"] for record in train_records(run)] == [1, 1, 2, 2, 3, 3]
    remembered, tokens = cached_tokens(shared.folder / "data")
    held_out = torch.from_numpy(tokens[remembered["train_tokens"] :].astype("int64"))
    blocks = held_out[: len(held_out) // 32 * 32].view(-1, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = AutoModelForCausalLM.from_pretrained(run / "model").eval()
        assert model.config.pad_token_id is None
    with torch.no_grad():
        loss = model(input_ids=blocks, labels=blocks).loss.item()
    assert loss == pytest.approx(json.loads((run / "summary.json").read_text())["final_val_loss"], rel=1e-5)


@pytest.mark.some(1)
@pytest.mark.parametrize("preset", ["gemma2_tiny", "olmo2_tiny"])
def test_it_goes_on_after_a_kill(lab: Lab, golden: Callable[..., dict[str, Any]], preset: str) -> None:
    """Sampled norms, norms behind branches, a cap at the LM head."""
    assert lab.tiny("x", *small(preset), plants=[before_step(T2 - 1)]).code == -9
    ended = lab.tiny("x", *small(preset))
    assert ended.code == 0, ended.err
    assert outcome(lab.at("x")) == golden(*small(preset))


@pytest.mark.parametrize(
    ("preset", "setting", "words"),
    [
        ("gemma2_tiny", "train.attention=flash", "train.attention: gemma2 caps its attention logits"),
        ("gemma2_tiny", "train.lm_loss=torch", "train.lm_loss: torch cannot cap logits, as gemma2 does; use chunked"),
        ("llama_tiny", "model.head_dim=7", "model.num_heads: rotary positions need an even head size, got 7"),
        ("gemma3_tiny", "model.hidden_size=30", "model: transformers refuses these numbers: "),
    ],
)
def test_what_a_family_cannot_do_is_told(lab: Lab, preset: str, setting: str, words: str) -> None:
    ended = lab.tiny("x", *small(preset), *SIX, setting)
    assert ended.code == 2 and len(ended.last_words) == 1
    assert ended.last_words[0].startswith(f"est-train: error: {words}")
    assert not lab.at("x").exists()
