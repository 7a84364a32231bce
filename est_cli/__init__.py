"""Pre-training of language models with Evolving Subnetwork Training (Li et al., ICML 2024).

Rooms, imports pointing downwards only:

    train.py plan.py eval.py analyze.py report.py    one door per command
    glue/ analysis/              est-eval: fine-tuning, metrics, results; est-analyze: curvature, flatness, comparison
    examine/                     what these two share: checkpoints of anyone, opened and spread over processes
    sweep/                       est-train -m, est-eval -m: many jobs, each a process of its own
    launch/                      one run in several processes: started, watched, ended together
    planning/                    est-plan: what a run would cost, targets met, plans side by side
    loop/                        the training loop
    resume.py memory.py          which run is meant; what fits
    compose.py door.py           command line to configuration; errors to exit codes (only it and sweep/ use Hydra)
    parallel/                    what these processes tell each other: gradients, decisions, alarms
    data/ tracking/ checkpoint/ reporting/ optim/  models.py evaluate.py run_dir.py
    config/ checks/ schema.py errors.py rank.py
    arch/                        model families -> ModelSpec
    est/                         the method: pure torch, useful alone
"""

__version__ = "0.1.0"
"""Told here alone: pyproject.toml, --version, checkpoints and summaries take it from here."""
