"""What tests plant into a victim: a kill, a signal or an exception at one exact point, or something broken.

Each function is named in a request to the fork server and changes the modules of that one process.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from zlib import crc32

import torch

from est_cli.common.errors import StorageError
from est_cli.data.text import units
from est_cli.data.tokens import ahead, encode_workers
from est_cli.distributed import StepPlan
from est_cli.est import IndexGenerator, Subnetwork
from est_cli.est.sizes import SequenceCounts
from est_cli.storage import disk, tensors
from est_cli.storage.run_dir import LAST_PLOT
from est_cli.tracking import MetricsFile
from est_cli.training import finish, step
from est_cli.training import inputs as step_inputs
from est_cli.training.feed import Feed
from est_cli.training.inputs import StepInputs, count_sequences
from est_cli.training.optim import loss_scale
from est_cli.training.run import Run

build: Any = importlib.import_module("est_cli.training.build")  # the package has a function of that name
parts: Any = importlib.import_module("est_cli.training.parts")


def at(target: str, call: int, when: str, action: str) -> None:
    """Do `action` before, or after, the `call`-th call (from 1) of module.function `target`."""
    count = 0

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            due = count == call
            if due and when == "before":
                act(action)
            result = function(*args, **kwargs)
            if due and when == "after":
                act(action)
            return result

        return counted

    _replace(target, wrap)


def at_step(target: str, number: int, when: str, action: str) -> None:
    """The same at the call that is for step `number` (0-based) of the run: function(run, step, ...)."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(run: Run, step: int, *args: Any) -> Any:
            if step == number and when == "before":
                act(action)
            result = function(run, step, *args)
            if step == number and when == "after":
                act(action)
            return result

        return watched

    _replace(target, wrap)


def at_fault_point(name: str, action: str) -> None:
    """Do `action` just before the first change of the disk whose name begins so."""

    def fault_point(point: str) -> None:
        if point.startswith(name):
            act(action)

    disk.fault_point = fault_point


def disk_full(name: str, times: int, behind: int = 0) -> None:
    """Fail with ENOSPC the first `times` times that the fault point `name` is passed, `behind` so many before."""
    count = 0

    def fault_point(point: str) -> None:
        nonlocal count
        count += point.startswith(name)
        if point.startswith(name) and behind < count <= behind + times:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    disk.fault_point = fault_point


def records_not_synced(call: int) -> None:
    """Fail with ENOSPC in the `call`-th call (from 1) that has the disk hold records; a save makes two."""
    count, real = 0, MetricsFile.sync

    def sync(self: MetricsFile) -> None:
        nonlocal count
        count += 1
        if count == call:
            raise StorageError(f"{self.path}: {os.strerror(errno.ENOSPC)}")
        real(self)

    MetricsFile.sync = sync  # type: ignore[method-assign]


def act(action: str) -> None:
    if action == "out of memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore lines.")
    elif action == "pause":
        time.sleep(0.5)
    else:
        os.kill(os.getpid(), signal.Signals[action])


def quick() -> None:
    """No pictures, which take longer than all steps of a tiny run, and no waiting for the disk: no power fails here."""
    finish.plot_run = lambda *args: []
    finish.plot_stages = _pretend
    os.fsync = lambda fd: None


def _pretend(*args: Any) -> None:
    """Leave what says that the pictures are there."""
    folder = args[-1]
    folder.mkdir(exist_ok=True)
    (folder / LAST_PLOT).touch()


def small_parts(size: int, near: int) -> None:
    """Parts of a text that is tokenised ahead of about so many bytes, made no further than `near` ahead of the run."""
    units.UNIT_BYTES, ahead.LEAST_AHEAD, ahead.AHEAD_OF_EACH, ahead.LOOK_S = size, near, 0, 0.05


def tokenise_so(code: str) -> None:
    """Have the processes that tokenise run `code`, one line, before each unit."""
    lines = (
        "import errno, os, signal, time",
        "from est_cli.data.tokens import encode_workers",
        "write_tokens = encode_workers.write_tokens",
        f"def planted(*args):\n    {code}\n    return write_tokens(*args)",
        "encode_workers.write_tokens = planted",
        "encode_workers.main()",
    )
    encode_workers.COMMAND = [sys.executable, "-P", "-c", "\n".join(lines)]


def device_works_on_its_own() -> None:
    """The loop as on a GPU: inputs made ahead, numbers read a step late, checkpoints written by a thread."""
    for name in ("build", "train"):
        module = importlib.import_module(f"est_cli.training.{name}")
        assert hasattr(module, "runs_ahead")
        module.runs_ahead = lambda device: True


