"""CPU time of a step of each stage of Mamba over that of the complete model, measured as in stage_time.py.

    python benchmarks/mamba_time.py       # mamba and mamba2, one thread, some minutes

The model is that of studies/mamba.py.
"""

from __future__ import annotations

import math

import torch
from measure import Case
from stage_time import _keep_freed_memory as keep_freed_memory
from stage_time import build, measure, results

from est_cli.config import ModelConfig

SEQ_LEN, SEQUENCES, VOCAB, ROUNDS = 128, 16, 1024, 6


def main() -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    print("| model | step | seconds | of the complete model's time | 95 % interval | of its FLOPs (total) |")
    print("|---|---|---|---|---|---|")
    for family in ("mamba", "mamba2"):
        model = ModelConfig(f"{family}_tiny", family, vocab_size=VOCAB, hidden_size=128, num_layers=4)
        if family == "mamba2":
            model.head_dim = model.state_size = 32
        case = Case(model, SEQ_LEN, SEQUENCES * SEQ_LEN, math.inf)
        bench = build(case, torch.device("cpu"), compiled=False, micro_batches=1)
        for line in results(case, bench.spec, measure(case, bench, ROUNDS, lambda told: None)):
            told = f"{line.ratio:.3f} | {line.low:.3f} - {line.high:.3f} | {line.ideal:.3f}"
            print(f"| {model.name} | {line.what} | {line.time_s:.3f} | {told} |", flush=True)


if __name__ == "__main__":
    main()
