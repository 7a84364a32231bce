"""Documents of a sequence against each of them alone, in a plain Hugging Face model that is told of nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, masking_utils

from est_cli.common.errors import ConfigError
from est_cli.est import IndexGenerator, SamplingOptions, SamplingRates, apply_est
from est_cli.families import spec_of
from est_cli.models import checkpoint_activations, packed_sequences
from est_cli.models.documents import (
    check_documents,
    document_inputs,
    has_documents_apart,
    mark_documents,
    use_flex_attention,
)
from est_cli.models.lm_loss import LmLoss, target_count
from tests.lab.est_models import ALL_FAMILIES, build, config_of, tokens

END, T = 0, 17
ROWS = [[4, 5, 12], [2], [], [16], [0, 7]]
"""Where texts end: documents of one token, longer than a window, at both ends of a sequence, and one alone in it."""


def batch() -> Tensor:
    ids = tokens(len(ROWS), T, seed=3)
    ids[ids == END] = 1
    for row, ends in zip(ids, ROWS, strict=True):
        row[ends] = END
    return ids


def documents(ids: Tensor) -> Iterator[tuple[int, int, int]]:
    """(row, begin, end) of each."""
    for number, ends in enumerate(ROWS):
        begins = [0, *(end + 1 for end in ends if end + 1 < T)]
        for begin, end in zip(begins, [*begins[1:], T], strict=True):
            yield number, begin, end


def model_of(family: str, **changes: Any) -> Any:
    """In double precision and, but for Gemma 2, whose cap they cannot, with torch's kernels: the softmax that
    transformers writes out is in single precision."""
    how = "eager" if family == "gemma2" else "sdpa"
    return build(config_of(family, attn_implementation=how, **changes), dtype=torch.float64)


def exact(family: str) -> dict[str, float]:
    return {"rtol": 1e-5, "atol": 1e-5} if family == "gemma2" else {"rtol": 1e-10, "atol": 1e-12}


@contextmanager
def nothing_looked_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No value of the positions is read, for which a GPU would have to be waited for."""

    def look(position_ids: Tensor) -> None:
        raise AssertionError("transformers looks for documents by itself")

    with monkeypatch.context() as patch:
        patch.setattr(masking_utils, "find_packed_sequence_indices", look)
        with packed_sequences():
            yield


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_each_document_is_read_as_if_it_stood_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = model_of(family), batch()
    with torch.no_grad(), nothing_looked_at(monkeypatch):
        together = model(input_ids=ids, use_cache=False, **document_inputs(model, ids, END)).logits
    with torch.no_grad():
        for row, begin, end in documents(ids):
            alone = model(input_ids=ids[row : row + 1, begin:end], use_cache=False).logits[0]
            torch.testing.assert_close(together[row, begin:end], alone, **exact(family))
        across = model(input_ids=ids, use_cache=False).logits
    assert not torch.allclose(together[0, 6:], across[0, 6:], atol=1e-3), "documents see each other by default"


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "opt", "phi"])
def test_flex_attention_is_given_the_same_masks(family: str) -> None:
    """Forward, uncompiled, as far as a CPU goes: windows, a cap, and the mask that is made for OPT."""
    ids = batch()
    flex, plain = (build(config_of(family, attn_implementation=how)).eval() for how in ("flex_attention", "eager"))
    with torch.no_grad(), packed_sequences(), torch.compiler.set_stance("force_eager"):
        for model in (flex, plain):
            model.requires_grad_(False)
        inputs = [{"input_ids": ids, "use_cache": False, **document_inputs(each, ids, END)} for each in (flex, plain)]
        found, expected = flex(**inputs[0]).logits, plain(**inputs[1]).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "device", "message"),
    [
        (config_of("llama", head_dim=16), "cpu", "has no backward pass on a CPU"),
        (config_of("gpt2"), "cuda", "transformers does not compute gpt2 by flex"),
        (config_of("llama"), "cuda", "flex needs heads of 16 at least, not 4"),
    ],
)
def test_where_flex_attention_cannot_be(config: Any, device: str, message: str) -> None:
    before = config._attn_implementation
    with pytest.raises(ConfigError, match=f"^train.attention: .*{message}.*; use auto$"):
        use_flex_attention(config, device)
    assert config._attn_implementation == before


def test_flex_attention_is_what_the_model_is_built_with() -> None:
    config = config_of("llama", head_dim=16)
    use_flex_attention(config, "cuda")
    assert build(config).config._attn_implementation == "flex_attention"


def loss_alone(model: Any, ids: Tensor) -> Tensor:
    """The mean over the same targets: the end of a text predicts the first token of the next one."""
    total = torch.zeros((), dtype=torch.float64)
    for row, begin, end in documents(ids):
        labels = F.pad(ids[row], (0, 1), value=-100)[begin + 1 : end + 1]
        logits = model(input_ids=ids[row : row + 1, begin:end], use_cache=False).logits[0]
        total = total + F.cross_entropy(logits, labels, reduction="sum", ignore_index=-100)
    return total / target_count(ids)


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("kind", ["whole", "chunked"])
@pytest.mark.parametrize("family", ["gpt2", "opt", "mistral", "llama"])
def test_loss_and_gradients_of_a_subnetwork(family: str, kind: str, recomputed: bool) -> None:
    """Learned positions of both kinds, windows, and grouped heads; of the drawn heads, columns and layers only."""
    model, ids = model_of(family), batch()
    spec = spec_of(model.config)
    handle = apply_est(model, spec)
    handle.activate(IndexGenerator(spec, 1, SamplingOptions()).draw(0, SamplingRates(0.7, 0.5, 0.7)))
    alone = loss_alone(model, ids)
    expected = gradients(model, alone)
    if recomputed:
        checkpoint_activations(model)
    with packed_sequences():
        loss = LmLoss(kind, chunk=20, end_of_text=END)(model, ids, target_count(ids))
        found = gradients(model, loss)
    near = {"rtol": 1e-9, "atol": 1e-13} if kind == "chunked" else {"rtol": 1e-4, "atol": 1e-7}  # whole is in fp32
    torch.testing.assert_close(loss.double(), alone, **near)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], **near)


def test_by_default_a_model_is_given_its_tokens_only() -> None:
    assert document_inputs(model_of("gpt2"), batch(), None) == {}


def test_what_no_mask_parts_is_refused() -> None:
    mamba = AutoConfig.for_model("mamba", hidden_size=8, num_hidden_layers=1, vocab_size=31)
    with pytest.raises(ConfigError, match=r"^dataset.packing: the family mamba carries a state"):
        check_documents(mamba, T)
    with pytest.raises(ConfigError, match=r"^dataset.packing: document is for families that est knows"):
        check_documents(AutoConfig.for_model("bert"), T)
    long = {"rope_type": "longrope", "short_factor": [1.0] * 2, "long_factor": [2.0] * 2, "rope_theta": 1e4}
    turned = config_of("phi3", rope_parameters=long | {"original_max_position_embeddings": 8, "factor": 3.0})
    turned.rope_parameters["original_max_position_embeddings"] = 8
    with pytest.raises(ConfigError, match=r"^dataset.packing: phi3 with longrope turns .* than 8 positions"):
        check_documents(turned, 9)
    check_documents(turned, 8)


def test_a_model_says_how_it_was_trained() -> None:
    config = config_of("gpt2")
    before = config.to_dict()
    mark_documents(config, apart=True)
    assert has_documents_apart(AutoConfig.for_model(**config.to_dict()))
    mark_documents(config, apart=False)  # a later training goes on across documents
    assert config.to_dict() == before and not has_documents_apart(config)
