"""What was not sampled in a step: weights and moments under each choice, against an AdamW written out by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from est_cli.config import OptimConfig, SkippedLayers
from est_cli.est import (
    FULL,
    EstHandle,
    GradientPart,
    IndexGenerator,
    SamplingOptions,
    SamplingRates,
    Subnetwork,
    apply_est,
    reached_parts,
)
from est_cli.families import spec_of
from est_cli.training.optim import Optimizer, build_optimizer, update
from tests.lab.est_models import build, config_of, tokens

OPTIM = OptimConfig(weight_decay=0.3, beta1=0.8, beta2=0.9, eps=1e-6)
ZERO_GRAD = OptimConfig(weight_decay=0.3, beta1=0.8, beta2=0.9, eps=1e-6, skipped_layers=SkippedLayers.zero_grad)
LR, MAX_NORM, STEPS = 0.05, 0.5, 5
SAMPLED, WHOLE = SamplingRates(0.4, 0.5, 0.4), SamplingRates(0.4, 0.5, 1.0)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that these tiny parameters are cut, too."""
    monkeypatch.setattr("est_cli.training.optim.adamw.CPU_PIECE", 40)


def entries(units: Tensor, width: int) -> Tensor:
    return (units.unsqueeze(1) * width + torch.arange(width)).flatten()


def used(model: PreTrainedModel, drawn: Subnetwork, layer: int, name: str) -> tuple[int, Tensor] | None:
    """(dimension, entries along it) that a drawn layer uses of one of its parameters; None: all. By hand."""
    config, heads, columns = model.config, drawn.head_idx, drawn.mlp_idx
    if config.model_type == "gpt2":
        head_dim = config.n_embd // config.n_head
        blocks = [entries(heads[layer], head_dim) + block * config.n_embd for block in range(3)]
        return {
            "attn.c_attn.weight": (1, torch.cat(blocks)),
            "attn.c_attn.bias": (0, torch.cat(blocks)),
            "attn.c_proj.weight": (0, blocks[0]),
            "mlp.c_fc.weight": (1, columns[layer]),
            "mlp.c_fc.bias": (0, columns[layer]),
            "mlp.c_proj.weight": (0, columns[layer]),
        }.get(name)
    of_heads = entries(heads[layer], config.head_dim)
    of_groups = of_heads if drawn.kv_idx is None else entries(drawn.kv_idx[layer], config.head_dim)
    module = name.split(".")[-2]
    if name == f"mlp.{module}.weight" or name == f"mlp.{module}.bias":
        sides = {"gate_proj": 0, "up_proj": 0, "down_proj": 1}
        return None if name == "mlp.down_proj.bias" else (sides[module], columns[layer])
    if name == "self_attn.o_proj.weight":
        return 1, of_heads
    if module in ("k_proj", "v_proj"):
        return None if drawn.kv_idx is None else (0, of_groups)
    return (0, of_heads) if module == "q_proj" else None


def masks(model: PreTrainedModel, subnetworks: Sequence[Subnetwork]) -> dict[str, Tensor | None]:
    """Parameter -> which entries any of `subnetworks` uses; None for a layer that none of them runs."""
    found: dict[str, Tensor | None] = {}
    for name, parameter in model.named_parameters():
        path = name.split(".")
        layer = next((int(part) for part in path if part.isdigit()), None)
        found[name] = torch.ones_like(parameter, dtype=torch.bool)
        if layer is None:
            continue
        running = [drawn for drawn in subnetworks if drawn.layer_idx is None or layer in drawn.layer_idx]
        union = torch.zeros_like(parameter, dtype=torch.bool)
        for drawn in running:
            inner = ".".join(path[path.index(str(layer)) + 1 :])
            part = None if drawn.head_idx is None else used(model, drawn, layer, inner)
            if part is None:
                union[:] = True
            else:
                union.index_fill_(*part, True)
        found[name] = union if running else None
    return found


@dataclass
class ByHand:
    """AdamW (Loshchilov and Hutter) of one parameter in float64, on the entries of a mask."""

    weight: Tensor
    step: int = 0
    m: Tensor = field(init=False)
    v: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.m, self.v = torch.zeros_like(self.weight), torch.zeros_like(self.weight)

    def update(self, grad: Tensor, mask: Tensor) -> None:
        optim, self.step = OPTIM, self.step + 1
        decay = optim.weight_decay if self.weight.dim() > 1 else 0.0
        m, v = optim.beta1 * self.m + (1 - optim.beta1) * grad, optim.beta2 * self.v + (1 - optim.beta2) * grad**2
        root = (v / (1 - optim.beta2**self.step)).sqrt() + optim.eps
        weight = self.weight * (1 - LR * decay) - LR * m / (1 - optim.beta1**self.step) / root
        self.m, self.v = torch.where(mask, m, self.m), torch.where(mask, v, self.v)
        self.weight = torch.where(mask, weight, self.weight)


