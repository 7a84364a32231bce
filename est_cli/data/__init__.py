"""The data room: text to token blocks whose order is a pure function of the seed.

1. sources.py says which documents there are, as units of work (units.py, hub.py with hub_access.py and hub_text.py),
   and part.py which of them are taken (shares.py: in which order); readers.py and tables.py read them, far/ what is not
   here (parquet_pages.py looks how large they are first, document_ends.py ends those that are no file and no row).
2. tokenizer.py loads the tokenizer, or trains a byte-level BPE on the documents.
3. encode.py writes the tokens of a unit to a file, long documents in parts (cuts.py); token_cache.py has that done for
   all units that are missing, here or in processes (encode_workers.py), and storage/cache.py keeps each in
   data/<hash>/. The text of an evaluation goes the same way (evaluated.py).
4. Some documents are held out for validation, by a hash of their text (pieces.py).
5. token_files.py opens ids that are there already, in the forms of token_forms.py.
6. stream.py reads the files of a corpus as one stream, blocks.py cuts streams into blocks and says which block, of
   which source, is the i-th sample.

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
