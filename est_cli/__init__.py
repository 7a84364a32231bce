"""Pre-training of language models with Evolving Subnetwork Training (Li et al., ICML 2024).

Rooms, imports pointing downwards only:

    train.py plan.py             one door per command          compose.py  Hydra
    loop/                        the training loop             resume.py
    data/ tracking/ checkpoint/ report/  models.py optim.py evaluate.py
    config.py checks.py schema.py errors.py run_dir.py
    arch/                        model families -> ModelSpec
    est/                         the method: pure torch, useful alone
"""

__version__ = "0.1.0"
