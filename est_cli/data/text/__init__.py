"""What text there is: documents from files, from the hub and from far away, in units of work.

1. sources.py says which documents there are: files (units.py), data sets of the hub (hub.py, with hub_access.py for
   its network and hub_text.py for `datasets`), the standard library; repeats.py refuses what is named twice, shares.py
   orders what is taken in parts and what is mixed by weight.
2. readers.py reads a file by its suffix, tables.py rows that are no .jsonl; far/ and place.py stand for files that are
   not here. parquet_pages.py looks how large pages are; document_ends.py ends documents that are no file and no row.
3. pieces.py is what all of them yield, and which of it is held out for validation.
"""
