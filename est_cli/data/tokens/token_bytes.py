"""How many bytes of text a token stands for: known exactly of a byte-level tokenizer, and of no other."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from est_cli.data.tokens.tokenizer import backend, token_count


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64] | None:
    """(tokens,) the bytes in UTF-8 of each id, 0 of end-of-text; None where the tokens do not tell.

    A byte-level token has a sign for each of its bytes. A tokenizer that changes the text before it cuts it, but for
    composing its characters (NFC), or puts a space before it, has other bytes than the text.
    """
    layout: dict[str, Any] = json.loads(backend(tokenizer).to_str())
    before = json.dumps(layout["pre_tokenizer"])
    kinds = {layout["model"]["type"], (layout["normalizer"] or {"type": "NFC"})["type"]}
    if kinds != {"BPE", "NFC"} or '"ByteLevel"' not in before or '"add_prefix_space": true' in before:
        return None
    found = np.zeros(token_count(tokenizer), dtype=np.int64)
    for token, number in tokenizer.get_vocab().items():
        found[number] = len(token)
    for added in layout["added_tokens"]:
        found[added["id"]] = len(added["content"].encode())
    if tokenizer.eos_token_id is not None:
        found[tokenizer.eos_token_id] = 0
    return found
