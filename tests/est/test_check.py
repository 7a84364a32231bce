"""est.check passes what is right, and names what is wrong in specifications and models that were broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from est_cli import est
from est_cli.est import ModelSpec, Projection, SampledAttribute, SampledParameter, UnitSpan
from est_cli.est.layers import Taken
from est_cli.families import spec_of
from tests.lab.est_models import build, config_of, tokens

D, HEADS, KV_HEADS, HEAD_DIM, COLUMNS, LAYERS, VOCAB = 24, 6, 3, 6, 20, 3, 13


class Attention(nn.Module):
    """Grouped-query attention with projections of its own and a gain per head: (B, T, D) -> (B, T, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.o = nn.Linear(D, HEADS * HEAD_DIM), nn.Linear(HEADS * HEAD_DIM, D)
        self.k, self.v = (nn.Linear(D, KV_HEADS * HEAD_DIM) for _ in range(2))
        self.gain = nn.Parameter(torch.ones(HEADS))

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))
        k, v = (y.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True) * self.gain.view(1, -1, 1, 1)
        return self.o(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(D, COLUMNS), nn.Linear(D, COLUMNS), nn.Linear(COLUMNS, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.gate(x).relu() * self.up(x))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(2))
        self.attn, self.mlp = Attention(), MLP()

    def forward(self, x: Tensor) -> Any:
        x = x + self.attn(self.norms[0](x))
        return x + self.mlp(self.norms[1](x))


class Model(nn.Module):
    """(B, T) ids -> (B, T, VOCAB)."""

    layer: type[nn.Module] = Layer

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCAB, D), nn.Linear(D, VOCAB)
        self.layers = nn.ModuleList(self.layer() for _ in range(LAYERS))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


Q = Projection("attn.q", D, HEADS * HEAD_DIM, "head", "out")
K, V = (Projection(f"attn.{name}", D, KV_HEADS * HEAD_DIM, "kv_head", "out") for name in "kv")
O = Projection("attn.o", HEADS * HEAD_DIM, D, "head", "in")  # noqa: E741
GATE, UP = (Projection(f"mlp.{name}", D, COLUMNS, "column", "out") for name in ("gate", "up"))
DOWN = Projection("mlp.down", COLUMNS, D, "column", "in")
GAIN = SampledParameter("attn", "gain", (HEADS,), "head")
SPEC = ModelSpec(
    family="toy",
    layers="layers",
    num_layers=LAYERS,
    num_heads=HEADS,
    num_kv_heads=KV_HEADS,
    head_dim=HEAD_DIM,
    mlp_size=COLUMNS,
    hidden_size=D,
    vocab_size=VOCAB,
    max_positions=None,
    projections=(Q, K, V, O, GATE, UP, DOWN),
    branches=("attn.o", "mlp.down"),
    parameters=(GAIN,),
)


def without(*left_out: Projection) -> ModelSpec:
    return replace(SPEC, projections=tuple(p for p in SPEC.projections if p not in left_out))


