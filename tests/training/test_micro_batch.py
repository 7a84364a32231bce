"""Micro-batches by stage: which sizes are taken, with how few tries, and that trying leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from est_cli.common.errors import OutOfMemory
from est_cli.common.rank import Rank
from est_cli.config import Precision, TrainConfig
from est_cli.config.micro_batch import requested
from est_cli.distributed import Group, NoSync
from est_cli.est import IndexGenerator, SamplingRates, apply_est
from est_cli.est.baselines import early_dropout, layer_dropout
from est_cli.est.batch import BatchSchedule, StepBatch
from est_cli.est.schedule import n_stage, three_stage
from est_cli.families import spec_of
from est_cli.models.lm_loss import LmLoss, Objective
from est_cli.training import micro_batch
from est_cli.training.micro_batch import choose, fits_in_memory, probe_on_device, rehearse, resolve
from tests.lab.est_models import config_of
from tests.lab.lab import Lab, losses, train_records

pytestmark = pytest.mark.slow

AUTO = [None, None, None]


class Memory:
    """Planted `fits`: so many sequences fit in each stage; remembers what it was asked."""

    def __init__(self, *most: int) -> None:
        self.most, self.asked = most, []

    def __call__(self, stage: int, size: int) -> bool:
        self.asked.append((stage, size))
        return size <= self.most[stage - 1]


@pytest.mark.parametrize(
    ("most", "sizes"),
    [
        ((60, 31, 16), (60, 30, 16)),
        ((240, 240, 240), (240, 240, 240)),
        ((10_000, 100, 1), (240, 80, 1)),
        ((1, 1, 1), (1, 1, 1)),
        ((7, 7, 7), (6, 6, 6)),
        ((239, 239, 239), (120, 120, 120)),
    ],
)
def test_auto_takes_the_largest_divisor_that_fits(most: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    memory = Memory(*most)
    assert choose(AUTO, [1, 2, 3], 240, memory) == dict(zip((1, 2, 3), sizes, strict=True))
    assert [stage for stage, _ in memory.asked] == sorted((stage for stage, _ in memory.asked), reverse=True)
    assert len(memory.asked) == len(set(memory.asked)) <= 3 * 5  # 240 has 20 divisors
    assert all(240 % size == 0 for _, size in memory.asked)
    assert all(size > sizes[2] for stage, size in memory.asked if stage < 3), "what fits in stage 3 fits before it"


def test_a_run_that_fits_whole_is_tried_in_its_last_stage_only() -> None:
    memory = Memory(64, 64, 64)
    assert choose(AUTO, [1, 2, 3], 64, memory) == {1: 64, 2: 64, 3: 64}
    assert {stage for stage, _ in memory.asked} == {3} and len(memory.asked) <= 3


def test_numbers_are_tried_once_where_a_later_stage_has_not_shown_that_they_fit() -> None:
    for asked, tried in (
        ([16, 16, 16], [(3, 16)]),
        ([64, 24, 16], [(3, 16), (2, 24), (1, 64)]),
        ([8, 24, 16], [(3, 16), (2, 24)]),
        ([500, 500, 500], [(3, 240)]),
    ):
        memory = Memory(1000, 1000, 1000)
        assert list(choose(asked, [1, 2, 3], 240, memory).values()) == [min(size, 240) for size in asked]
        assert memory.asked == tried


def test_only_stages_with_steps_are_looked_at() -> None:
    memory = Memory(0, 10, 0)
    assert choose([None, 9, 99], [2], 240, memory) == {2: 9}
    assert memory.asked == [(2, 9)]


def test_stages_need_not_grow() -> None:
    """Stage 1 is larger than the later ones here, and stage 2 is not: what fits in stage 3 says nothing of stage 1."""
    memory = Memory(3, 60, 20)
    assert choose(AUTO, [1, 2, 3], 240, memory, lambda later, earlier: earlier == 2) == {1: 3, 2: 60, 3: 20}
    assert all(size > 20 for stage, size in memory.asked if stage == 2)


def test_a_stage_covers_what_is_nowhere_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an n_stage run that begins with the complete model, and of one with dropout, the first stage is tried too."""
    run, seen = small_run("auto"), []
    monkeypatch.setattr(micro_batch, "probe_on_device", lambda run: lambda stage, size: seen.append(stage) or True)
    monkeypatch.setattr(micro_batch, "fits_in_memory", micro_batch.probe_on_device)
    full, half = SamplingRates(), SamplingRates(0.5, 0.5, 0.5)
    for scheduler, stages in (
        (n_stage(10, [2, 5], [half, half, full]), {3}),
        (n_stage(10, [2, 5], [full, half, half]), {3, 1}),
        (n_stage(10, [2, 5], [SamplingRates(p_l=0.5), SamplingRates(p_m=0.5), half]), {3, 2, 1}),
        (early_dropout(10, 5, 0.5), {2, 1}),
        (layer_dropout(10, 0.5), {1}),
    ):
        run.scheduler, seen = scheduler, []
        assert set(resolve(run).values()) == {8}
        assert set(seen) == stages


