"""Numbers that a layer's forward reads, on its modules or in the config that they share."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch

from est_cli.est import IndexGenerator, SampledAttribute, apply_est
from est_cli.families import spec_of
from tests.est.test_equivalence import RATES
from tests.lab.est_models import ALL_FAMILIES, build, config_of, tokens
from tests.lab.reference import forward_backward, layers_of


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_numbers_that_a_layer_reads_elsewhere_are_refused_unless_they_are_the_models(family: str) -> None:
    """And before anything is changed."""
    model = build(config_of(family))
    spec, path = spec_of(model), layers_of(model)[0]
    before = [type(module) for module in path.modules()]
    for name, words in (("training", "is True, the specification says 7"), ("nothing", "is not there")):
        wrong = SampledAttribute(spec.branches[0], name, lambda kept: 7)
        with pytest.raises(ValueError, match=words):
            apply_est(model, replace(spec, attributes=(*spec.attributes, wrong)))
    assert [type(module) for module in path.modules()] == before


def test_a_config_that_a_layer_reads_stays_as_it_is() -> None:
    """Phi-3's attention reads numbers of heads from the config that all of the model shares."""
    model = build(config_of("phi3"))
    before = model.config.to_dict()
    handle = apply_est(model, spec_of(model))
    attention = handle.layers[0].self_attn
    for _ in range(2):
        handle.activate(IndexGenerator(handle.spec, 2).draw(4, RATES["heads"]))
        assert attention.config.num_attention_heads < 9 == model.config.num_attention_heads
        twin = deepcopy(model)
        expected = forward_backward(model, tokens()).logits
        handle.activate_full()
        assert attention.config.num_attention_heads == 9
        assert torch.equal(forward_backward(twin, tokens()).logits, expected), "a copy keeps its subnetwork"
        assert not torch.equal(forward_backward(model, tokens()).logits, expected)
    assert model.config.to_dict() == before
    model.set_attn_implementation("sdpa")
    assert attention.config._attn_implementation == "sdpa", "what the config says is heard everywhere"
    with pytest.raises(AttributeError):
        _ = attention.config.nothing


def test_compiled_layers_that_read_a_config_are_one_graph_for_all_draws() -> None:
    model = build(config_of("phi3", attn_implementation="sdpa"))
    handle = apply_est(model, spec_of(model))
    generator, graphs = IndexGenerator(handle.spec, 2), []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    for layer in handle.layers:
        layer.compile(backend=backend, fullgraph=True, dynamic=False)
    for step in range(3):
        handle.activate(generator.draw(step, RATES["all"]))
        forward_backward(model, tokens())
    assert len(graphs) == 1
