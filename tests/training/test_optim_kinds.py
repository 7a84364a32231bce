"""Every optimizer and every treatment of what was not sampled, in whole runs: the last bit, bad steps, no waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from est_cli.config import (
    DatasetConfig,
    OptimConfig,
    OptimName,
    RunConfig,
    SamplingConfig,
    SkippedLayers,
    Source,
    StageConfig,
    TrackingConfig,
    TrainConfig,
    UnsampledRows,
    WandbMode,
)
from est_cli.config.resolve import check
from est_cli.training.build import build
from est_cli.training.run import Run
from est_cli.training.start import Start
from est_cli.training.step import train_step
from tests.lab.lab import Lab, outcome, sha256_of, write_corpus
from tests.training.test_guard import MODELS, SEQ_LEN, WAITING, Watch

Golden = Callable[..., dict[str, Any]]

SHORT = ("train.max_steps=12", "stage.t1=4", "stage.t2=8")
KINDS = {
    "muon, zero layers": ("optim=muon", "optim.skipped_layers=zero_grad"),
    "frozen rows, several draws": ("optim.unsampled_rows=frozen", "sampling.redraw=forward"),
    "frozen rows, zero layers": ("optim.unsampled_rows=frozen", "optim.skipped_layers=zero_grad"),
}


@pytest.mark.some(1)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_run_after_a_kill(lab: Lab, golden: Golden, kind: str) -> None:
    settings = (*SHORT, *KINDS[kind])
    assert lab.tiny(
        "x", *settings, plants=[("at_step", "est_cli.training.train.train_step", 6, "before", "SIGKILL")]
    ).code
    ended = lab.tiny("x", *settings)
    assert ended.code == 0, ended.err
    assert outcome(lab.at("x")) == golden(*settings)
    assert golden(*settings)["sha256"] != golden(*SHORT)["sha256"], "these settings change nothing"


def test_where_everything_runs_nothing_is_frozen(lab: Lab) -> None:
    """To the last bit: a run without sampled steps is what it is without these choices."""
    full = ("train.max_steps=4", "stage.t1=0", "stage.t2=0", "train.eval_every=0")
    assert lab.tiny("plain", *full).code == lab.tiny("x", *full, *KINDS["frozen rows, zero layers"]).code == 0
    assert sha256_of(lab.at("x"), 4) == sha256_of(lab.at("plain"), 4)


@pytest.mark.parametrize("kind", ["muon, zero layers", "frozen rows, several draws"])
def test_a_step_that_is_not_finite_changes_nothing(lab: Lab, kind: str) -> None:
    """NaN in step 3, where layers are skipped, and in step 6, where all run; two micro-batches in each step."""
    settings = ("train.max_steps=7", "stage.t1=4", "stage.t2=7", "train.eval_every=0", "train.checkpoint_every=1")
    ended = lab.tiny("x", *settings, *KINDS[kind], "train.keep_every=1", plants=[("not_finite", [6, 12])])
    assert ended.code == 0, ended.err
    digests = {step: sha256_of(lab.at("x"), step) for step in range(1, 8)}
    for step in range(2, 8):
        assert (digests[step] == digests[step - 1]) is (step in (3, 6))


@pytest.fixture(scope="module", params=["frozen", "muon"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Two subnetworks in a step, which runs half of the layers in its first stage and all in its second."""
    folder = tmp_path_factory.mktemp(request.param)
    optim = OptimConfig(unsampled_rows=UnsampledRows.frozen)
    if request.param == "muon":
        optim = OptimConfig(name=OptimName.muon, skipped_layers=SkippedLayers.zero_grad)
    config = RunConfig(
        run_name="x",
        model=MODELS["gpt2"],
        dataset=DatasetConfig("text", Source.files, [str(write_corpus(folder / "corpus.jsonl"))], num_workers=1),
        stage=StageConfig(4, 8, 0.5, 0.25, 0.5),
        sampling=SamplingConfig(redraw="forward"),
        optim=optim,
        train=TrainConfig(max_steps=12, seq_len=SEQ_LEN, tokens_per_step=4 * SEQ_LEN, micro_batch=2),
        tracking=TrackingConfig(wandb=WandbMode.off),
    )
    config.dataset.validation_fraction = 0.3
    check(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with build(Start.of(config, None)) as run:
            for step in (0, 4, 8):
                train_step(run, step)  # the moments are made in the first step of a parameter
            yield run


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_nothing_in_a_step_reads_from_the_device(run: Run, stage: int) -> None:
    looks_at_its_factor = 2  # the loss's backward in each micro-step, and on a CPU only
    with Watch() as watch:
        train_step(run, 4 * stage - 3)
    assert watch.count(WAITING) == looks_at_its_factor


def everything(run: Run) -> dict[str, list[Tensor]]:
    state = run.optimizer.state
    return {
        name: [parameter.detach().clone(), *(state[parameter][key].clone() for key in ("exp_avg", "exp_avg_sq"))]
        for name, parameter in run.model.named_parameters()
    }


@pytest.mark.parametrize("run", ["frozen"], indirect=True)
@pytest.mark.parametrize("step", [2, 6])
def test_a_step_leaves_what_none_of_its_subnetworks_used(run: Run, step: int) -> None:
    """Columns of the MLP in each layer, over both micro-steps."""
    before = everything(run)
    train_step(run, step)
    after, rates = everything(run), run.scheduler.rates_at(step)
    drawn = [run.generator.draw(step, rates, micro_step) for micro_step in (0, 1)]
    sizes = set()
    for layer in range(4):
        running = [each.mlp_idx[layer] for each in drawn if each.layer_idx is None or layer in each.layer_idx]
        used = set(torch.cat(running).tolist()) if running else set()
        sizes.add(len(used))
        for name, dim in (("c_fc.weight", 1), ("c_fc.bias", 0), ("c_proj.weight", 0)):
            path = f"transformer.h.{layer}.mlp.{name}"
            for old, new in zip(before[path], after[path], strict=True):
                others = tuple(range(old.dim()))[:dim] + tuple(range(old.dim()))[dim + 1 :]
                changed = (old != new).any(dim=others) if others else old != new
                assert set(changed.nonzero()[:, 0].tolist()) == used, (path, step)
    assert (max(sizes) > 32) is (step == 6), "two subnetworks that run a layer use different columns of it"