def test_auto_beside_numbers() -> None:
    assert choose([None, None, 7], [1, 2, 3], 240, Memory(60, 7, 7)) == {1: 60, 2: 6, 3: 7}
    assert choose([100, None, None], [1, 2, 3], 240, Memory(100, 50, 20)) == {1: 100, 2: 48, 3: 20}


@pytest.mark.parametrize(
    ("asked", "most", "words"),
    [
        (AUTO, (9, 9, 0), ["stage 3 does not fit with 1 sequence"]),
        ([1, 1, 1], (9, 9, 0), ["stage 3 does not fit with 1 sequence"]),
        ([8, 8, 64], (99, 99, 63), ["64 sequences", "stage 3", "train.micro_batch=auto"]),
        ([8, 80, 64], (99, 79, 64), ["80 sequences", "stage 2", "train.micro_batch=auto"]),
    ],
)
def test_what_does_not_fit_is_told_before_the_first_step(
    asked: list[int | None], most: tuple[int, ...], words: list[str]
) -> None:
    with pytest.raises(OutOfMemory) as error:
        choose(asked, [1, 2, 3], 240, Memory(*most))
    told = str(error.value)
    assert told.startswith("train.micro_batch: out of memory; ") and "\n" not in told
    assert all(word in told for word in words), told
    assert ("=auto" in told) == (" 1 sequence " not in told), "auto finds no smaller one than 1"


def small_run(asked: Any, step: int = 0) -> Any:
    """What resolve() reads of a Run: stages of 2, 3 and 5 steps of 8 sequences of 16 tokens."""
    torch.manual_seed(0)
    return run_of(config_of("gpt2"), asked, step=step)


def run_of(config: Any, asked: Any, device: str = "cpu", step: int = 0, seq_len: int = 16, sequences: int = 8) -> Any:
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(device)
    handle = apply_est(model, spec_of(model.config))
    model.train()
    scheduler = three_stage(10, 2, 5, SamplingRates(0.5, 0.5, 0.5))
    return SimpleNamespace(
        config=SimpleNamespace(train=TrainConfig(micro_batch=asked, seq_len=seq_len)),
        accelerator=SimpleNamespace(device=torch.device(device)),
        autocast=nullcontext,
        loss_scale=None,
        precision=Precision.fp32,
        model=model,
        handle=handle,
        spec=handle.spec,
        optimizer=torch.optim.AdamW(model.parameters(), fused=True),
        scheduler=scheduler,
        batch=BatchSchedule.of(scheduler, [StepBatch(sequences, seq_len)] * 3),
        generator=IndexGenerator(handle.spec, 0),
        objective=Objective(model, LmLoss()),
        gradient_sync=NoSync(),
        resolved=SimpleNamespace(micro_batches=tuple(requested(asked, 3))),
        rank=Rank(),
        group=Group(Rank(), 1.0),
        state=SimpleNamespace(step=step, micro_batches={}),
    )


def limited(run: Any, most: dict[int, int], seen: list[Any]) -> Callable[..., torch.Tensor]:
    """forward_backward on a device that runs out of memory, in the middle of the backward pass, above `most`."""

    def forward_backward(run_: Any, tokens: torch.Tensor, targets: int, drawn: None) -> torch.Tensor:
        layers = sum(layer.est_active for layer in run.handle.layers)
        sampled = run.handle.layers[0].attn.c_attn.est_taken != {}
        stage = 1 if layers < len(run.handle.layers) else 2 if sampled else 3
        seen.append((stage, len(tokens), any(p.grad is not None for p in run.model.parameters())))
        loss = run.objective(tokens, targets)
        loss.backward()
        if len(tokens) > most[stage]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss.detach()

    return forward_backward


def trace(run: Any) -> list[Any]:
    """Everything that a probe must leave alone."""
    tensors = [*run.model.parameters(), *run.model.buffers()]
    tensors += [value for state in run.optimizer.state.values() for value in state.values()]
    return [tensor.detach().clone() for tensor in tensors]


