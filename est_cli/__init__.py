"""Pre-training of language models with Evolving Subnetwork Training (Li et al., ICML 2024).

Rooms, imports pointing downwards only:

    train.py plan.py             one door per command
    loop/ planning.py            the training loop; what it would cost
    resume.py memory.py          which run is meant; what fits
    compose.py door.py           command line to configuration; errors to exit codes (compose.py alone uses Hydra)
    data/ tracking/ checkpoint/ report/  models.py optim.py evaluate.py run_dir.py
    config.py checks.py schema.py errors.py
    arch/                        model families -> ModelSpec
    est/                         the method: pure torch, useful alone
"""

__version__ = "0.1.0"
