"""What the loss looks like around a checkpoint. Each analysis is a function of a loss and of tensors, then a command.

check_analysis.py   what is checked before torch
run_analysis.py     from the configuration to the folder
analysis_job.py     what all analyses are given: checkpoints, text and loss, processes
curvature.py        products with the Hessian, its trace (Hutchinson)
landscape.py        the loss along random directions, and from one model to another
structural_dropout.py   the expected loss of random subnetworks; gates.py is its second-order prediction
parameters.py       which weights of a model are embeddings, attention, MLP, norms
display.py          tables and pictures
"""