def write_calls(path: str) -> None:
    """Append to `path` what happens to each step: `launch STEP SHAPES` of its micro-batches, and `account STEP`."""
    loop = importlib.import_module("est_cli.training.train")
    real_step, real_account, real_pass = loop.train_step, loop._account, step.forward_backward
    shapes: list[int] = []

    def write(*words: Any) -> None:
        with open(path, "a") as file:
            print(*words, file=file)

    def forward_backward(run: Run, tokens: torch.Tensor, *args: Any) -> torch.Tensor:
        shapes.append(len(tokens))
        return real_pass(run, tokens, *args)

    def train_step(run: Run, number: int, *args: Any) -> Any:
        shapes.clear()
        result = real_step(run, number, *args)
        write("launch", number, shapes)
        return result

    def account(state: Any, number: int, *args: Any) -> None:
        write("account", number)
        real_account(state, number, *args)

    step.forward_backward, loop.train_step, loop._account = forward_backward, train_step, account


def not_finite(calls: list[int]) -> None:
    """NaN as the loss and gradient of these calls (from 1, one per micro-batch)."""
    count, real = 0, step.forward_backward

    def forward_backward(run: Run, *args: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        loss = real(run, *args)
        if count not in calls:
            return loss
        for parameter in run.model.parameters():
            if parameter.grad is not None:
                parameter.grad.fill_(float("nan"))
        return loss * float("nan")

    step.forward_backward = forward_backward


def no_compiler() -> None:
    """As where no C++ compiler is installed."""
    from torch._inductor import cpp_builder

    def get_cpp_compiler() -> str:
        raise RuntimeError("InvalidCxxCompiler")

    cpp_builder.get_cpp_compiler = get_cpp_compiler


def count_graphs(path: str, backend: str = "inductor") -> None:
    """Write the number of graphs compiled so far, after each step, as a JSON list to `path`.

    `backend`: aot_eager traces and guards as Inductor does, and leaves out the C++ compiler, half a minute of work.
    """
    from torch._dynamo.utils import counters
    from torch._inductor import config

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{path}.cache"
    config.compile_threads, config.cpp.vec_isa_ok = 1, True
    config.aot_inductor.debug_compile = True  # unoptimised code, which is compiled twice as fast
    torch.compile = partial(torch.compile, backend=backend)  # type: ignore[assignment]
    loop, graphs = importlib.import_module("est_cli.training.train"), []
    real = loop.train_step

    def train_step(*args: Any) -> Any:
        result = real(*args)
        graphs.append(counters["stats"]["unique_graphs"])
        with open(path, "w") as file:
            json.dump(graphs, file)
        return result

    loop.train_step = train_step


def drop_optimizer_state() -> None:
    tensors.load_optimizer = lambda file, model, optimizer, *_: optimizer.state.clear()


def skip_a_batch() -> None:
    real = parts.BlockOrder.blocks
    parts.BlockOrder.blocks = lambda order, first, count: real(order, first + count, count)


def reuse_the_last_draw() -> None:
    real = build.IndexGenerator.draw

    def draw(self: Any, number: int, *args: Any) -> Any:
        return real(self, number - 1, *args)

    build.IndexGenerator.draw = draw


def shift_the_learning_rate() -> None:
    real = step.lr_at
    step.lr_at = lambda number, *args: real(number + 1, *args)


def forget_last_loss() -> None:
    real = build.restored_state

    def restored_state(*args: Any) -> Any:
        state = real(*args)
        if state is not None:
            state.last_loss = None
        return state

    build.restored_state = restored_state


def _replace(target: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    module_name, _, name = target.rpartition(".")
    module = importlib.import_module(module_name)
    setattr(module, name, wrap(getattr(module, name)))


def first_loss_scale(value: float) -> None:
    """What fp16 begins with."""
    loss_scale.INITIAL = value


def double() -> None:
    """Train in double precision."""
    build_model, empty_model = parts.build_model, parts.empty_model
    parts.build_model = lambda *args: build_model(*args).double()
    parts.empty_model = lambda *args: empty_model(*args).double()


def record_inputs(name: str) -> None:
    """Write one line for each step to this file: the step, its samples, its subnetworks and which of them it runs."""
    take = Feed.take

    def recorded(self: Feed, step: int, last: bool) -> StepInputs:
        inputs = take(self, step, last)
        samples = [crc32(row.numpy()) for row in inputs.tokens]
        with open(f"{name}-{os.environ.get('RANK', '0')}.jsonl", "a") as file:
            print(json.dumps([step, samples, [drawn.checksum() for drawn in inputs.plan.subnetworks]]), file=file)
        return inputs

    Feed.take = recorded  # type: ignore[method-assign]


def micro_batches_as_ranks() -> None:
    """Have one process draw for its j-th micro-batch what rank j draws."""

    def plan_step(
        generator: Any, step: int, rates: Any, sequences: Any, rank: Any, pairs: Any
    ) -> tuple[StepPlan, int, SequenceCounts, None]:
        drawn = tuple(generator.draw(step, rates, 0, number) for number in range(len(sequences)))
        return StepPlan(drawn, len(drawn), None), 0, count_sequences(generator, [drawn], sequences), None

    step_inputs.plan_step = plan_step


def dropout_as_ranks() -> None:
    """Have one process use for the dropout of its j-th micro-batch the random numbers of rank j's first one."""
    real = step.hash_numbers
    step.hash_numbers = lambda numbers: real((numbers[0], numbers[1], 0, numbers[2]))


def draw_differently(step: int) -> None:
    """Have this process draw other heads and columns, as many of them, in one step."""
    draw = IndexGenerator.draw

    def drawn(self: IndexGenerator, at: int, *args: Any) -> Subnetwork:
        subnetwork = draw(self, at, *args)
        if at != step:
            return subnetwork
        other = draw(self, at + 1000, *args)
        return replace(subnetwork, head_idx=other.head_idx, kv_idx=other.kv_idx, mlp_idx=other.mlp_idx)

    IndexGenerator.draw = drawn  # type: ignore[method-assign]


def flip_a_bit(step: int) -> None:
    """Change the last bit of one weight before this step (0-based)."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def flipped(run: Run, at: int, *args: Any) -> Any:
            if at == step:
                weight = next(run.model.parameters()).data.view(-1)
                weight[:1].view(torch.int32).bitwise_xor_(1)
            return function(run, at, *args)

        return flipped

    _replace("est_cli.training.train.train_step", wrap)


def other_first_weights() -> None:
    """Build the model of this process with one weight that is not that of the others."""
    build_model = parts.build_model

    def built(*args: Any) -> Any:
        model = build_model(*args)
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] += 1.0
        return model

    parts.build_model = built


def never_whole_on_the_device() -> None:
    """Fail where the model is taken to the device as a whole."""

    def to(self: Any, device: Any) -> Any:
        raise AssertionError("the whole model may not fit on one device")

    parts.PreTrainedModel.to = to


def another_learning_rate() -> None:
    """Start this process with another setting than the others."""
    from est_cli import train

    accept = train.COMMAND.accept

    def changed(config: Any, given: set[str]) -> Any:
        config.optim.lr *= 2
        return accept(config, given)

    train.COMMAND = replace(train.COMMAND, accept=changed)  # type: ignore[misc]


def write_reduced_bytes(path: str) -> None:
    """Append to `path` how many bytes of gradients each step has handed over."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def written(run: Run, *args: Any) -> Any:
            result = function(run, *args)
            with open(path, "a") as file:
                print(run.gradient_sync.reduced_bytes, file=file)
            return result

        return written

    _replace("est_cli.training.train.train_step", wrap)


def bad_samples(first: int, last: int, factor: float) -> None:
    """A loss that many times as large, and its gradient, in each step that reads a sample of `first` ... `last`."""
    bad, real = False, step.forward_backward

    def forward_backward(run: Run, *args: Any) -> torch.Tensor:
        loss = real(run, *args)
        if not bad:
            return loss
        for parameter in run.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        return loss * factor

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def reading(run: Run, number: int, *args: Any) -> Any:
            nonlocal bad
            begin, end = (run.reading.first_sample(number + at) for at in (0, 1))
            bad = begin <= last and first < end
            return function(run, number, *args)

        return reading

    step.forward_backward = forward_backward
    _replace("est_cli.training.train.train_step", wrap)


def pass_over(since: int, count: int) -> None:
    """From sample `since` of the run on read those that come `count` later."""

    def shifted(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda order, first, number: function(order, first + count * (first >= since), number)

    parts.BlockOrder.blocks = shifted(parts.BlockOrder.blocks)
    for method in ("blocks", "needed"):
        setattr(parts.PartOrder, method, shifted(getattr(parts.PartOrder, method)))
