"""What a step costs, in numbers that do not depend on the machine: operators, waiting, allocations.

A guard against slow steps that no other test would notice. Graphs are counted in test_compile.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from est_cli.config import (
    DatasetConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    Source,
    StageConfig,
    TrackingConfig,
    TrainConfig,
    WandbMode,
)
from est_cli.config.resolve import check
from est_cli.models import build_model, hf_config
from est_cli.models.lm_loss import LmLoss, target_count
from est_cli.training.build import build
from est_cli.training.optim import build_optimizer, update
from est_cli.training.run import Run
from est_cli.training.start import Start
from est_cli.training.step import train_step
from tests.lab.lab import write_corpus

LAYERS, VOCAB, SEQ_LEN, SEQUENCES, CHUNK = 4, 300, 32, 8, 64
MODELS = {
    "gpt2": ModelConfig("gpt2", "gpt2", VOCAB, 32, LAYERS, 4, max_positions=SEQ_LEN),
    "llama": ModelConfig("llama", "llama", VOCAB, 32, LAYERS, 4, 2, 88, SEQ_LEN),
}
PROJECTIONS = {"gpt2": 4, "llama": 7}
SAMPLED_BIASES = {"gpt2": 2, "llama": 0}
PIECES = SEQ_LEN * SEQUENCES // CHUNK
STAGE_STEPS, RUNNING = {1: 0, 2: 10, 3: 20}, {1: LAYERS // 2, 2: LAYERS, 3: LAYERS}

WAITING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "item")
PRODUCTS = ("mm", "addmm", "addmm_", "bmm")


class Watch(TorchDispatchMode):
    """Counts operators by name, and the storages that they make."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.operators[func.overloadpacket.__name__] += 1
        given = {t.untyped_storage()._cdata for t in torch.utils._pytree.tree_leaves(args) if torch.is_tensor(t)}
        for tensor in torch.utils._pytree.tree_leaves(made):
            if torch.is_tensor(tensor) and tensor.untyped_storage()._cdata not in given:
                self.sizes.append(tensor.untyped_storage().nbytes())
        return made

    def count(self, names: tuple[str, ...]) -> int:
        return sum(self.operators[name] for name in names)


@pytest.fixture(scope="module", params=list(MODELS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp(request.param)
    config = RunConfig(
        run_name="guard",
        model=MODELS[request.param],
        dataset=DatasetConfig("text", Source.files, [str(write_corpus(folder / "corpus.jsonl"))], num_workers=1),
        stage=StageConfig(10, 20, 0.5, 0.5, 0.5),
        train=TrainConfig(
            max_steps=30, seq_len=SEQ_LEN, tokens_per_step=SEQ_LEN * SEQUENCES, micro_batch=SEQUENCES, lm_chunk=CHUNK
        ),
        tracking=TrackingConfig(wandb=WandbMode.off),
    )
    config.dataset.validation_fraction = 0.3
    check(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with build(Start.of(config, None)) as run:
            for first in STAGE_STEPS.values():
                train_step(run, first)  # the moments are made in the first step of a parameter
            yield run


def watched(run: Run, stage: int, step: int = 1) -> Watch:
    with Watch() as watch:
        train_step(run, STAGE_STEPS[stage] + step)
    return watch


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_nothing_in_a_step_reads_from_the_device(run: Run, stage: int) -> None:
    looks_at_its_factor = 1  # the loss's backward, and on a CPU only
    assert watched(run, stage).count(WAITING) == looks_at_its_factor


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_no_product_too_many(run: Run, stage: int) -> None:
    """Three for each projection of a layer that runs, three for each piece of the LM head; attention is its own."""
    family = run.spec.family
    expected = 3 * (RUNNING[stage] * PROJECTIONS[family] + PIECES)
    assert watched(run, stage).count(PRODUCTS) == expected


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_each_sampled_weight_is_gathered_once(run: Run, stage: int) -> None:
    family = run.spec.family
    gathers = 0 if stage == 3 else RUNNING[stage] * (PROJECTIONS[family] + SAMPLED_BIASES[family])
    found = watched(run, stage).operators
    assert found["index_select"] == gathers and found["index_add"] + found["index_add_"] == gathers


def test_the_full_model_runs_the_operators_of_an_untouched_one(run: Run) -> None:
    config = run.config
    model = build_model(config.model, hf_config(config.model), config.seed).train()
    optimizer, tokens = build_optimizer(model, OptimConfig()), torch.zeros(SEQUENCES, SEQ_LEN, dtype=torch.int64)

    def plain_step() -> None:
        loss = LmLoss(chunk=CHUNK)(model, tokens, target_count(tokens))
        loss.backward()
        update(optimizer, 1e-3, 1.0, loss.detach())

    plain_step()
    with Watch() as plain:
        plain_step()
    ours = watched(run, 3).operators
    extra = {name: count - plain.operators[name] for name, count in ours.items() if count > plain.operators[name]}
    assert sum(extra.values()) <= 11, f"split, sum, send, and counting what was trained (on the host); found {extra}"


def test_a_stage_runs_no_more_operators_than_its_layers_need(run: Run) -> None:
    """Stage 1 skips half of the layers: its operators are those of stage 2 without theirs."""
    one, two, full = (sum(watched(run, stage).operators.values()) for stage in (1, 2, 3))
    sampled_layer, full_layer = (two - one) / (LAYERS / 2), full / LAYERS
    assert sampled_layer < 1.5 * full_layer, (one, two, full)


def test_the_logits_are_never_there_as_a_whole(run: Run) -> None:
    for stage in STAGE_STEPS:
        assert max(watched(run, stage).sizes) < 4 * SEQ_LEN * SEQUENCES * VOCAB


def test_a_sampled_stage_allocates_less(run: Run) -> None:
    one, two, full = (sum(watched(run, stage).sizes) for stage in (1, 2, 3))
    assert one < 0.75 * two < two < 0.95 * full, (one, two, full)


def test_drawing_and_routing_touch_nothing_at_p_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    watched(run, 3)
    monkeypatch.setattr(run.handle, "_check", lambda subnetwork: pytest.fail("activated anew"))
    with Watch() as watch:
        inputs = run.feed.take(STAGE_STEPS[3] + 2, last=True)
        run.handle.activate(inputs.plan.at(0))
    assert set(watch.operators) <= {"lift_fresh"}, "the tokens"
