"""One optimizer step, from the batch to the update; B sequences of T tokens in a step, over all processes.

1. BatchSource gives the tokens of the step and the subnetworks drawn for it (feed.py has that done ahead).
2. train_step() runs forward and backward of each micro-batch on its subnetwork, and sums gradients over the processes.
3. _update() clips, lets the optimizer decide whether the gradients are to be trusted, and changes the weights.

Nothing in it waits for the device: the decision about a gradient that is not finite is taken there, and loss and norm
are sent to the host, to be read when they have arrived.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from est_cli.common.rank import Rank
from est_cli.common.signals import StopRequest
from est_cli.config import OnSpike, UnsampledRows
from est_cli.config.micro_batch import pieces
from est_cli.data import BlockOrder, TokenBlocks
from est_cli.data.packing import attention_pairs
from est_cli.data.parts import PartOrder
from est_cli.distributed import Agreed, StepPlan, read_header, step_header
from est_cli.est import IndexGenerator, SamplingRates, SamplingScheduler, Subnetwork, reached_parts
from est_cli.est.coverage import Coverage
from est_cli.est.growth import grow
from est_cli.est.index import hash_numbers, sizes_of
from est_cli.est.sizes import SampleSizes, SequenceCounts, sample_sizes
from est_cli.est.stacking import copied_from
from est_cli.training.health import LayerWatch
from est_cli.training.optim import lr_at, update
from est_cli.training.reading import Reading
from est_cli.training.run import Run
from est_cli.training.spike_guard import Limits, limits_at

NO_STOP = StopRequest()


@dataclass(frozen=True)
class StepInputs:
    """On the CPU; the tokens in pinned memory where they are sent to a GPU."""

    tokens: Tensor
    """(sequences of the step, T) int64, of this process."""
    plan: StepPlan
    digest: int = 0
    """Of all subnetworks that the step runs anywhere; 0 where nobody asks."""
    ran: SequenceCounts = ()
    """What the step runs, over all processes."""
    pairs: tuple[int, ...] | None = None
    """For each of `ran`, the pairs that a head attends to (see attention_pairs); None: all of T x T."""


@dataclass(frozen=True)
class BatchSource:
    """Composes the inputs of a step: the next of the shuffled blocks, cut into its sequences, and what is drawn."""

    scheduler: SamplingScheduler
    reading: Reading
    """Which blocks these are, and how they are cut."""
    blocks: TokenBlocks | PartOrder
    order: BlockOrder | PartOrder
    generator: IndexGenerator
    micro_batches: dict[int, int]
    """Sequences per forward pass and process, by stage number; may change until the first step is made."""
    rank: Rank
    pinned: bool
    """Whether the tokens go to a GPU."""
    end_of_text: int | None = None
    """What ends documents that do not see each other; None: all see all before them."""

    def inputs_of(self, step: int) -> StepInputs:
        micro_batch = self.micro_batches[self.scheduler.stage_at(step)]
        reading, batch = self.reading, self.reading.batch.at(step)
        samples = self.order.blocks(reading.first_sample(step), reading.samples_at(step))
        tokens, of_each = self._read(samples, own_samples(batch.sequences, micro_batch, self.rank), batch.seq_len)
        sequences = pieces(batch.sequences, micro_batch, self.rank.world_size)
        plan = plan_step(self.generator, step, self.scheduler.rates_at(step), sequences, self.rank, of_each)
        return StepInputs(tokens.pin_memory() if self.pinned else tokens, *plan)

    def _read(
        self, samples: NDArray[np.int64], own: NDArray[np.int64], seq_len: int
    ) -> tuple[Tensor, NDArray[np.int64] | None]:
        """The tokens of this process's `own` sequences, and where documents are apart the pairs of all of them.

        `samples` are cut into sequences of `seq_len`. The pairs every process counts for itself, so that all have the
        same ledger: integers, and nothing is sent.
        """
        cut = self.reading.batch.block // seq_len
        if self.end_of_text is None and cut == 1:
            return self.blocks.take(samples[own]), None
        if self.end_of_text is None:
            needed, row = np.unique(own // cut, return_inverse=True)
            return self.blocks.take(samples[needed]).view(-1, seq_len)[row * cut + own % cut], None
        tokens = self.blocks.take(samples).view(-1, seq_len)
        return tokens[own], attention_pairs(tokens, self.end_of_text).numpy()


def own_samples(batch: int, micro_batch: int, rank: Rank) -> np.ndarray:
    """Which of a step's `batch` samples this process takes, int64 of shape (batch / world size,).

    Micro-step j of all processes together reads the j-th piece of the step: W processes with micro-batches of b
    sequences do what one process does with W * b.
    """
    sequences = pieces(batch, micro_batch, rank.world_size)
    return np.concatenate(shares(np.arange(batch), sequences, rank.world_size)[rank.rank])


def shares(samples: NDArray[np.int64], sequences: Sequence[int], parts: int) -> list[list[NDArray[np.int64]]]:
    """For each of so many equal `parts` of all micro-steps what it has of `samples`, micro-step by micro-step."""
    steps = [step.reshape(parts, -1) for step in np.split(samples, np.cumsum(sequences)[:-1])]
    return [[step[part] for step in steps] for part in range(parts)]


def plan_step(
    generator: IndexGenerator,
    step: int,
    rates: SamplingRates,
    sequences: Sequence[int],
    rank: Rank,
    pairs: NDArray[np.int64] | None = None,
) -> tuple[StepPlan, int, SequenceCounts, tuple[int, ...] | None]:
    """What a step runs in this process, a digest of what it runs anywhere (0 for one process: nobody asks), how much
    that is, and its attention pairs. `sequences`: of each micro-step, over all processes; `pairs`: of each sequence."""
    options, micro_steps = generator.options, len(sequences)
    draws = micro_steps if options.redraw == "forward" else 1

    def drawn_by(number: int) -> tuple[Subnetwork, ...]:
        return tuple(generator.draw(step, rates, micro_step, number) for micro_step in range(draws))

    own = drawn_by(rank.rank)
    apart = options.ranks == "independent" and rank.world_size > 1
    everyone = [drawn_by(number) for number in range(rank.world_size)] if apart else [own]
    ran = count_sequences(generator, everyone, sequences)
    attended = None if pairs is None else count_pairs(generator, everyone, sequences, pairs)
    if rank.world_size == 1:
        return StepPlan(own, micro_steps, None), 0, ran, attended
    anywhere = [subnetwork for drawn in everyone for subnetwork in drawn]
    digest = crc32(repr([subnetwork.checksum() for subnetwork in anywhere]).encode())
    if len(set(anywhere)) == 1:
        return StepPlan(own, micro_steps, None), digest, ran, attended
    every_layer = range(generator.spec.num_layers)
    running = {n for drawn in anywhere for n in (every_layer if drawn.layer_idx is None else drawn.layer_idx)}
    return StepPlan(own, micro_steps, frozenset(running), anywhere), digest, ran, attended


def count_sequences(
    generator: IndexGenerator, everyone: Sequence[Sequence[Subnetwork]], sequences: Sequence[int]
) -> SequenceCounts:
    """Count the sequences that a step sends through subnetworks of each size.

    `everyone`: by process (one entry, where all run the same) what it runs, one for all micro-steps or one for each.
    """
    counts: Counter[SampleSizes] = Counter()
    for drawn in everyone:
        of_each = sequences if len(drawn) > 1 else (sum(sequences),)
        for subnetwork, count in zip(drawn, of_each, strict=True):
            counts[sizes_of(generator.spec, subnetwork)] += count // len(everyone)
    return tuple(counts.items())


def count_pairs(
    generator: IndexGenerator,
    everyone: Sequence[Sequence[Subnetwork]],
    sequences: Sequence[int],
    pairs: NDArray[np.int64],
) -> tuple[int, ...]:
    """As count_sequences, in its order: the sum of `pairs`, one for each of a step's sequences in their order."""
    counts: Counter[SampleSizes] = Counter()
    for drawn, own in zip(everyone, shares(pairs, sequences, len(everyone)), strict=True):
        of_each = own if len(drawn) > 1 else (np.concatenate(own),)
        for subnetwork, here in zip(drawn, of_each, strict=True):
            counts[sizes_of(generator.spec, subnetwork)] += int(here.sum())
    return tuple(counts.values())


