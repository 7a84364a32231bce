"""Bytes of a token: those of the text that it was made of, or none are told."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from est_cli.data.tokens.token_bytes import token_bytes
from est_cli.data.tokens.tokenizer import _train

TEXT = "naïve café, 東京 and 🙂 — twice: naïve café"


def test_the_bytes_of_a_text_are_those_of_its_tokens() -> None:
    tokenizer = _train(iter([TEXT] * 20), 300)
    tokenizer.add_tokens(["東京 and"])
    of_token = token_bytes(tokenizer)
    assert of_token is not None and of_token[tokenizer.eos_token_id] == 0
    ids = tokenizer(TEXT).input_ids
    assert len(ids) < len(TEXT.encode()) == of_token[ids].sum()


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({"normalizer": normalizers.NFC()}, True),
        ({"normalizer": normalizers.Lowercase()}, False),
        ({"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)}, False),
        ({"pre_tokenizer": pre_tokenizers.Metaspace(), "decoder": decoders.Metaspace()}, False),
        ({"model": models.WordLevel({"a": 0, "b": 1}, unk_token="a")}, False),
    ],
)
def test_only_plain_byte_level_tokenizers_tell(change: dict[str, Any], known: bool) -> None:
    inner = Tokenizer.from_str(_train(iter([TEXT]), 270).backend_tokenizer.to_str())
    for name, value in change.items():
        setattr(inner, name, value)
    found = token_bytes(PreTrainedTokenizerFast(tokenizer_object=inner))
    assert (found is not None) == known
