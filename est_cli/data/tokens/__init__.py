"""What becomes of the text: tokens on the disk, made once, and the streams that they are read as.

1. tokenizer.py loads the tokenizer, or trains a byte-level BPE on the documents.
2. encode.py writes the tokens of a unit to a file, long documents in parts (cuts.py); token_cache.py has that done for
   all units that are missing, here or in processes (encode_workers.py), and storage/cache.py keeps each in
   data/<hash>/. part.py stops where enough is there, ahead.py has it done while the run goes on, estimate.py tells
   beforehand how long it takes.
3. The text of an evaluation goes the same way (evaluated.py).
4. token_files.py opens ids that are there already, in the forms of token_forms.py; foreign_tokens.py refuses what holds
   none.
5. stream.py reads files of ids as one stream; overlap.py compares what is trained on with what is held out.
"""