@dataclass(frozen=True)
class StepNumbers:
    """`loss` is the token mean over all micro-batches (nats), `grad_norm` the norm before clipping."""

    loss: float
    grad_norm: float
    finite: bool
    """False: loss or gradient was not finite and nothing was updated."""
    skipped: bool = False
    """Whether nothing was updated because the step is a spike."""
    agreed: Agreed | None = None
    """What several processes know of each other; None for one process."""
    layers: Sequence[float] = ()
    """What a LayerWatch gave, where the step was measured."""


@dataclass(frozen=True)
class StepResult:
    """What happened in a step, or on a GPU: what will have happened when it is done."""

    lr: float
    numbers: Tensor
    """(3 + n,) on the host: loss, gradient norm, 1.0 if the update was rejected, then the summed header, if any."""
    layers: Tensor | None
    """On the host, what a LayerWatch gave, where the step was measured."""
    arrived: torch.cuda.Event | None
    world_size: int
    ran: SequenceCounts
    """What the step ran, over all processes."""
    pairs: tuple[int, ...] | None
    """As in StepInputs."""
    covered: Coverage | None
    """How often each unit was trained since the last step that was measured, if this is one."""
    limits: Limits | None
    """Those that the step was judged by."""

    def read(self) -> StepNumbers:
        """Wait for the numbers, where they are still on their way."""
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, grad_norm, rejected, *header = self.numbers.tolist()
        layers = () if self.layers is None else self.layers.tolist()
        agreed = read_header(header, self.world_size) if header else None
        skipped = rejected > 0.0 and math.isfinite(loss) and math.isfinite(grad_norm) and self.limits is not None
        return StepNumbers(loss, grad_norm, rejected == 0.0 or skipped, skipped, agreed, layers)


