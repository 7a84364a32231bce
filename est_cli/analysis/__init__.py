"""What the loss looks like around a checkpoint. Each analysis is a function of a loss and of tensors, then a command.

estimate.py   a mean with its standard error
curvature.py  products with the Hessian, its trace (Hutchinson)
parameters.py which weights of a model are embeddings, attention, MLP, norms
flatness.py   directions normalised filter by filter, the loss along them
line.py       two models: how far apart, and the loss between them
dropout.py    the expected loss of random subnetworks; gates.py is its second-order prediction
work.py       what the processes share, and how far they are
trace.py surface.py sampling.py   what a checkpoint is asked: the four analyses
asked.py text.py job.py run.py folder.py table.py figures.py   the command around them
"""
