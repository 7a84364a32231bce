"""What reading the data costs of a training step.

    python benchmarks/data_time.py

Times the reading of one step's tokens (order, gather from files that are open, conversion) against the whole step of
the smallest preset, gpt2_tiny at its default 4,096 tokens: the worst case, since larger models have longer steps.
There are more tokens than in the corpus of most runs of that size (100 M, in 20 files), and positions are random.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from est_cli.config import ModelConfig, OptimConfig
from est_cli.data import BlockOrder, TokenBlocks
from est_cli.data.tokens.stream import Tokens, TokenSpan, TokenStream
from est_cli.est import apply_est
from est_cli.families import spec_of
from est_cli.models import build_model, hf_config
from est_cli.models.lm_loss import next_token_loss, target_count
from est_cli.training.optim import build_optimizer, update

GPT2_TINY = ModelConfig(vocab_size=4096, hidden_size=128, num_layers=4, num_heads=4, max_positions=512)
SEQ_LEN, SEQUENCES, ROUNDS, TOKENS, FILES = 256, 16, 20, 100_000_000, 20


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        spans = []
        for number in range(FILES):
            path = Path(folder) / f"{number}.bin"
            np.random.default_rng(number).integers(0, 4096, TOKENS // FILES, dtype=np.uint16).tofile(path)
            spans.append(TokenSpan(path, "<u2", 0, TOKENS // FILES))
        blocks = TokenBlocks(Tokens((TokenStream(spans),)), SEQ_LEN)
        order = BlockOrder(blocks.num_blocks, seed=0)
        model = build_model(GPT2_TINY, hf_config(GPT2_TINY), seed=0)
        apply_est(model, spec_of(model))
        optimizer = build_optimizer(model, OptimConfig())
        order.blocks(0, 1)  # the permutation of the epoch is drawn once
        reading, step = [], []
        for number in range(ROUNDS):
            begin = time.perf_counter()
            tokens = blocks.take(order.blocks(number * SEQUENCES, SEQUENCES))
            read = time.perf_counter()
            loss = next_token_loss(model(input_ids=tokens, use_cache=False).logits, tokens) / target_count(tokens)
            loss.backward()
            update(optimizer, 1e-3, 1.0, loss.detach())
            reading.append(read - begin)
            step.append(time.perf_counter() - begin)
    share = median(r / s for r, s in zip(reading, step, strict=True))
    times = f"reading {1e3 * median(reading):.3f} ms, step {1e3 * median(step):.0f} ms"
    print(f"{times}: {100 * share:.3f} % (goal: < 2 %)")


if __name__ == "__main__":
    main()
