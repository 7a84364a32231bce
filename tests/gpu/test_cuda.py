"""What only a GPU can show; skipped without one. `make gpu` runs these and the GPU benchmarks."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from est_cli.config import (
    DatasetConfig,
    ModelConfig,
    Precision,
    RunConfig,
    Source,
    StageConfig,
    TrackingConfig,
    TrainConfig,
    WandbMode,
)
from est_cli.config.resolve import check
from est_cli.est import IndexGenerator, SamplingRates, apply_est
from est_cli.families import spec_of
from est_cli.models import build_model, hf_config
from est_cli.models.lm_loss import LmLoss, next_token_loss, target_count
from est_cli.training.build import build
from est_cli.training.start import Start
from est_cli.training.step import train_step
from est_cli.training.train import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

GPT2 = ModelConfig("gpt2", "gpt2", 512, 128, 4, 4, max_positions=128)
LLAMA = ModelConfig("llama", "llama", 512, 128, 4, 4, 2, 352, 128)
BOTH = pytest.mark.parametrize("preset", [GPT2, LLAMA], ids=["gpt2", "llama"])


def models(preset: ModelConfig) -> tuple[Any, Any]:
    """The same model on the CPU (float64) and on the GPU."""
    cpu = build_model(preset, hf_config(preset), 0).double()
    return cpu, deepcopy(cpu).cuda()


@BOTH
def test_subnetwork_on_the_gpu_equals_the_cpu(preset: ModelConfig) -> None:
    losses, gradients = [], []
    for model in models(preset):
        handle = apply_est(model, spec_of(model))
        handle.activate(IndexGenerator(handle.spec, 0).draw(1, SamplingRates(0.5, 0.5, 0.5)))
        tokens = torch.arange(256).view(2, 128).to(model.device)
        loss = next_token_loss(model(input_ids=tokens, use_cache=False).logits, tokens)
        loss.backward()
        losses.append(loss.item())
        gradients.append([None if p.grad is None else p.grad.cpu() for p in model.parameters()])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)  # the loss is summed in fp32
    for cpu, gpu in zip(*gradients, strict=True):
        assert (cpu is None) == (gpu is None)
        assert cpu is None or torch.allclose(cpu, gpu, rtol=1e-4, atol=1e-5)


@BOTH
def test_compiled_layers_make_no_graph_for_new_indices(preset: ModelConfig) -> None:
    _, model = models(preset)
    model.float()
    handle = apply_est(model, spec_of(model))
    for layer in handle.layers:
        layer.compile(dynamic=False)
    generator, rates = IndexGenerator(handle.spec, 0), SamplingRates(0.5, 0.5, 1.0)
    counts = []
    for step in range(6):
        handle.activate(generator.draw(step, rates))
        tokens = torch.arange(256, device="cuda").view(2, 128)
        next_token_loss(model(input_ids=tokens, use_cache=False).logits, tokens).backward()
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts[-1] == counts[0], counts


STEPS = 60


def run_config(folder: Path, **train: Any) -> RunConfig:
    """A run of random tokens with stages of 20 steps; needs no library that reads data sets."""
    rng = np.random.default_rng(0)
    for name, size in (("train.bin", 200_000), ("val.bin", 10_000)):
        rng.integers(0, 64, size).astype(np.uint16).tofile(folder / name)
    tokenizer = Tokenizer(tokenizer_models.WordLevel({"<end>": 0, "word": 1}, unk_token="<end>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<end>")
    tokenizer.save_pretrained(folder / "tokenizer")
    config = RunConfig(
        run_name="gpu",
        tokenizer="tokenizer",
        model=GPT2,
        dataset=DatasetConfig("tokens", Source.tokens, ["train.bin"], validation_files=["val.bin"]),
        stage=StageConfig(20, 40, 0.5, 0.5, 0.5),
        train=TrainConfig(**{"max_steps": STEPS, "seq_len": 128, "precision": Precision.bf16} | train),
        tracking=TrackingConfig(wandb=WandbMode.off),
    )
    check(config)
    return config


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def records() -> list[dict[str, Any]]:
    lines = Path("outputs/gpu/metrics.jsonl").read_text("utf-8").splitlines()
    return [record for record in map(json.loads, lines) if "loss" in record]


def test_a_compiled_bf16_run_trains(folder: Path) -> None:
    with build(Start.of(run_config(folder), None)) as run:
        train(run)
    losses = [record["loss"] for record in records()]
    assert len(losses) == STEPS and losses[-1] < losses[0] - 0.5
    assert all(record["tokens_per_s"] > 0 and record["mem_gb"] > 0 for record in records())


@pytest.mark.parametrize("redraw", ["step", "forward"])
def test_a_step_waits_for_nothing_and_compiles_nothing_new(folder: Path, redraw: str) -> None:
    """In each stage: after its first steps, no call that synchronises host and device, and no new graph."""
    config = run_config(folder, micro_batch=8)
    config.sampling.redraw = redraw
    with build(Start.of(config, None)) as run:
        for first in (0, 20, 40):
            results = [train_step(run, first + i) for i in range(2)]
            torch.cuda.synchronize()
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            torch.cuda.set_sync_debug_mode("error")
            try:
                results += [train_step(run, first + i) for i in range(2, 8)]
            finally:
                torch.cuda.set_sync_debug_mode("default")
            assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
            assert all(result.read().finite for result in results)


@BOTH
@pytest.mark.parametrize("compiled", [False, True])
def test_the_loss_in_pieces_is_as_close_to_fp32_as_plain_autocast(preset: ModelConfig, compiled: bool) -> None:
    _, model = models(preset)
    model.float()
    tokens = torch.randint(512, (4, 128), device="cuda")

    def gradients(loss: LmLoss, bf16: bool) -> list[torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            value = loss(model, tokens, target_count(tokens))
        value.backward()
        return [p.grad.clone() for p in model.parameters()]

    exact = gradients(LmLoss("whole"), bf16=False)
    errors = []
    for loss in (LmLoss("whole"), LmLoss(chunk=200, pad_to=96, compiled=compiled)):
        found = gradients(loss, bf16=True)
        errors.append(max(((f - e).norm() / e.norm()).item() for f, e in zip(found, exact, strict=True)))
    assert errors[1] < 1.5 * errors[0] < 0.2, errors
