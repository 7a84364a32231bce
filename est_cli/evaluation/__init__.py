"""How good a checkpoint is: fine-tuned on GLUE, or zero-shot.

check_evaluation.py   what is checked before torch
run_evaluation.py     from the configuration to the results
glue.py examples.py   the nine tasks, and the examples in their files or on the hub
classifier.py finetune.py   a checkpoint with a new head, and its training
outcomes.py           records of fine-tunings, their spread, differences between two checkpoints
results.py score_table.py   the files in the folder, and the table
zero_shot.py          perplexity, lm-evaluation-harness
"""
