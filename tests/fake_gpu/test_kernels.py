"""What Inductor makes of a sampled MLP on a GPU, read in its source: packed, a micro-batch touches no whole weight."""

from __future__ import annotations

import re

import pytest
import torch

from est_cli.config import ModelConfig
from est_cli.est import IndexGenerator, SamplingRates, apply_est
from est_cli.families import spec_of
from est_cli.models import build_model, hf_config

MODELS = {
    "gpt2": ModelConfig("gpt2", "gpt2", 512, 768, 1, 12, max_positions=1024),
    "llama": ModelConfig("llama", "llama", 512, 2048, 1, 32, 4, 5632, 2048),
}
KERNEL = re.compile(r"^(triton_\w+) = async", re.MULTILINE)
"""Kernels by their names, which tell the operators in them."""
ALLOCATED = re.compile(r"empty_strided_cuda\(\(([\d, ]+)\), \([\d, ]*\), torch\.(\w+)\)")


def mlp_sources(family: str, packed: bool) -> tuple[dict[str, str], int]:
    """The code of a sampled MLP, and the number of entries of one of its whole matrices."""
    from tests.fake_gpu.inductor_source import sources  # needs Triton

    config = MODELS[family]
    model = build_model(config, hf_config(config), 0).train()
    handle = apply_est(model, spec_of(model.config))
    handle.activate(IndexGenerator(handle.spec, 0).draw(1, SamplingRates(0.5, 0.5, 1.0)))
    if packed:
        handle.pack()
    torch._dynamo.reset()
    x = torch.randn(4, 1024, handle.spec.hidden_size, requires_grad=True)
    return sources(handle.layers[0].mlp, x), handle.spec.hidden_size * handle.spec.mlp_size


def whole_buffers(source: str, entries: int) -> list[str]:
    """The types of buffers that have as many entries as a whole matrix, or more, and are no activations."""
    found = []
    for sizes, dtype in ALLOCATED.findall(source):
        shape = [int(size) for size in sizes.split(",") if size.strip()]
        if 4096 not in shape and 4 not in shape and torch.Size(shape).numel() >= entries:
            found.append(dtype)
    return found


@pytest.mark.parametrize("family", MODELS)
def test_a_packed_micro_batch_touches_no_whole_weight(family: str) -> None:
    found, entries = mlp_sources(family, packed=True)
    for name, source in found.items():
        assert "tl.atomic_add" not in source, name
        assert not whole_buffers(source, entries), name
        assert not [kernel for kernel in KERNEL.findall(source) if "index" in kernel], name


@pytest.mark.parametrize("family", MODELS)
def test_a_gather_is_one_kernel_with_its_cast(family: str) -> None:
    """Not packed, as under redraw=forward: no gathered copy in fp32 is ever written."""
    found, entries = mlp_sources(family, packed=False)
    gathers = [kernel for kernel in KERNEL.findall(found["forward"]) if "index_select" in kernel]
    assert gathers and all("to_copy_index_select" in kernel for kernel in gathers)
    assert set(whole_buffers(found["forward"], entries // 2)) == {"bfloat16"}
    assert whole_buffers(found["backward"], entries), "the check itself: here whole gradients are filled"