def train_step(run: Run, step: int, stop: StopRequest = NO_STOP) -> StepResult:
    """Train on step `step` (0-based). Weights stay as they are if loss or gradient is not finite.

    `stop`: whether a signal has asked this process to stop, for the others to know.
    """
    config, device, batch = run.config, run.accelerator.device, run.batch.at(step)
    # Inputs: tokens (own sequences, T), and the subnetworks that were drawn for them.
    _grow(run, step)
    inputs = run.feed.take(step, last=step + 1 == run.scheduler.max_steps)
    run.health.count(inputs.plan, pieces(batch.sequences, run.micro_batch_at(step), run.rank.world_size))
    tokens = inputs.tokens.to(device, non_blocking=True)
    # Gradients: each micro-batch (b, T) on its subnetwork; those of a layer are sent while the next one computes.
    loss = None
    run.gradient_sync.begin(inputs.plan)
    run.handle.activate(inputs.plan.at(0))
    if inputs.plan.shared and run.gradient_sync.packs:
        run.handle.pack()
    with run.health.watching(step) as watch:
        for micro_step, micro in enumerate(tokens.split(run.micro_batch_at(step))):
            run.handle.activate(inputs.plan.at(micro_step))
            run.gradient_sync.before(micro_step)
            torch.manual_seed(hash_numbers((config.seed, step, micro_step, run.rank.rank)))  # for dropout
            part = forward_backward(run, micro, batch.targets)
            loss = part if loss is None else loss + part
    assert loss is not None
    # Agreement and update: the header carries the loss, stop signals and digests of what was drawn to all processes.
    if run.rank.world_size == 1:
        run.handle.unpack()
        return _update(run, step, inputs, loss, watch)
    header = run.gradient_sync.finish(step_header(loss, stop.signum, (inputs.digest, _next_digest(run, step))))
    run.handle.unpack()
    return _update(run, step, inputs, header[0].to(loss.dtype), watch, header)


def _next_digest(run: Run, step: int) -> int:
    """Of what the step after `step` will run: a difference is told before collectives of other sizes meet, which NCCL
    would wait for without end."""
    return 0 if step + 1 == run.scheduler.max_steps else run.feed.peek(step + 1).digest


def forward_backward(run: Run, tokens: Tensor, targets: int) -> Tensor:
    """Gradients of one micro-batch, tokens (B, T) on the device; its share of the step's loss, detached."""
    scale = None if run.loss_scale is None else run.loss_scale.factor
    with run.autocast():
        loss: Tensor = run.objective(tokens, targets, scale)
    loss.backward()
    return loss.detach() if scale is None else loss.detach() / scale


def _grow(run: Run, step: int) -> None:
    """Where layers join in `step`, give them what they begin with: after its checkpoint, so that it happens once."""
    scheduler, options = run.scheduler, run.generator.options
    if not scheduler.growth or step not in scheduler.transitions():
        return
    before, after = (sample_sizes(run.spec, scheduler.rates_at(at), options).layers for at in (step - 1, step))
    sources = copied_from(scheduler.growth, before, after)
    grow(run.handle.layers, sources, run.optimizer.state, anew=scheduler.growth == "all")


def _update(
    run: Run, step: int, inputs: StepInputs, loss: Tensor, watch: LayerWatch | None, header: Tensor | None = None
) -> StepResult:
    """`loss`: of the whole step, over all processes."""
    optim = run.config.optim
    lr = lr_at(step, run.batch, optim)
    frozen = optim.unsampled_rows is UnsampledRows.frozen
    parts = reached_parts(run.handle, inputs.plan.drawn) if frozen else ()
    limits = limits_at(run, step)
    skipping = None if limits is None or run.config.train.on_spike is not OnSpike.skip else astuple(limits)
    clip = optim.grad_clip if optim.stage_clip is None else optim.stage_clip[run.batch.stage_at(step) - 1]
    grad_norm, rejected = update(run.optimizer, lr, clip, loss, parts, run.loss_scale, watch, skipping)
    numbers = torch.stack([loss, grad_norm, rejected])
    if header is not None:
        numbers = torch.cat([numbers.to(header.dtype), header])
    (on_host, *layers), arrived = _sent_to_host([numbers] if watch is None else [numbers, watch.numbers()])
    covered = None if watch is None else run.health.counted()
    return StepResult(
        lr=lr,
        numbers=on_host,
        layers=layers[0] if layers else None,
        arrived=arrived,
        world_size=run.rank.world_size,
        ran=inputs.ran,
        pairs=inputs.pairs,
        covered=covered,
        limits=limits,
    )


def _sent_to_host(tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], torch.cuda.Event | None]:
    """The same on the host, or on their way there, and what says that they have arrived."""
    if tensors[0].device.type != "cuda":
        return tensors, None
    on_host = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for there, tensor in zip(on_host, tensors, strict=True):
        there.copy_(tensor, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return on_host, arrived
