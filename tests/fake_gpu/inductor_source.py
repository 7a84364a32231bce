"""The code that Inductor would run on an H100 for a sampled part of a layer, without a GPU.

The part is traced on the CPU by AOTAutograd; its graphs are then lowered for a device whose properties are made up.
Private parts of torch are used throughout: this is for one version of it at a time, and only for tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch._inductor.config as inductor_config
import triton
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.device_interface import get_interface_for_device
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.post_grad import post_grad_passes
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from triton.backends.compiler import GPUTarget

H100 = SimpleNamespace(
    name="NVIDIA H100 80GB HBM3",
    major=9,
    minor=0,
    multi_processor_count=132,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    warp_size=32,
    total_memory=80 << 30,
    gcnArchName="",
    shared_memory_per_block_optin=232448,
    L2_cache_size=50 << 20,
    regs_per_block=65536,
    max_threads_per_block=1024,
)


def sources(part: nn.Module, x: Tensor) -> dict[str, str]:
    """By `forward` and `backward`: the Python source, with its Triton kernels, of `part` applied to x in bf16."""
    graphs: dict[str, tuple[Any, list[Any]]] = {}

    def keep(name: str) -> Callable[[Any, list[Any]], Any]:
        def compiler(graph: Any, inputs: list[Any]) -> Any:
            graphs[name] = graph, inputs
            return graph

        return compiler

    backend = aot_autograd(
        fw_compiler=keep("forward"), bw_compiler=keep("backward"), decompositions=select_decomp_table()
    )
    compiled = torch.compile(part, backend=backend, dynamic=False, fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = compiled(x)
    y.sum().backward()
    with _an_h100():
        return {name: _lowered(graph, inputs, name == "backward") for name, (graph, inputs) in graphs.items()}


def _lowered(graph: Any, inputs: list[Any], is_backward: bool) -> str:
    for node in graph.graph.nodes:
        if node.kwargs.get("device") == torch.device("cpu"):
            node.kwargs = node.kwargs | {"device": torch.device("cuda:0")}
    graph.recompile()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, torch.no_grad(), V.set_fake_mode(mode):
        there = [
            torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device="cuda:0") if isinstance(x, Tensor) else x
            for x in inputs
        ]
        FakeTensorProp(graph, mode=mode).propagate_dont_convert_inputs(*there)
        post_grad_passes(graph, is_inference=False)
        FakeTensorProp(graph, mode=mode).propagate_dont_convert_inputs(*there)
        lowering = GraphLowering(
            graph, example_inputs=there, shape_env=None, is_inference=False, is_backward=is_backward
        )
        with V.set_graph_handler(lowering), V.set_debug_handler(DebugContext()):
            lowering.run(*there)
            code, _ = lowering.codegen()
    return str(getattr(code, "value", code))


@contextmanager
def _an_h100() -> Iterator[None]:
    cuda = get_interface_for_device("cuda")
    target = GPUTarget("cuda", 90, 32)
    driver = SimpleNamespace(
        get_current_target=lambda: target,
        get_current_device=lambda: 0,
        get_current_stream=lambda device=0: 0,
        get_active_torch_device=lambda: torch.device("cuda", 0),
        get_benchmarker=lambda: None,
        launcher_cls=None,
        utils=None,
    )
    with (
        patch.object(torch.cuda, "get_device_properties", lambda device=None: H100),
        patch.object(torch.cuda, "get_device_capability", lambda device=None: (9, 0)),
        patch.object(torch.cuda, "device_count", lambda: 1),
        patch.object(torch.cuda, "current_device", lambda: 0),
        patch("torch._inductor.scheduler.has_triton", lambda *_, **__: True),
        patch.object(cuda.Worker, "get_device_properties", staticmethod(lambda device=None: H100)),
        patch.object(cuda, "get_device_properties", staticmethod(lambda device=None: H100)),
        patch.object(cuda, "get_compute_capability", staticmethod(lambda device=None: 90)),
        patch.object(cuda, "is_available", staticmethod(lambda: True)),
        patch.object(cuda, "device_count", staticmethod(lambda: 1)),
        patch.object(cuda, "current_device", staticmethod(lambda: 0)),
        patch.object(triton.runtime.driver, "_active", driver),
        inductor_config.patch(cpp_wrapper=False),
    ):
        yield
