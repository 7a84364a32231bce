"""Growing models: who is copied by hand, and training against models that really are that deep."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, PreTrainedModel

from est_cli.est import IndexGenerator, SamplingOptions, SamplingScheduler, apply_est
from est_cli.est.growth import grow
from est_cli.est.sizes import scheduled_sizes
from est_cli.est.stacking import copied_from, g_stack, gradual_stacking, one_layer
from est_cli.families import spec_of
from tests.lab.est_models import build, gpt2_config, tokens

DEEP = gpt2_config(n_layer=6)
SPEC, OPTIONS = spec_of(DEEP), SamplingOptions()


@pytest.mark.parametrize(
    ("growth", "before", "after", "sources"),
    [
        ("last", 3, 6, {3: 0, 4: 1, 5: 2}),
        ("last", 6, 9, {6: 3, 7: 4, 8: 5}),
        ("last", 9, 12, {9: 6, 10: 7, 11: 8}),
        ("last", 3, 4, {3: 2}),
        ("last", 2, 5, {2: 0, 3: 1, 4: 0}),  # more than there are
        ("all", 3, 6, {3: 0, 4: 1, 5: 2}),
        ("all", 3, 12, {layer: layer % 3 for layer in range(3, 12)}),
        ("all", 2, 5, {2: 0, 3: 1, 4: 0}),
        ("", 1, 12, {}),
    ],
)
def test_who_is_copied(growth: str, before: int, after: int, sources: dict[int, int]) -> None:
    assert copied_from(growth, before, after) == sources


@pytest.mark.parametrize("make", [gradual_stacking, g_stack, one_layer])
def test_the_lowest_layers_run_first(make: Callable[..., SamplingScheduler]) -> None:
    scheduler, generator = make(10, [2, 0.5], [1, 0.5]), IndexGenerator(SPEC, 0)
    ran = [generator.draw(step, scheduler.rates_at(step)).layer_idx for step in range(10)]
    assert ran == [(0,)] * 2 + [(0, 1, 2)] * 3 + [None] * 5
    assert scheduler.transitions() == scheduler.milestones() == [2, 5]


@pytest.mark.parametrize(
    ("boundaries", "depths", "message"),
    [
        ([0.2, 1.0], [1, 2], r"^stage\.boundaries: the last one is step 10, the end of the run"),
        ([2, 5], [0.5, 3], r"^stage\.depths: stages 1 and 2 have 3 and 3 of the model's 6 layers"),
        ([2], [6], r"^stage\.depths: stages 1 and 2 have 6 and 6"),
        ([2], [0.99], r"^stage\.depths: stages 1 and 2 have 6 and 6"),
        ([2], [7], r"^stage\.depths: 7 layers are more than the model's 6"),
    ],
)
def test_a_model_that_does_not_grow_is_refused(boundaries: list[float], depths: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scheduled_sizes(SPEC, gradual_stacking(10, boundaries, depths), OPTIONS)


def test_empty_stages_need_not_grow() -> None:
    assert list(scheduled_sizes(SPEC, gradual_stacking(10, [0, 2], [3, 3]), OPTIONS)) == [2, 3]


STEPS, GROWN_AT = 8, 4


def adamw(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1, fused=True)


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        ids = tokens(seed=step)
        loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def shallow(depth: int) -> PreTrainedModel:
    """A model of its own of the first layers of the deep one."""
    deep, model = build(DEEP), GPT2LMHeadModel(gpt2_config(n_layer=depth)).train()
    model.load_state_dict({name: deep.state_dict()[name] for name in model.state_dict()})
    return model


def deepened(small: PreTrainedModel, sources: dict[int, int]) -> PreTrainedModel:
    """`small` with the other layers of the deep model on top, or copies of its own."""
    model = build(DEEP)
    model.load_state_dict({**model.state_dict(), **small.state_dict()})
    for to, source in sources.items():
        model.transformer.h[to].load_state_dict(copy.deepcopy(small.transformer.h[source].state_dict()))
    return model


def with_states(model: nn.Module, small: nn.Module, states: torch.optim.Optimizer, sources: dict[int, int]) -> Tensor:
    """AdamW for `model` that goes on where `states` is, with copied layers where these come from."""
    optimizer, olds = adamw(model), dict(small.named_parameters())
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if parts[1] == "h" and int(parts[2]) in sources:
            parts[2] = str(sources[int(parts[2])])
        if (old := olds.get(".".join(parts))) is not None:
            optimizer.state[parameter] = {key: value.clone() for key, value in states.state[old].items()}
    return optimizer


@pytest.mark.parametrize("kind", ["last", "all", ""])
def test_growing_is_training_a_shallow_model_and_then_the_deep_one(kind: str) -> None:
    """Losses bit for bit, with plain Hugging Face models and a plain AdamW at each depth."""
    before, sources = 4, copied_from(kind, 4, 6)
    model = build(DEEP)
    handle, optimizer = apply_est(model, SPEC), adamw(model)
    scheduler = gradual_stacking(STEPS, [GROWN_AT], [before])
    handle.activate(IndexGenerator(SPEC, 0).draw(0, scheduler.rates_at(0)))
    found = trained(model, optimizer, range(GROWN_AT))
    untouched = build(DEEP).transformer.h[5].state_dict()
    assert all(torch.equal(model.transformer.h[5].state_dict()[name], untouched[name]) for name in untouched)
    grow(handle.layers, sources, optimizer.state, anew=kind == "all")
    handle.activate_full()
    found += trained(model, optimizer, range(GROWN_AT, STEPS))

    small = shallow(before)
    states = adamw(small)
    expected = trained(small, states, range(GROWN_AT))
    deep = deepened(small, sources)
    begun = adamw(deep) if kind == "all" else with_states(deep, small, states, sources)
    expected += trained(deep, begun, range(GROWN_AT, STEPS))
    assert found == expected
    assert len({tuple(map(float, losses)) for losses in (found, expected)}) == 1


def test_the_kinds_of_growth_differ() -> None:
    losses = {}
    for kind in ("last", "all", ""):
        model = build(DEEP)
        handle, optimizer = apply_est(model, SPEC), adamw(model)
        handle.activate(IndexGenerator(SPEC, 0).draw(0, gradual_stacking(STEPS, [GROWN_AT], [4]).rates_at(0)))
        trained(model, optimizer, range(GROWN_AT))
        grow(handle.layers, copied_from(kind, 4, 6), optimizer.state, anew=kind == "all")
        handle.activate_full()
        losses[kind] = tuple(trained(model, optimizer, range(GROWN_AT, STEPS)))
    assert len(set(losses.values())) == 3


def test_copies_share_nothing() -> None:
    model = build(DEEP)
    optimizer = adamw(model)
    trained(model, optimizer, range(1))
    layers = list(model.transformer.h)
    grow(layers, {5: 0}, optimizer.state, anew=False)
    for one, other in zip(layers[0].parameters(), layers[5].parameters(), strict=True):
        assert torch.equal(one, other) and one.data_ptr() != other.data_ptr()
        for key, value in optimizer.state[one].items():
            assert torch.equal(value, optimizer.state[other][key])
            assert value.data_ptr() != optimizer.state[other][key].data_ptr()
