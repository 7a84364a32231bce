"""sampling.layers_by=sequence: a batch computes what its sequences do one by one, each without its layers."""

from __future__ import annotations

import itertools
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from est_cli.common.rank import Rank
from est_cli.config.micro_batch import pieces
from est_cli.est import IndexGenerator, SamplingOptions, SamplingRates, Subnetwork, apply_est
from est_cli.est.baselines import raptr
from est_cli.est.coverage import coverage
from est_cli.est.flops import flops_of, planned_counts, planned_ledger
from est_cli.est.schedule import constant
from est_cli.est.sizes import MicroBatchSplit, realised_rates
from est_cli.est.subnetwork import sizes_of_each
from est_cli.families import spec_of
from est_cli.models import checkpoint_activations
from est_cli.models.documents import document_inputs
from est_cli.training.inputs import plan_step
from tests.est.test_index import chi_square, upper_limit
from tests.lab.est_models import ALL_FAMILIES, FAMILIES, build, config_of, gpt2_config, tokens
from tests.lab.reference import masked_dense

BATCH, LENGTH = 4, 7
BY_SEQUENCE = {"layers_by": "sequence", "multiple_of": 1}
RATES = {"layers": SamplingRates(p_l=0.5), "all": SamplingRates(0.4, 0.3, 0.6)}


@pytest.fixture(autouse=True)
def _float64_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in test_families.py: Gemma's norms compute in float64 here."""
    to_fp32 = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x if x.dtype is torch.float64 else to_fp32(x))


def layers_of_each(drawn: Subnetwork, num_layers: int) -> list[tuple[int, ...]]:
    """By sequence, the layers that it goes through."""
    assert drawn.sequence_idx is not None and drawn.layer_idx is None
    runs = [drawn.sequence_idx[layer].tolist() for layer in range(num_layers)]
    found = [[n for n in range(num_layers) if n in drawn.whole_layers or s in runs[n]] for s in range(drawn.sequences)]
    return [tuple(layers) for layers in found]


