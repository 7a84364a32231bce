"""est-data: what a run would read, in numbers and samples, without the run.

1. `survey.py` counts what the cached tokens of a corpus hold.
2. `show.py` has the corpus tokenised as est-train has it, prints what was counted and writes it.
"""