@pytest.mark.parametrize("stepped", [False, True])
def test_the_probe_finds_the_sizes_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch, stepped: bool) -> None:
    run, seen = small_run("auto"), []
    if stepped:
        run.objective(torch.zeros(1, 16, dtype=torch.int64), 1).backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
    before, random = trace(run), torch.get_rng_state()
    monkeypatch.setattr(micro_batch, "forward_backward", limited(run, {1: 8, 2: 4, 3: 2}, seen))
    assert choose(AUTO, [1, 2, 3], 8, probe_on_device(run)) == {1: 8, 2: 4, 3: 2}
    assert seen == [
        *((3, 4, False), (3, 2, False), (3, 2, True)),  # a second pass with the gradients of the first
        *((2, 8, False), (2, 4, False), (2, 4, True)),
        (1, 8, False),  # the whole step in one pass
    ]
    after = trace(run)
    assert len(after) == len(before) and all(map(torch.equal, before, after))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert run.model.training and all(layer.est_active for layer in run.handle.layers)
    assert run.handle.layers[0].attn.c_attn.est_taken == {}


@pytest.mark.parametrize("compiled", [True, False])
def test_the_last_stage_is_rehearsed(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    """Compiled, or sharded on a GPU: what does not fit is told now, and nothing is left of the trial."""
    run, seen, lines = small_run(4), [], []
    run.compiled, run.micro_batches, run.progress = compiled, {1: 4, 2: 4, 3: 4}, SimpleNamespace(line=lines.append)
    monkeypatch.setattr(micro_batch, "forward_backward", limited(run, {1: 8, 2: 8, 3: 4}, seen))
    monkeypatch.setattr(micro_batch, "FullySharded", NoSync)
    monkeypatch.setattr(micro_batch, "runs_ahead", lambda device: True)
    before = trace(run)
    rehearse(run)
    assert seen == [(3, 4, False), (3, 4, True)] and len(lines) == 1
    assert all(map(torch.equal, before, trace(run))) and all(p.grad is None for p in run.model.parameters())
    monkeypatch.setattr(micro_batch, "forward_backward", limited(run, {1: 8, 2: 8, 3: 2}, seen))
    with pytest.raises(OutOfMemory, match="4 sequences per forward pass do not fit in stage 3"):
        rehearse(run)


def test_other_errors_of_a_probe_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    run = small_run("auto")

    def broken(*args: Any) -> torch.Tensor:
        raise RuntimeError("a bug")

    monkeypatch.setattr(micro_batch, "forward_backward", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        probe_on_device(run)(1, 8)
    assert all(layer.est_active for layer in run.handle.layers)


def test_a_number_is_refused_only_if_it_does_not_fit_compiled_either(monkeypatch: pytest.MonkeyPatch) -> None:
    run, stances = small_run([8, 8, 4]), []

    def fits_compiled(run: Any, tokens: torch.Tensor, targets: int, drawn: None) -> torch.Tensor:
        stances.append(torch.compiler.is_compiling() or torch._dynamo.eval_frame._stance.stance)
        if stances[-1] == "force_eager":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.zeros(())

    monkeypatch.setattr(micro_batch, "forward_backward", fits_compiled)
    assert probe_on_device(run)(3, 4)
    assert stances == ["force_eager", "default", "default"]
    assert not probe_on_device(small_run("auto"))(3, 4), "auto compiles nothing"


def test_the_moments_that_are_not_there_yet_take_room(monkeypatch: pytest.MonkeyPatch) -> None:
    run, taken = small_run("auto"), []
    monkeypatch.setattr(micro_batch, "forward_backward", lambda *args: torch.zeros(()))
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda count, **options: (taken.append(count), real(0))[1])
    parameters = list(run.model.parameters())
    probe_on_device(run)(3, 1)
    run.objective(torch.zeros(1, 16, dtype=torch.int64), 1).backward()
    parameters[0].grad = None  # as of a layer that no step has run yet
    run.optimizer.step()
    run.optimizer.zero_grad()
    probe_on_device(run)(3, 1)
    assert taken == [2 * sum(p.nbytes for p in parameters), 2 * parameters[0].nbytes]


def test_on_a_cpu_the_sizes_are_calculated(monkeypatch: pytest.MonkeyPatch) -> None:
    run = small_run("auto")
    states = 12 * sum(parameter.numel() for parameter in run.model.parameters())
    calls = []

    def counted(*args: Any) -> Any:
        calls.append(args)
        return real(*args)

    real = micro_batch.estimate_memory
    monkeypatch.setattr(micro_batch, "estimate_memory", counted)
    kept = real(*_estimate_arguments(run)).activations
    assert kept[0].of(8) < kept[2].of(8)
    for most in (1, 2, 4):
        monkeypatch.setattr(micro_batch, "available_bytes", lambda most=most: (states + kept[2].of(most)) / 0.5 + 2)
        sizes = resolve(run)
        assert sizes[3] == most and sizes[1] >= sizes[2] >= most
    monkeypatch.setattr(micro_batch, "available_bytes", lambda: (states + kept[2].of(1)) / 0.5 - 9)
    with pytest.raises(OutOfMemory):
        resolve(run)
    assert len(calls) == 4, "the fake model is built once for all stages and sizes"


def _estimate_arguments(run: Any) -> tuple[Any, ...]:
    rates = [stage.rates for stage in run.scheduler.stages]
    return run.model.config, run.spec, run.generator.options, rates, [16] * 3, False, False, run.objective.lm_loss


def test_on_a_cpu_numbers_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_batch, "available_bytes", lambda: pytest.fail("looked"))
    monkeypatch.setattr(micro_batch, "estimate_memory", lambda *args: pytest.fail("looked"))
    assert resolve(small_run(3)) == {1: 3, 2: 3, 3: 3}
    assert resolve(small_run([4, 2, 64])) == {1: 4, 2: 2, 3: 8}
    assert fits_in_memory(small_run(3))(3, 10**9)


