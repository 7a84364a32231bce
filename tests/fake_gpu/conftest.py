"""What a fake GPU needs of torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from est_cli.est import index


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.version.cuda is not None and not torch.cuda.is_available():
        return
    why = "needs torch's build for CUDA on a machine without a GPU: make test-fake-gpu"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """A mode for a `with`: tensors made inside have no values; what reads one, or mixes devices, raises."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(index, "_sent", lambda tensor, device: tensor.to(device))  # fake tensors cannot be pinned
    return FakeTensorMode(allow_non_fake_inputs=True)
