"""The test to copy: est.check runs a small model of the family, and names what its specification lacks."""

from __future__ import annotations

import torch
from est_example.family import spec
from est_example.model import SquaredConfig, SquaredForCausalLM

from est_cli import est


def test_the_specification_says_what_the_model_does() -> None:
    config = SquaredConfig(
        vocab_size=31, hidden_size=20, num_hidden_layers=3, num_attention_heads=5, intermediate_size=23
    )
    batch = torch.randint(31, (2, 7))
    assert est.check(SquaredForCausalLM(config), spec(config), batch) < 1e-9