def made(**methods: Any) -> type[nn.Module]:
    """The model with layers whose attention has other methods."""
    attention = type("Attention", (Attention,), methods)

    class OtherLayer(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.attn = attention()

    return type("Model", (Model,), {"layer": OtherLayer})


def batch() -> Tensor:
    return torch.randint(VOCAB, (2, 7), generator=torch.Generator().manual_seed(3))


class Reader(Model):
    """(B, T, D) numbers -> (B, T, VOCAB): nothing stands before the layers."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_the_layers_may_read_the_batch_itself() -> None:
    torch.manual_seed(0)
    numbers = torch.randn(2, 7, D, dtype=torch.float64)
    assert est.check(Reader(), SPEC, numbers) < 1e-12
    assert not numbers.requires_grad


def test_what_is_right_passes_and_the_model_is_left_alone() -> None:
    torch.manual_seed(0)
    model = Model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert est.check(model, SPEC, batch()) < 1e-12
    assert model.training and {type(module) for module in model.layers} == {Layer}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    est.apply_est(model, SPEC)
    with pytest.raises(ValueError, match="already called"):
        est.check(model, SPEC, batch())


LEFT_OUT = {"attn.q": Q, "attn.k": K, "attn.v": V, "attn.o": O, "mlp.gate": GATE, "mlp.up": UP, "mlp.down": DOWN}


@pytest.mark.parametrize("path", LEFT_OUT)
def test_a_projection_that_is_left_out_is_named_with_the_line_to_add(path: str) -> None:
    p = LEFT_OUT[path]
    spec = replace(without(p), branches=tuple(b for b in SPEC.branches if b != path) or ("attn", "mlp"))
    with pytest.raises(ValueError, match=f"{path} is missing") as error:
        est.check(Model(), spec, batch())
    line = f'Projection("{path}", {p.in_features}, {p.out_features}, "{p.unit}", "{p.side}")'
    assert line in str(error.value) and "\n" not in str(error.value)


WRONG: dict[str, tuple[ModelSpec, str]] = {
    "a parameter across heads": (
        replace(SPEC, parameters=()),
        r'SampledParameter\("attn", "gain", \(6,\), "head", dim=0\)',
    ),
    "a KV group taken for heads": (
        replace(SPEC, projections=(Q, replace(K, unit="head"), V, O, GATE, UP, DOWN)),
        'attn.k.weight does not hold heads .6 of them.*its unit is "kv_head"',
    ),
    "no KV groups at all": (
        replace(SPEC, num_kv_heads=HEADS, projections=(Q, K, V, O, GATE, UP, DOWN)),
        "attn.[kv].weight does not hold KV heads .6 of them",
    ),
    "heads of half the width": (
        replace(SPEC, num_heads=12, num_kv_heads=6, head_dim=3, parameters=()),
        "attn.[qkv].weight does not hold (KV )?heads",
    ),
    "a branch without scale": (replace(SPEC, branches=("attn.o",)), 'mlp.down joins .* add "mlp.down" to branches'),
    "no branches": (
        replace(SPEC, branches=()),
        "attn.o joins the residual stream and no branch holds it .branches: none",
    ),
    "a branch in a branch": (
        replace(SPEC, branches=("attn", "attn.o", "mlp.down")),
        "attn.o is a part of the branch attn",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_in_a_specification_is_named(name: str) -> None:
    spec, told = WRONG[name]
    with pytest.raises(ValueError, match=told):
        est.check(Model(), spec, batch())


def test_columns_may_be_taken_in_pairs() -> None:
    assert est.check(Model(), replace(SPEC, mlp_size=COLUMNS // 2), batch()) < 1e-12


class OwnNumber(Attention):
    """As most models are written: the forward reads how many heads there are."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.groups = HEADS, KV_HEADS

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
        k, v = (p(x).view(*x.shape[:2], self.groups, -1).transpose(1, 2) for p in (self.k, self.v))
        k, v = (y.repeat_interleave(self.num_heads // self.groups, dim=1) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).flatten(2))


def own_number() -> nn.Module:
    model = Model()
    for layer in model.layers:
        layer.attn = OwnNumber()
        del layer.attn.gain
    return model


def test_heads_that_a_view_hides_are_named_with_the_number_that_stays_whole() -> None:
    """`view(B, T, H, -1)` of fewer columns gives H narrower heads and no error: only the values tell."""
    spec = replace(SPEC, parameters=())
    with pytest.raises(ValueError, match=r"attn.o sums over something else.*attn\.num_heads is such a number") as error:
        est.check(own_number(), spec, batch())
    assert 'SampledAttribute("attn", "num_heads"' in str(error.value)
    whole = (
        SampledAttribute("attn", "num_heads", lambda kept: kept.heads),
        SampledAttribute("attn", "groups", lambda kept: kept.kv_heads),
    )
    assert est.check(own_number(), replace(spec, attributes=whole), batch()) < 1e-12
    with pytest.raises(ValueError, match=r"attn\.groups is such a number"):
        est.check(own_number(), replace(spec, attributes=whole[:1]), batch())


def test_a_number_in_the_code_itself_is_told_with_the_view_to_write() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        q = self.q(x).view(*x.shape[:2], HEADS, HEAD_DIM).transpose(1, 2)
        k, v = (p(x).view(*x.shape[:2], KV_HEADS, HEAD_DIM).transpose(1, 2) for p in (self.k, self.v))
        k, v = (y.repeat_interleave(HEADS // KV_HEADS, dim=1) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True) * self.gain.view(1, -1, 1, 1)
        return self.o(y.transpose(1, 2).flatten(2))

    with pytest.raises(ValueError, match=r"shape.*is invalid.*attn\.q.*view\(B, T, -1, 6\)"):
        est.check(made(forward=forward)(), SPEC, batch())


class TupleLayer(Layer):
    def forward(self, x: Tensor) -> Any:
        return (super().forward(x),)


def test_a_layer_that_cannot_be_left_out_is_told() -> None:
    class Tuples(Model):
        layer = TupleLayer

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            for layer in self.layers:
                (x,) = layer(x)
            return self.head(x)

    class Positions(Model):
        class layer(Layer):
            def forward(self, positions: Tensor, x: Tensor) -> Any:  # type: ignore[override]
                return super().forward(x + positions.unsqueeze(-1))

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            for layer in self.layers:
                x = layer(torch.arange(ids.shape[1]).double(), x)
            return self.head(x)

    with pytest.raises(ValueError, match="gives a tuple; it must give the hidden states alone"):
        est.check(Tuples(), SPEC, batch())
    with pytest.raises(ValueError, match="first argument of a layer"):
        est.check(Positions(), SPEC, batch())


def test_another_scale_than_that_of_the_paper_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    of = Taken.of
    monkeypatch.setattr(Taken, "of", lambda taken, x: of(taken, x) * (1.001 if taken.scale != 1.0 else 1.0))
    with pytest.raises(ValueError, match="something else than the masked complete model"):
        est.check(Model(), SPEC, batch())


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "olmo2", "phi3", "gpt_neox"])
def test_families_of_every_form_pass(family: str) -> None:
    """Fused and separate projections, KV groups, norms behind branches and over all heads."""
    model = build(config_of(family))
    assert est.check(model, spec_of(model), {"input_ids": tokens(), "use_cache": False}) < 1e-6


@pytest.mark.parametrize("left_out", range(4))
def test_of_gpt2_every_projection_is_needed(left_out: int) -> None:
    model = build(config_of("gpt2"))
    spec = spec_of(model)
    projections = [p for number, p in enumerate(spec.projections) if number != left_out]
    path = spec.projections[left_out].path
    branches = tuple(b for b in spec.branches if b != path)
    with pytest.raises(ValueError, match=f"{path} is missing"):
        est.check(model, replace(spec, projections=tuple(projections), branches=branches), tokens())


class Grouped(Attention):
    """Queries, key and value of one group after another in one matrix, as litgpt has them."""

    def __init__(self) -> None:
        super().__init__()
        del self.q, self.k, self.v, self.gain
        self.qkv = nn.Linear(D, (HEADS + 2 * KV_HEADS) * HEAD_DIM)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (-1, 4, HEAD_DIM)).split((2, 1, 1), dim=3)
        k, v = (y.expand_as(q) for y in (k, v))
        q, k, v = (y.flatten(2, 3).transpose(1, 2) for y in (q, k, v))
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


GROUPED = replace(
    SPEC,
    projections=(
        Projection("attn.qkv", D, (HEADS + 2 * KV_HEADS) * HEAD_DIM, "kv_head", "out", (UnitSpan(4 * HEAD_DIM),)),
        *SPEC.projections[3:],
    ),
    parameters=(),
)


def grouped() -> nn.Module:
    model = Model()
    for layer in model.layers:
        layer.attn = Grouped()
    return model


def test_groups_fused_one_after_another_are_sampled_whole_and_only_so() -> None:
    assert est.check(grouped(), GROUPED, batch()) < 1e-12
    within = est.IndexGenerator(GROUPED, 0, est.SamplingOptions(kv_groups="within"))
    with pytest.raises(ValueError, match=r"within.*whole groups; use sampling.kv_groups=whole"):
        within.draw(0, est.SamplingRates(p_h=0.5))


def test_of_one_group_that_is_fused_no_heads_can_be_sampled_and_that_is_told() -> None:
    (fused, *others) = GROUPED.projections
    one = replace(fused, layout=(UnitSpan((HEADS + 2 * KV_HEADS) * HEAD_DIM),))
    with pytest.raises(ValueError, match="computed as whole groups"):
        est.check(grouped(), replace(GROUPED, num_kv_heads=1, projections=(one, *others)), batch())


@pytest.mark.parametrize(("key", "number"), [("head_dim", 12), ("hidden_size", 25)])
def test_numbers_that_only_flops_read_are_compared_too(key: str, number: int) -> None:
    with pytest.raises(ValueError, match=f"spec: {key}={number}, and .* of {getattr(SPEC, key)}"):
        est.check(Model(), replace(SPEC, **{key: number}), batch())


NOT_A_SPEC: dict[str, tuple[Callable[[], object], str]] = {
    "a unit": (lambda: replace(DOWN, unit="columns"), r"Projection\('mlp.down'\): unit is 'columns'.*'column'"),
    "a side": (lambda: replace(DOWN, side="input"), "side is 'input'; it is one of 'in', 'out'"),
    "a unit of a span": (lambda: UnitSpan(3, unit="kv"), "unit is 'kv'"),  # type: ignore[arg-type]
    "one span": (lambda: replace(DOWN, layout=UnitSpan(1)), r"layout must be a tuple of UnitSpan.*\(x,\)"),
    "one attribute": (
        lambda: replace(SPEC, attributes=SampledAttribute("attn", "heads", lambda kept: kept.heads)),
        r"attributes must be a tuple of SampledAttribute; one alone is \(x,\)",
    ),
    "one branch": (lambda: replace(SPEC, branches="attn.o"), "branches must be a tuple of str"),
}


@pytest.mark.parametrize("name", NOT_A_SPEC)
def test_a_word_or_a_comma_that_is_wrong_is_told_where_it_was_written(name: str) -> None:
    make, told = NOT_A_SPEC[name]
    with pytest.raises(ValueError, match=told):
        make()