def wrapped(family: str, optim: OptimConfig) -> tuple[PreTrainedModel, EstHandle, Optimizer]:
    model = build(config_of(family), dtype=torch.float64)
    handle = apply_est(model, spec_of(model.config))
    return model, handle, build_optimizer(model, optim, handle)


def backward(model: PreTrainedModel, handle: EstHandle, subnetworks: Sequence[Subnetwork], seed: int) -> None:
    for number, drawn in enumerate(subnetworks):
        handle.activate(drawn)
        batch = tokens(seed=10 * seed + number)
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()


def state_of(model: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    found = [parameter.detach().clone() for parameter in model.parameters()]
    return found + [optimizer.state[p][key].clone() for p in model.parameters() for key in optimizer.state.get(p, {})]


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


CASES: list[tuple[str, dict[str, Any], int, SamplingRates]] = [
    ("gpt2", {}, 1, SAMPLED),
    ("gpt2", {"per_layer": False}, 1, WHOLE),
    ("gpt2", {"redraw": "forward"}, 2, SAMPLED),
    ("llama", {}, 1, SAMPLED),
    ("llama", {"redraw": "forward"}, 3, SAMPLED),
    ("llama", {"redraw": "forward", "kv_groups": "within"}, 2, WHOLE),
]
"""Family, how it is sampled, subnetworks in a step, rates."""


@pytest.mark.parametrize(("family", "options", "draws", "rates"), CASES)
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen rows", "zero rows"])
@pytest.mark.parametrize("optim", [OPTIM, ZERO_GRAD], ids=["frozen layers", "zero layers"])
def test_against_adamw_by_hand(
    family: str, options: dict[str, Any], draws: int, rates: SamplingRates, frozen: bool, optim: OptimConfig
) -> None:
    """Four choices; between sampled steps a complete one, and one that is rejected."""
    model, handle, optimizer = wrapped(family, optim)
    generator = IndexGenerator(handle.spec, 5, SamplingOptions(**options))
    by_hand = {name: ByHand(parameter.detach().clone()) for name, parameter in model.named_parameters()}
    partly = 0
    for step in range(STEPS):
        drawn = [FULL] if step == 3 else [generator.draw(step, rates, micro) for micro in range(draws)]
        backward(model, handle, drawn, step)
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        norm = torch.stack([grad.norm() for grad in gradients.values()]).norm()
        divisor = (norm / MAX_NORM).clamp(min=1.0).float()
        reached = masks(model, drawn)
        assert {name for name, mask in reached.items() if mask is not None} == gradients.keys()
        loss = torch.tensor(float("nan") if step == 2 else 1.0)
        found, rejected = update(optimizer, LR, MAX_NORM, loss, reached_parts(handle, drawn) if frozen else ())
        assert found == pytest.approx(float(norm), rel=1e-12) and rejected == float(step == 2)
        if step == 2:
            continue
        for name, hand in by_hand.items():
            mask = reached[name]
            if mask is None and optim is OPTIM:
                continue
            every = torch.ones_like(hand.weight, dtype=torch.bool)
            grad = gradients[name] / divisor if mask is not None else torch.zeros_like(hand.weight)
            partly += mask is not None and not bool(mask.all())
            hand.update(grad, mask if frozen and mask is not None else every)
    assert partly > 10, "nothing was sampled"
    for name, parameter in model.named_parameters():
        hand, state = by_hand[name], optimizer.state.get(parameter)
        torch.testing.assert_close(parameter.detach(), hand.weight, rtol=1e-9, atol=1e-12)
        if hand.step:
            assert state["step"] == hand.step
            torch.testing.assert_close(state["exp_avg"], hand.m, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(state["exp_avg_sq"], hand.v, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optim", [OPTIM, ZERO_GRAD], ids=["frozen layers", "zero layers"])
@pytest.mark.parametrize("draws", [1, 2])
def test_what_is_frozen_keeps_every_bit(draws: int, optim: OptimConfig) -> None:
    """And so does everything in a rejected step, the first one included."""
    model, handle, optimizer = wrapped("gpt2", optim)
    generator = IndexGenerator(handle.spec, 5, SamplingOptions(redraw="forward"))
    for step in range(4):
        drawn = [generator.draw(step, WHOLE, micro) for micro in range(draws)]
        backward(model, handle, drawn, step)
        weights = [parameter.detach().clone() for parameter in model.parameters()]
        before, bad = state_of(model, optimizer), step in (0, 2)
        update(optimizer, LR, MAX_NORM, torch.tensor(float("inf") if bad else 1.0), reached_parts(handle, drawn))
        if bad:
            zeros = [torch.zeros_like(tensor) for tensor in state_of(model, optimizer)[len(before) :]]
            assert same([*before, *zeros], state_of(model, optimizer)), "a rejected step has changed something"
            continue
        reached = masks(model, drawn)
        for (name, parameter), old in zip(model.named_parameters(), weights, strict=True):
            mask = reached[name]
            assert mask is not None and torch.equal(parameter[~mask], old[~mask])
            if ".h." in name and parameter.dim() > 1:
                assert bool((parameter != old)[mask].all())


def gradients_of(model: nn.Module) -> list[Tensor | None]:
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("rates", [SamplingRates(), SamplingRates(1.0, 1.0, 0.6)], ids=["full", "layers"])
def test_where_every_row_runs_it_is_plain_adamw_to_the_last_bit(rates: SamplingRates) -> None:
    model, handle, optimizer = wrapped("llama", OPTIM)
    model.float()
    plain = deepcopy(model)
    groups = [
        {"params": [p for p in plain.parameters() if (p.dim() > 1) is matrix], "weight_decay": 0.3 * matrix}
        for matrix in (True, False)
    ]
    reference = torch.optim.AdamW(groups, lr=LR, betas=(0.8, 0.9), eps=1e-6, fused=True)
    generator = IndexGenerator(handle.spec, 5)
    for step in range(3):
        drawn = [generator.draw(step, rates)]
        backward(model, handle, drawn, step)
        for parameter, grad in zip(plain.parameters(), gradients_of(model), strict=True):
            parameter.grad = grad
        update(optimizer, LR, 0.0, torch.tensor(1.0), reached_parts(handle, drawn))
        reference.step()
    assert same(state_of(model, optimizer), state_of(plain, reference))  # type: ignore[arg-type]


@pytest.mark.parametrize("entries_of_a_piece", [1, 50, 10**9])
@pytest.mark.parametrize(
    ("shape", "dim", "unit_size"), [((6, 10), 0, 1), ((6, 10), 1, 5), ((5, 12), 1, 1), ((12,), 0, 4), ((8, 2, 3), 0, 2)]
)
def test_pieces_are_the_whole(shape: tuple[int, ...], dim: int, unit_size: int, entries_of_a_piece: int) -> None:
    parameter, units = nn.Parameter(torch.zeros(shape)), torch.arange(0, shape[dim] // unit_size, 2)
    part = GradientPart(parameter, units, dim, unit_size)
    tensor, other = torch.arange(parameter.numel()).view(shape), torch.zeros(shape, dtype=torch.int64)
    largest = []
    for piece, (view, target) in part.pieces((tensor, other), entries_of_a_piece):
        taken = piece.of(view)
        largest.append(taken.numel())
        piece.put(target, taken)
    kept = torch.zeros(shape, dtype=torch.bool).index_fill_(dim, entries(units, unit_size), True)
    assert torch.equal(other, tensor * kept) and sum(largest) == part.numel == kept.sum()
    assert len(largest) == 1 or max(largest) <= max(entries_of_a_piece, part.numel // min(len(largest), 2))


def states(model: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, dict[str, Tensor]]]:
    for name, parameter in model.named_parameters():
        if state := optimizer.state.get(parameter):
            yield name, dict(state.items())


@pytest.mark.parametrize("optim", [OPTIM, ZERO_GRAD], ids=["frozen", "zero_grad"])
def test_layers_that_never_ran(optim: OptimConfig) -> None:
    """Frozen they have no state; with zero gradients they have torch's from the first step, and decay."""
    model, handle, optimizer = wrapped("gpt2", optim)
    first = Subnetwork(layer_idx=(0, 1))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for step in range(2):
        backward(model, handle, [first], step)
        update(optimizer, LR, MAX_NORM, torch.tensor(1.0), reached_parts(handle, [first]))
        assert all(parameter.grad is None for parameter in model.parameters())
    found = dict(states(model, optimizer))
    for name, parameter in model.named_parameters():
        if not any(f".h.{number}." in name for number in (2, 3, 4)):
            continue
        if optim is OPTIM:
            assert name not in found and torch.equal(parameter, before[name])
            continue
        assert found[name]["step"] == 2 and not found[name]["exp_avg"].any() and not found[name]["exp_avg_sq"].any()
        decayed = before[name] * (1 - LR * 0.3) ** 2 if parameter.dim() > 1 else before[name]
        torch.testing.assert_close(parameter.detach(), decayed, rtol=1e-12, atol=0.0)
