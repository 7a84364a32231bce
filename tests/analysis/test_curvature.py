"""Hutchinson's estimate against the exact Hessian of a tiny model: its mean, its variance, its blocks."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from est_cli.analysis.curvature import Estimate, estimate, graph_of_gradients, hessian_product, probe, quadratic_forms
from est_cli.analysis.parameters import group_names, sizes
from est_cli.common.errors import NumericsError
from est_cli.distributed.workers import Cells
from tests.lab.toys import LENGTH, alone, full_hessian, gpt2, llama, loss_of, share_of

pytestmark = pytest.mark.slow

PROBES = 200


@cache
def exact() -> Tensor:
    model = gpt2()
    return full_hessian(*loss_of(model), dict(model.named_parameters()))


@cache
def forms() -> Cells:
    model = gpt2()
    return quadratic_forms(*loss_of(model), dict(model.named_parameters()), PROBES, 0, alone())


def columns_of(group: str) -> tuple[list[bool], Tensor]:
    """The parameters of a group: which tensors, and which rows of the exact Hessian."""
    model = gpt2()
    groups = group_names(model)
    tensors = [groups[name] == group for name, _ in model.named_parameters()]
    rows = torch.cat([torch.full((p.numel(),), groups[name] == group) for name, p in model.named_parameters()])
    return tensors, rows


def test_the_reference_is_a_hessian() -> None:
    hessian = exact()
    assert len(hessian) == sum(p.numel() for p in gpt2().parameters()) > 1000
    assert torch.allclose(hessian, hessian.T, atol=1e-10)
    model = gpt2()
    loss, batches = loss_of(model)
    weight, eps = model.transformer.h[1].mlp.c_fc.weight, 1e-4
    at = next(n for n, (name, _) in enumerate(model.named_parameters()) if name == "transformer.h.1.mlp.c_fc.weight")
    row = sum(p.numel() for _, p in list(model.named_parameters())[:at])
    values = []
    with torch.no_grad():
        for step in (-eps, 0.0, eps):
            weight.view(-1)[0] += step
            values.append(sum(loss(batch).item() for batch in range(batches)))
            weight.view(-1)[0] -= step
    assert (values[0] - 2 * values[1] + values[2]) / eps**2 == pytest.approx(hessian[row, row].item(), rel=1e-3)


def test_a_product_is_the_exact_one() -> None:
    model = gpt2()
    (loss, batches), inputs = loss_of(model), list(model.parameters())
    v = [torch.randn_like(tensor) for tensor in inputs]
    products = [hessian_product(graph_of_gradients(loss(batch), inputs), inputs, v) for batch in range(batches)]
    found = torch.cat([sum(parts).reshape(-1) for parts in zip(*products, strict=True)])
    assert torch.allclose(found, exact() @ torch.cat([one.reshape(-1) for one in v]), atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_mean_is_within_three_standard_errors_of_the_exact_trace(seed: int) -> None:
    model = gpt2()
    found = quadratic_forms(*loss_of(model), dict(model.named_parameters()), 30, seed, alone())
    trace = estimate(found.sum(axis=1).tolist())
    assert trace.standard_error is not None and trace.n == 30
    assert abs(trace.mean - exact().trace().item()) < 3 * trace.standard_error


@pytest.mark.slow
def test_the_standard_error_is_that_of_the_theory() -> None:
    """Var(v^T H v) = 2 * (sum of the squares off the diagonal) for v of +1 and -1."""
    hessian = exact()
    off = hessian - hessian.diag().diag()
    theory = (2 * off.square().sum() / PROBES).sqrt().item()
    trace = estimate(forms().sum(axis=1).tolist())
    assert trace.standard_error == pytest.approx(theory, rel=0.15)
    assert abs(trace.mean - hessian.trace().item()) < 3 * theory


@pytest.mark.parametrize("group", ["embeddings", "attention", "mlp", "norms"])
def test_a_group_has_the_trace_of_its_own_block(group: str) -> None:
    """Its variance has the entries between it and the others too, once: they are there in one order only."""
    tensors, rows = columns_of(group)
    block, beside = exact()[rows][:, rows], exact()[rows][:, ~rows]
    within = 2 * (block - block.diag().diag()).square().sum()
    theory = ((within + beside.square().sum()) / PROBES).sqrt().item()
    found = estimate(forms()[:, tensors].sum(axis=1).tolist())
    assert found.standard_error == pytest.approx(theory, rel=0.2)
    assert abs(found.mean - block.trace().item()) < 3 * theory


def test_only_the_chosen_weights_are_probed() -> None:
    model = gpt2()
    groups = group_names(model)
    mlp = {name: p for name, p in model.named_parameters() if groups[name] == "mlp"}
    _, rows = columns_of("mlp")
    block = exact()[rows][:, rows]
    theory = (2 * (block - block.diag().diag()).square().sum() / 100).sqrt().item()
    found = estimate(quadratic_forms(*loss_of(model), mlp, 100, 0, alone()).sum(axis=1).tolist())
    assert found.standard_error == pytest.approx(theory, rel=0.25)
    assert abs(found.mean - block.trace().item()) < 3 * theory


def test_probes_are_a_pure_function_of_seed_and_number() -> None:
    like = [torch.zeros(5, 3, dtype=torch.float64), torch.zeros(4)]
    one, again = probe(like, 0, 3), probe(like, 0, 3)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert {value for tensor in one for value in tensor.flatten().tolist()} == {-1.0, 1.0}
    others = [torch.cat([t.flatten().double() for t in probe(like, seed, n)]) for seed, n in ((0, 3), (0, 4), (1, 3))]
    assert len({tuple(other.tolist()) for other in others}) == 3
    means = torch.stack([torch.cat([t.flatten().double() for t in probe(like, 0, n)]) for n in range(400)]).mean(0)
    assert means.abs().max() < 0.2, "each entry is +1 as often as -1"


@pytest.mark.parametrize("size", [2, 3, 5])
def test_processes_find_together_what_one_finds_to_the_last_bit(size: int) -> None:
    model = gpt2()
    parameters = dict(model.named_parameters())
    one = quadratic_forms(*loss_of(model), parameters, 4, 0, alone())
    parts = [quadratic_forms(*loss_of(model), parameters, 4, 0, share_of(rank, size)) for rank in range(size)]
    assert all(np.any(part) for part in parts) and not np.array_equal(parts[0], one)
    assert [cell for rank in range(size) for cell in share_of(rank, size).own(8)] == list(range(8))
    assert np.allclose(np.sum(parts, axis=0), one, rtol=1e-12)


def test_parameters_without_a_part_in_the_loss_and_linear_losses_have_no_curvature() -> None:
    used, unused = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    found = quadratic_forms(lambda batch: used.pow(2).sum(), 1, {"a": used, "b": unused}, 2, 0, alone())
    assert found.tolist() == [[6.0, 0.0]] * 2
    assert quadratic_forms(lambda batch: used.sum(), 1, {"a": used}, 1, 0, alone()).tolist() == [[0.0]]


def test_what_is_not_finite_is_told() -> None:
    x = torch.zeros(2, requires_grad=True)
    with pytest.raises(NumericsError, match="second derivatives"):
        quadratic_forms(lambda batch: x.pow(1.5).sum(), 1, {"x": x}, 1, 0, alone())


def test_an_estimate() -> None:
    assert estimate([1.0, 2.0, 3.0, 6.0]) == Estimate(3.0, pytest.approx((14 / 3) ** 0.5 / 2), 4)
    assert estimate([5.0]) == Estimate(5.0, None, 1)


def sharpened(model: nn.Module, factor: float) -> nn.Module:
    """The same function with other weights: attention's values divided by `factor`, what reads them times it.

    Between v_proj and o_proj nothing is nonlinear, so H's blocks of v and o become factor**2 and 1 / factor**2 times as
    large, and the others stay: where the trace of v's block is positive, the whole trace grows without a bound.
    """
    with torch.no_grad():
        for layer in model.model.layers:  # type: ignore[union-attr]
            layer.self_attn.v_proj.weight.div_(factor)
            layer.self_attn.o_proj.weight.mul_(factor)
    return model


def test_a_sharpened_copy_of_a_model_has_a_larger_trace() -> None:
    """The negative control: the direction is proven by the exact blocks, and the estimate must see it."""
    plain, sharp = llama(4), sharpened(llama(4), 10.0)
    tokens = torch.arange(LENGTH).unsqueeze(0)
    assert torch.allclose(plain(tokens).logits, sharp(tokens).logits, atol=1e-10)
    exact_traces, found = [], []
    for model in (plain, sharp):
        parameters = {n: p for n, p in model.named_parameters() if "v_proj" in n or "o_proj" in n}
        hessian = full_hessian(*loss_of(model), parameters)
        v = torch.cat([torch.full((p.numel(),), "v_proj" in name) for name, p in parameters.items()])
        exact_traces.append((hessian.diagonal()[v].sum().item(), hessian.diagonal()[~v].sum().item()))
        every = dict(model.named_parameters())
        found.append(estimate(quadratic_forms(*loss_of(model), every, 30, 0, alone()).sum(axis=1).tolist()))
    (v_before, o_before), (v_after, o_after) = exact_traces
    assert v_after == pytest.approx(100 * v_before, rel=1e-6) and o_after == pytest.approx(o_before / 100, rel=1e-6)
    before, after = found
    assert before.standard_error is not None and after.standard_error is not None
    assert v_before > 0 and after.mean - before.mean > 3 * (before.standard_error + after.standard_error)


def test_groups_of_families() -> None:
    model = gpt2()
    groups = group_names(model)
    assert groups["transformer.wte.weight"] == groups["transformer.wpe.weight"] == "embeddings"
    assert "lm_head.weight" not in groups, "tied, so it is there once"
    assert groups["transformer.h.0.attn.c_attn.bias"] == "attention"
    assert groups["transformer.h.1.mlp.c_proj.weight"] == "mlp" and groups["transformer.ln_f.weight"] == "norms"
    counts = sizes(dict(model.named_parameters()), groups)
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters()) and next(iter(counts)) == "embeddings"
    assert group_names(llama())["lm_head.weight"] == "embeddings"
