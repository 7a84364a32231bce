"""`auto` on a real device, of which the process may use a small part only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers import GPT2Config

from est_cli.common.errors import OutOfMemory
from est_cli.training import micro_batch
from est_cli.training.step import forward_backward
from tests.training.test_micro_batch import run_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

LIMIT, SEQUENCES, SEQ_LEN = 3e9, 64, 512
"""Bytes; a step takes some 9e9 in one pass through the complete model, and 0.5e9 whatever its size."""


@pytest.fixture(autouse=True)
def small_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(micro_batch, "CUDA_RESERVE", 0.0)  # of the whole device it would be more than the limit
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(LIMIT / torch.cuda.get_device_properties(0).total_memory)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def config() -> GPT2Config:
    sizes = {"vocab_size": 8192, "n_embd": 512, "n_head": 8, "n_layer": 8, "n_positions": SEQ_LEN}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2Config(**sizes, **dropout, bos_token_id=None, eos_token_id=None)


def test_auto_finds_sizes_that_train_and_leaves_no_trace() -> None:
    run = run_of(config(), "auto", "cuda", seq_len=SEQ_LEN, sequences=SEQUENCES)
    weights, before = [p.detach().cpu() for p in run.model.parameters()], torch.cuda.memory_allocated()
    sizes = micro_batch.resolve(run)
    assert SEQUENCES > sizes[3] >= 2 and SEQUENCES >= sizes[1] >= sizes[2] >= sizes[3] and sizes[1] > sizes[3], sizes
    assert abs(torch.cuda.memory_allocated() - before) < 64e6, "a workspace of cuBLAS, but no gradient or activation"
    assert all(torch.equal(now.cpu(), was) for now, was in zip(run.model.parameters(), weights, strict=True))
    for step, stage in ((0, 1), (2, 2), (5, 3), (6, 3)):
        run.handle.activate(run.generator.draw(step, run.scheduler.rates_at(step)))
        for _ in range(2):
            tokens = torch.randint(0, 8192, (sizes[stage], SEQ_LEN), device="cuda")
            forward_backward(run, tokens, tokens.numel())
        run.optimizer.step()
        run.optimizer.zero_grad()


def test_a_number_that_does_not_fit_at_the_end_is_told_at_the_start() -> None:
    run = run_of(config(), [2, 2, SEQUENCES], "cuda", seq_len=SEQ_LEN, sequences=SEQUENCES)
    with pytest.raises(OutOfMemory, match=r"64 sequences per forward pass do not fit in stage 3"):
        micro_batch.resolve(run)
    assert micro_batch.resolve(run_of(config(), 2, "cuda", seq_len=SEQ_LEN, sequences=SEQUENCES)) == {1: 2, 2: 2, 3: 2}
