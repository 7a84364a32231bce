"""Samples: what the model is asked, and how they are shown."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from est_cli.training import evaluation
from est_cli.training.validation import sample_text
from tests.lab.small_models import byte_tokenizer, gpt2


def test_a_sample_is_one_line_that_does_a_terminal_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    settings = SimpleNamespace(train=SimpleNamespace(sample_prompt="", sample_tokens=3), seed=0)
    run: Any = SimpleNamespace(
        config=settings,
        handle=SimpleNamespace(activate=lambda subnetwork: None),
        autocast=nullcontext,
        corpus=SimpleNamespace(tokenizer=None),
        state=SimpleNamespace(step=7),
        progress=SimpleNamespace(line=lines.append),
        tracker=SimpleNamespace(event=lambda kind, record: None),
        **dict.fromkeys(("in_use", "objective", "model")),
    )
    monkeypatch.setattr(evaluation, "gathered", lambda objective: nullcontext())
    monkeypatch.setattr(evaluation, "sample_text", lambda *args: "red\n\x1b]0;PWNED\x07\x1b[31m text\r\n")
    evaluation.show_sample(run)
    assert lines == ["sample at step 7: red ?]0;PWNED??[31m text"]


def test_a_prompt_begins_as_texts_do_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not behind a token that the tokenizer puts before texts: training never saw it."""
    asked: list[list[int]] = []

    def generate(inputs: torch.Tensor, **options: Any) -> torch.Tensor:
        asked.append(inputs[0].tolist())
        return inputs

    model, tokenizer = gpt2(), byte_tokenizer(encoder=True)
    tokenizer.eos_token = "<|end|>"
    assert tokenizer("ab").input_ids[0] == tokenizer.cls_token_id
    monkeypatch.setattr(model, "generate", generate)
    for prompt in ("ab", ""):
        sample_text(model, tokenizer, prompt, 3, seed=0)
    assert asked == [tokenizer("ab", add_special_tokens=False).input_ids, [tokenizer.eos_token_id]]
