"""Time of a step whose sequences leave out their own layers, against one whose sequences leave out the same ones.

    python benchmarks/sequence_time.py                            # CPU, one thread: a minute or two
    python benchmarks/sequence_time.py --width 512 --layers 8 --rounds 12

Forward and backward of GPT-2 (gpt2_tiny by default) at p_l = 0.5, half of the sequences through each layer or all of
them through half of the layers: the FLOPs are equal. In each round both kinds take two steps on the same tokens, in one
order and in the other. Reported is the median of the ratios inside a round, with a 95 % bootstrap interval: CPU time of
one thread, or on a GPU wall time.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from measure import SEED, clock, paired_ratio
from torch import Tensor

from est_cli.config import ModelConfig
from est_cli.est import EstHandle, IndexGenerator, SamplingOptions, SamplingRates, apply_est
from est_cli.families import spec_of
from est_cli.models import build_model, hf_config
from est_cli.models.lm_loss import LmLoss, target_count

KINDS = ("batch", "sequence")


def seconds_of(
    handle: EstHandle, model: torch.nn.Module, tokens: Tensor, rates: SamplingRates, step: int
) -> list[float]:
    """Seconds of a step of each of KINDS, taken twice: in their order, and in the reverse one."""
    generator, seconds = IndexGenerator(handle.spec, SEED), [0.0, 0.0]
    for number in (0, 1, 1, 0):
        options = SamplingOptions(layers_by=KINDS[number])
        drawn = replace(generator, options=options).draw(step, rates, sequences=len(tokens))
        model.zero_grad(set_to_none=True)
        begin = clock(tokens.device)
        handle.activate(drawn)
        LmLoss()(model, tokens, target_count(tokens)).backward()
        seconds[number] += clock(tokens.device) - begin
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("width", 128), ("layers", 4), ("heads", 4), ("sequences", 16), ("seq-len", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = ModelConfig("gpt2", "gpt2", 4096, given.width, given.layers, given.heads, max_positions=given.seq_len)
    model = build_model(config, hf_config(config), SEED).to(given.device).train()
    handle = apply_est(model, spec_of(model))
    tokens = torch.randint(4096, (given.sequences, given.seq_len), device=given.device)
    for what, rates in (("layers", SamplingRates(p_l=0.5)), ("all", SamplingRates(0.5, 0.5, 0.5))):
        rounds = [seconds_of(handle, model, tokens, rates, step) for step in range(given.rounds + 2)][2:]
        ratio, low, high = paired_ratio([own for _, own in rounds], [same for same, _ in rounds])
        print(f"{what} at 0.5: sequence / batch {ratio:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
