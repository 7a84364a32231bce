"""Segments are the run itself: bit for bit what other runs train, whose own files they leave alone."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from est_cli.common.errors import NumericsError, StorageError
from est_cli.config import StageConfig
from est_cli.config.stored import stored_config
from est_cli.est import SamplingOptions, SamplingRates, training_flops
from est_cli.est.sizes import full_sizes, sample_sizes
from est_cli.training.segment import COMPLETE, Bench, opened_bench
from tests.lab.commands import tree
from tests.lab.short_runs import DECAY, SEQ_LEN, trained

pytestmark = pytest.mark.slow

BEGIN, STEPS, COOL = 4, 4, DECAY - 1
HALF = SamplingRates(0.5, 0.5, 0.5)
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def dense(place: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return place / trained(place, "dense")


@pytest.fixture
def bench(place: Path, dense: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.chdir(place)
    with opened_bench(stored_config(dense), dense / f"checkpoints/step-{BEGIN:06d}") as bench:
        yield bench


def weights_of(bench: Bench) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in bench.run.model.state_dict().items()}


def saved(run: Path, step: int) -> Weights:
    return load_file(run / f"checkpoints/step-{step:06d}/model.safetensors")


def same(found: Weights, expected: Weights) -> bool:
    return all(torch.equal(found[name], expected[name]) for name in expected)


def after(bench: Bench, rates: SamplingRates, steps: int, cooldown: int = 0, seed: int = 3) -> Weights:
    return bench.train(rates, SamplingOptions(), seed, steps, cooldown, lambda: weights_of(bench), lambda: None).cooled


def test_the_complete_segment_is_the_run_that_goes_on(bench: Bench, dense: Path) -> None:
    files = tree(dense)
    assert bench.step == BEGIN
    assert same(after(bench, COMPLETE, 0), saved(dense, BEGIN))
    found = after(bench, COMPLETE, STEPS)
    assert same(found, saved(dense, BEGIN + STEPS)) and not same(found, saved(dense, BEGIN))
    after(bench, HALF, STEPS, COOL)
    assert same(after(bench, COMPLETE, STEPS, seed=8), found), "weights, moments and rates are those of the checkpoint"
    assert tree(dense) == files


def test_a_sampled_segment_is_a_run_with_that_stage(bench: Bench, place: Path) -> None:
    stage = StageConfig(boundaries=[BEGIN], rates=[[1, 1, 1], [0.5, 0.5, 0.5]])
    other = place / trained(place, "sampled", stage)
    assert same(after(bench, HALF, STEPS), saved(other, BEGIN + STEPS))
    assert not same(after(bench, HALF, STEPS, seed=4), saved(other, BEGIN + STEPS)), "other draws"


def test_the_cool_down_is_the_decay_of_a_run_that_ends_there(bench: Bench, place: Path) -> None:
    """Whose rate falls to 0 over one step more, so that none of them has the rate 0."""
    end = BEGIN + STEPS + COOL
    stage = StageConfig(boundaries=[BEGIN, BEGIN + STEPS], rates=[[1, 1, 1], [0.5, 0.5, 0.5], [1, 1, 1]])
    other = place / trained(place, "short", stage, max_steps=end + 1)
    assert same(after(bench, HALF, STEPS, COOL), saved(other, end))


def test_what_it_says_of_flops_and_seconds(bench: Bench) -> None:
    found = bench.train(HALF, SamplingOptions(), 0, STEPS, 1, lambda: bench.run.model.training, lambda: None)
    spec, options = bench.run.spec, bench.run.resolved.options
    sampled = training_flops(spec, sample_sizes(spec, HALF, options), 2, SEQ_LEN)
    assert found.ledger.used == sampled * STEPS
    assert found.ledger.dense == training_flops(spec, full_sizes(spec), 2, SEQ_LEN) * STEPS
    assert found.step_s > 0 and not found.raw and not found.cooled, "measured without dropout"


def test_a_step_that_is_not_finite_is_told(bench: Bench) -> None:
    bench.run.model.transformer.ln_f.register_forward_hook(lambda *_: _[2] * float("nan"))
    with pytest.raises(NumericsError, match=f"step {BEGIN + 1} is not finite"):
        after(bench, COMPLETE, 1)


def test_a_full_disk_is_told(place: Path, dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path, **_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.chdir(place)
    monkeypatch.setattr(shutil, "copyfile", full)
    monkeypatch.setattr(shutil, "copy2", full)
    told = r"/step-000004/.*: No space left on device \(ENOSPC\), where .* TMPDIR names another place"
    opened = opened_bench(stored_config(dense), dense / f"checkpoints/step-{BEGIN:06d}")
    with pytest.raises(StorageError, match=told), opened:
        pass
