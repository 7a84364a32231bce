"""What only a GPU can show; skipped without one. `make gpu` runs these and the GPU benchmarks."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from est_cli.arch import spec_of
from est_cli.config import (
    DatasetConfig,
    Family,
    ModelConfig,
    Precision,
    RunConfig,
    Source,
    StageConfig,
    TrackingConfig,
    TrainConfig,
    WandbMode,
)
from est_cli.est import IndexGenerator, SamplingRates, apply_est
from est_cli.lm_loss import next_token_loss
from est_cli.models import build_model, hf_config

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

GPT2 = ModelConfig("gpt2", Family.gpt2, 512, 128, 4, 4, max_positions=128)
LLAMA = ModelConfig("llama", Family.llama, 512, 128, 4, 4, 2, 352, 128)
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
        layer.compile()
    generator, rates = IndexGenerator(handle.spec, 0), SamplingRates(0.5, 0.5, 1.0)
    counts = []
    for step in range(6):
        handle.activate(generator.draw(step, rates))
        tokens = torch.arange(256, device="cuda").view(2, 128)
        next_token_loss(model(input_ids=tokens, use_cache=False).logits, tokens).backward()
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts[-1] == counts[0], counts


def test_a_compiled_bf16_run_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    from est_cli.checks import check
    from est_cli.loop import build, train
    from est_cli.resume import Start

    monkeypatch.chdir(tmp_path)
    text = tmp_path / "corpus.txt"
    text.write_text("\n\n".join(f"line {i} of a small corpus, {i * 7919 % 1000}" for i in range(20000)), "utf-8")
    config = RunConfig(
        run_name="gpu",
        model=GPT2,
        dataset=DatasetConfig("text", Source.files, [str(text)]),
        stage=StageConfig(10, 20, 0.5, 0.5, 0.5),
        train=TrainConfig(max_steps=40, seq_len=128, precision=Precision.bf16),
        tracking=TrackingConfig(wandb=WandbMode.off),
    )
    check(config)
    with build(Start(config, None)) as run:
        train(run)
    records = [json.loads(line) for line in Path("outputs/gpu/metrics.jsonl").read_text("utf-8").splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    assert len(losses) == 40
    assert losses[-1] < losses[0] - 1.0