def gradients(model: PreTrainedModel, ids: Tensor, **inputs: Any) -> tuple[Tensor, dict[str, Tensor | None]]:
    """The sum of the next-token losses of all sequences, and its gradients."""
    model.zero_grad(set_to_none=True)
    logits = model(ids, use_cache=False, **inputs).logits
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def one_by_one(
    plain: PreTrainedModel, drawn: Subnetwork, ids: Tensor, scale: float = 1.0, **inputs: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same of a plain model that is given one sequence after the other, and each time left without its layers."""
    total, sums = torch.zeros((), dtype=torch.float64), {n: torch.zeros_like(p) for n, p in plain.named_parameters()}
    for number, layers in enumerate(layers_of_each(drawn, len(spec_layers(plain)))):
        alone = masked_dense(plain, replace(drawn, layer_idx=layers, sequence_idx=None))
        for layer in spec_layers(alone):
            for path in spec_of(plain).branches if scale != 1.0 else ():
                layer.get_submodule(path).register_forward_hook(lambda module, args, output: output * scale)
        own = {name: value[number : number + 1] for name, value in inputs.items()}
        loss, found = gradients(alone, ids[number : number + 1], **own)
        total += loss
        for name, gradient in found.items():
            sums[name] += 0 if gradient is None else gradient
    return total, sums


def spec_layers(model: PreTrainedModel) -> Any:
    return model.get_submodule(spec_of(model).layers)


def assert_same(found: tuple[Tensor, dict[str, Tensor | None]], expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(found[0], expected[0], **close)
    for name, gradient in expected[1].items():
        assert found[1][name] is not None, f"{name} has no gradient: every layer runs in every micro-batch"
        torch.testing.assert_close(found[1][name], gradient, **close, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("family", ALL_FAMILIES)
@pytest.mark.parametrize("kind", RATES)
def test_it_equals_the_sequences_one_by_one(family: str, kind: str) -> None:
    """Every family, its state spaces too: losses and all gradients in float64, under activation checkpointing."""
    plain, ids = build(config_of(family), dtype=torch.float64), tokens(BATCH, LENGTH)
    twin = deepcopy(plain)
    handle = apply_est(twin, spec_of(twin))
    checkpoint_activations(twin)
    drawn = IndexGenerator(handle.spec, 3, SamplingOptions(**BY_SEQUENCE)).draw(5, RATES[kind], sequences=BATCH)
    handle.activate(drawn)
    assert len({*layers_of_each(drawn, handle.spec.num_layers)}) > 1
    assert_same(gradients(twin, ids), one_by_one(plain, drawn, ids))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "options", [{"layer_scale": "inverse"}, {"layer_scale": "inverse", "keep_ends": True}], ids=str
)
def test_branches_are_divided_by_the_realised_rate(family: str, options: dict[str, Any]) -> None:
    plain, ids = build(config_of(family), dtype=torch.float64), tokens(BATCH, LENGTH)
    twin = deepcopy(plain)
    handle = apply_est(twin, spec_of(twin))
    drawn = IndexGenerator(handle.spec, 3, SamplingOptions(**BY_SEQUENCE, **options)).draw(
        5, SamplingRates(p_l=0.6), sequences=BATCH
    )
    handle.activate(drawn)
    layers = layers_of_each(drawn, handle.spec.num_layers)
    passes = sum(map(len, layers))
    assert drawn.layer_scale == handle.spec.num_layers * BATCH / passes
    assert all({0, handle.spec.num_layers - 1} <= {*found} for found in layers) == ("keep_ends" in options)
    assert_same(gradients(twin, ids), one_by_one(plain, drawn, ids, scale=drawn.layer_scale))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["padded", "documents"])
def test_masks_and_positions_go_with_their_sequences(family: str, attention: str, kind: str) -> None:
    plain = build(config_of(family, attn_implementation=attention), dtype=torch.float64)
    twin, ids = deepcopy(plain), tokens(BATCH, LENGTH)
    handle = apply_est(twin, spec_of(twin))
    drawn = IndexGenerator(handle.spec, 3, SamplingOptions(**BY_SEQUENCE)).draw(5, RATES["layers"], sequences=BATCH)
    handle.activate(drawn)
    if kind == "padded":
        inputs = {"attention_mask": (torch.arange(LENGTH) < torch.tensor([[7], [5], [6], [3]])).long()}
    else:  # the first documents of the sequences end at different places
        ids[torch.arange(BATCH), torch.tensor([1, 3, 2, 4])] = 0
        inputs = document_inputs(plain, ids, end_of_text=0)
        assert len({*map(tuple, inputs["position_ids"].tolist())}) == BATCH
    assert_same(gradients(twin, ids, **inputs), one_by_one(plain, drawn, ids, **inputs))


def test_a_batch_of_another_size_is_refused() -> None:
    model = build(gpt2_config())
    handle = apply_est(model, spec_of(model))
    handle.activate(
        IndexGenerator(handle.spec, 3, SamplingOptions(**BY_SEQUENCE)).draw(5, RATES["layers"], sequences=4)
    )
    with pytest.raises(ValueError, match="was drawn for 4 sequences, not for the 6"):
        model(tokens(6))
    handle.activate_full()
    assert model(tokens(6)).logits.shape[0] == 6


@pytest.mark.parametrize(
    ("layers", "sequences", "p_l", "of_each"),
    [(4, 4, 0.5, 2), (5, 4, 0.5, 2), (6, 8, 0.75, 6), (4, 6, 0.4, 2), (3, 5, 0.1, 1), (4, 3, 0.9, 3)],
)
def test_every_layer_runs_as_many_and_every_sequence_goes_through_as_many(
    layers: int, sequences: int, p_l: float, of_each: int
) -> None:
    generator = IndexGenerator(spec_of(gpt2_config(n_layer=layers)), 3, SamplingOptions(**BY_SEQUENCE))
    for step in range(30):
        drawn = generator.draw(step, SamplingRates(p_l=p_l), sequences=sequences)
        if of_each == sequences:
            assert drawn.sequence_idx is None and drawn.layer_idx is None
            continue
        found = layers_of_each(drawn, layers)
        runs = Counter(itertools.chain.from_iterable(found))
        assert runs == dict.fromkeys(range(layers), of_each)
        numbers = [len(through) for through in found]
        assert max(numbers) - min(numbers) <= 1
        assert [sizes.layers for sizes in sizes_of_each(generator.spec, drawn)] == numbers


def test_all_sets_of_layers_are_equally_likely() -> None:
    """Of 4 layers each sequence goes through 2; the 6 pairs are uniform, of neighbours as of others."""
    generator = IndexGenerator(spec_of(gpt2_config(n_layer=4)), 3, SamplingOptions(**BY_SEQUENCE))
    seen: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(4)]
    for step in range(1500):
        drawn = generator.draw(step, SamplingRates(p_l=0.5), sequences=4)
        for number, layers in enumerate(layers_of_each(drawn, 4)):
            seen[number][layers] += 1
    for counts in seen:
        assert len(counts) == 6 and chi_square(torch.tensor([*counts.values()]).double()) < upper_limit(5)


def test_a_draw_is_redrawn_as_any_other() -> None:
    spec = spec_of(gpt2_config())

    def drawn(micro_step: int, rank: int, **options: str) -> list[tuple[int, ...]]:
        generator = IndexGenerator(spec, 3, SamplingOptions(**BY_SEQUENCE, **options))
        return layers_of_each(generator.draw(5, RATES["layers"], micro_step, rank, 4), spec.num_layers)

    assert drawn(0, 0) == drawn(2, 1)
    assert drawn(0, 0, redraw="forward") != drawn(2, 0, redraw="forward") == drawn(2, 1, redraw="forward")
    assert drawn(0, 0, ranks="independent") != drawn(2, 1, ranks="independent") == drawn(0, 1, ranks="independent")


SPLITS = [
    ({}, MicroBatchSplit(tuple(pieces(12, 4)))),
    ({}, MicroBatchSplit(tuple(pieces(14, 4)))),
    ({"redraw": "forward"}, MicroBatchSplit(tuple(pieces(24, 5, 2)), 2)),
    ({"redraw": "forward", "ranks": "independent", "cover": "balanced"}, MicroBatchSplit(tuple(pieces(12, 2, 3)), 3)),
    ({"keep_ends": True}, MicroBatchSplit(tuple(pieces(24, 4, 2)), 2)),
]


@pytest.mark.parametrize(("options", "split"), SPLITS, ids=str)
@pytest.mark.parametrize("p_l", [0.5, 0.6])
def test_what_steps_count_is_what_the_plan_says(options: dict[str, Any], split: MicroBatchSplit, p_l: float) -> None:
    """Sequences, their attention pairs, and the share of the steps in which each unit was trained."""
    spec, chosen, batch = spec_of(gpt2_config()), SamplingOptions(**BY_SEQUENCE, **options), sum(split.micro_batches)
    generator, rates = IndexGenerator(spec, 3, chosen, split.world_size), SamplingRates(p_l=p_l)
    pairs, ran, attended, expected = np.arange(1, batch + 1) ** 2, Counter(), 0, 0
    for step in range(4):
        plan, _, counts, found = plan_step(
            generator, step, rates, split.micro_batches, Rank(0, split.world_size), pairs
        )
        assert plan.anywhere in (None, frozenset(range(spec.num_layers)))
        ran.update(dict(counts))
        attended += sum(sizes.layers * number for (sizes, _), number in zip(counts, found or (), strict=True))
        expected += pairs_by_hand(generator, step, rates, split, pairs)
    planned = planned_counts(spec, constant(4, rates), chosen, batch, 3, {1: split})[1]
    assert ran == dict(planned) and sum(ran.values()) == 4 * batch
    assert attended == expected
    covered = coverage(spec, constant(4, rates), 3, chosen, {1: split})
    assert float(covered.layers.mean()) == pytest.approx(realised_rates(spec, planned).p_l, abs=1e-12)


def pairs_by_hand(
    generator: IndexGenerator, step: int, rates: SamplingRates, split: MicroBatchSplit, pairs: np.ndarray
) -> int:
    """Pairs times layers, summed over the sequences of a step: piece by piece, process by process."""
    total, begin = 0, 0
    for micro_step, together in enumerate(split.micro_batches):
        size = together // split.world_size
        for rank in range(split.world_size):
            drawn = generator.draw(step, rates, micro_step, rank, size)
            for number, sizes in enumerate(sizes_of_each(generator.spec, drawn)):
                total += sizes.layers * int(pairs[begin + rank * size + number])
        begin += together
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_its_flops_are_what_pytorch_counts(family: str) -> None:
    model = build(config_of(family))
    handle, rates = apply_est(model, spec_of(model)), SamplingRates(0.5, 0.5, 0.6)
    options, ids = SamplingOptions(**BY_SEQUENCE), tokens(6, LENGTH)
    handle.activate(IndexGenerator(handle.spec, 3, options).draw(0, rates, sequences=6))
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(ids, use_cache=False).logits.flatten(0, 1), ids.flatten()).backward()
    planned = planned_counts(handle.spec, constant(1, rates), options, 6)[1]
    assert counter.get_total_flops() == flops_of(handle.spec, planned, LENGTH).total
    assert realised_rates(handle.spec, planned).p_l == 4 / 6


def test_a_path_of_raptr_keeps_both_ends_in_every_sequence() -> None:
    spec, scheduler, options = spec_of(gpt2_config(n_layer=6)), raptr(10, [5], [3]), SamplingOptions(**BY_SEQUENCE)
    drawn = IndexGenerator(spec, 3, options).draw(0, scheduler.rates_at(0), sequences=8)
    assert all(layers[0] == 0 and layers[-1] == 5 for layers in layers_of_each(drawn, 6))
    assert drawn.sequence_idx is not None and drawn.sequence_idx.shape == (6, 2), (
        "1 of 4 layers between, of 8 sequences"
    )
    of_batch = planned_ledger(spec, scheduler, SamplingOptions(), 8, LENGTH)
    assert planned_ledger(spec, scheduler, options, 8, LENGTH) == of_batch, "no rounding here: the same FLOPs"


def test_one_sequence_has_no_layers_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"sampling\.protect: does not go with sampling\.layers_by=sequence"):
        SamplingOptions(**BY_SEQUENCE, protect=(0,))
    generator = IndexGenerator(spec_of(gpt2_config()), 0, SamplingOptions(**BY_SEQUENCE))
    with pytest.raises(ValueError, match=r"sampling\.layers_by: .* micro-batch of 1 sequence"):
        generator.draw(0, SamplingRates(p_l=0.5), sequences=1)
    assert generator.draw(0, SamplingRates(p_m=0.5), sequences=1).layer_idx is None
    with pytest.raises(ValueError, match=r"sampling\.layers_by: .* chance"):
        generator.draw(0, SamplingRates(p_l=0.5, layers="chance"), sequences=4)
