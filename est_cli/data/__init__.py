"""The data room: text to token blocks whose order is a pure function of the seed.

1. text/ says which documents there are and reads them, in units of work.
2. tokens/ makes tokens of them, once, and reads these as streams.
3. corpus.py puts both together: what a run trains on, what it is validated on, by which tokenizer.
4. blocks.py cuts streams into blocks and says which block, of which source, is the i-th sample; parts.py does
   both for text that is tokenised while the run goes on; packing.py says where the documents in a block begin.

The public names are loaded when they are first used: worker processes import modules of this package, and need neither
torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from est_cli.data.blocks import BlockOrder, TokenBlocks
    from est_cli.data.corpus import Corpus, load_corpus

__all__ = ["BlockOrder", "Corpus", "TokenBlocks", "load_corpus"]

HOMES = {"BlockOrder": "blocks", "TokenBlocks": "blocks", "Corpus": "corpus", "load_corpus": "corpus"}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)