@pytest.mark.parametrize(("step", "stages"), [(0, [1, 2, 3]), (1, [1, 2, 3]), (2, [2, 3]), (5, [3]), (10, [3])])
def test_stages_that_a_resumed_run_has_behind_it_are_left_out(step: int, stages: list[int]) -> None:
    assert list(resolve(small_run([4, 2, 1], step=step))) == stages


def test_a_resumed_run_keeps_the_sizes_it_had_found_as_long_as_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    run, room = small_run("auto"), {"largest": 8}
    monkeypatch.setattr(micro_batch, "fits_in_memory", lambda run: lambda stage, size: size <= room["largest"])
    run.state.micro_batches = {"1": 4, "2": 2, "3": 2}
    assert resolve(run) == {1: 4, 2: 2, 3: 2}
    run.resolved.micro_batches = (3, None, None)
    assert resolve(run) == {1: 3, 2: 2, 3: 2}
    room["largest"] = 1
    run.resolved.micro_batches = (None, None, None)
    assert resolve(run) == {1: 1, 2: 1, 3: 1}


SHORT = ("train.max_steps=12", "stage.t1=4", "stage.t2=8")


def test_each_stage_runs_in_micro_batches_of_its_own_size(lab: Lab) -> None:
    calls = lab.folder / "calls"
    assert lab.tiny("x", *SHORT, "train.micro_batch=[4,3,1]", plants=[("write_calls", str(calls))]).code == 0
    shapes = [line.split(maxsplit=2)[2] for line in calls.read_text().splitlines() if line.startswith("launch")]
    assert shapes == ["[4]"] * 4 + ["[3, 1]"] * 4 + ["[1, 1, 1, 1]"] * 4


def test_auto_does_not_take_a_number_for_one_it_had_found(lab: Lab) -> None:
    stop = ("at_step", "est_cli.training.train.train_step", 5, "after", "SIGTERM")
    assert lab.tiny("x", *SHORT, "train.micro_batch=1", plants=[stop]).code == 143
    ended = lab.tiny("x", *SHORT, "train.micro_batch=auto")
    assert ended.code == 0 and "micro-batch 4 sequences (auto)" in ended.err


@pytest.mark.some(2)
@pytest.mark.parametrize("value", ["[4,2,1]", "[1,2,3]", "auto", "[auto,1,auto]"])
def test_a_run_with_micro_batches_by_stage_is_the_same_training(lab: Lab, value: str) -> None:
    assert lab.tiny("two", *SHORT, "train.micro_batch=2").code == 0
    ended = lab.tiny("x", *SHORT, f"train.micro_batch={value}")
    assert ended.code == 0, ended.err
    assert losses(lab.at("x")) == pytest.approx(losses(lab.at("two")), rel=1e-5)
    norms = [[record["grad_norm"] for record in train_records(lab.at(name))] for name in ("x", "two")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_a_run_may_go_on_with_other_micro_batches(lab: Lab) -> None:
    stop = ("at_step", "est_cli.training.train.train_step", 6, "after", "SIGTERM")
    assert lab.tiny("two", *SHORT, "train.micro_batch=2").code == 0
    assert lab.tiny("x", *SHORT, "train.micro_batch=[4,2,1]", plants=[stop]).code == 143
    ended = lab.train("resume=outputs/x", "train.micro_batch=[1,auto,3]")
    assert ended.code == 0, ended.err
    assert losses(lab.at("x")) == pytest.approx(losses(lab.at("two")), rel=1e-5)
