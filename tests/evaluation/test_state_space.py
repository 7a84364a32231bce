"""What est-eval says of a Mamba: transformers has no classifier of it."""

from __future__ import annotations

from typing import Any

import pytest

from est_cli.common.errors import CheckpointError
from est_cli.evaluation.classifier import load_classifier
from est_cli.models.pretrained import Checkpoint
from tests.lab.mamba_reference import FAMILIES, config_of


@pytest.mark.parametrize("family", FAMILIES)
def test_no_classifier(family: str) -> None:
    tokenizer: Any = None
    with pytest.raises(CheckpointError, match=f"no classifier of the family {family}; task=perplexity"):
        load_classifier(Checkpoint("x", "x", config_of(family), tokenizer), 2, 0, None)
