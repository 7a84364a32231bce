"""train.attention: the same training with each kernel, and one line where a kernel cannot do what the run needs."""

from __future__ import annotations

import pytest
import torch

from est_cli.config import Attention
from est_cli.distributed.device import deterministic_kernels
from tests.lab.lab import Lab, losses, sha256_of

SHORT = ("train.max_steps=6", "stage.t1=2", "stage.t2=4", "train.eval_every=3", "train.sample_every=3")


@pytest.mark.long
def test_each_kernel_trains_the_same(lab: Lab) -> None:
    for kernel in ("auto", "flash", "math"):
        ended = lab.tiny(kernel, *SHORT, f"train.attention={kernel}")
        assert ended.code == 0, ended.err
    auto, weights = losses(lab.at("auto")), {name: sha256_of(lab.at(name), 6) for name in ("auto", "flash", "math")}
    assert weights["flash"] == weights["auto"], "what torch chooses by itself"
    assert weights["math"] != weights["auto"] and losses(lab.at("math")) == pytest.approx(auto, rel=1e-5)


def test_kernels_that_repeat_every_bit(lab: Lab) -> None:
    """On a CPU sums have one order anyway; elsewhere torch is told, for the run and no longer."""
    short = (*SHORT, "train.sample_every=0")
    assert lab.tiny("plain", *short).code == 0
    ended = lab.tiny("exact", *short, "train.deterministic=true")
    assert ended.code == 0, ended.err
    assert sha256_of(lab.at("exact"), 6) == sha256_of(lab.at("plain"), 6)
    ended = lab.tiny("x", *short, "train.deterministic=true", "train.attention=cudnn")
    assert ended.code == 2 and "cudnn has no backward pass that repeats every bit" in ended.last_words[0]
    with deterministic_kernels(Attention.auto):
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled() and not torch.backends.cuda.mem_efficient_sdp_enabled()
    assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has these kernels")
@pytest.mark.parametrize("settings", [("cudnn",), ("efficient",), ("flash", "model.dropout=0.1")], ids=" ".join)
def test_a_kernel_that_cannot_do_it_is_told_before_anything_is_written(lab: Lab, settings: tuple[str, ...]) -> None:
    kernel, *more = settings
    ended = lab.tiny("x", *SHORT, f"train.attention={kernel}", *more)
    assert ended.code == 2 and len(ended.last_words) == 1
    assert ended.last_words[0].startswith(f"est-train: error: train.attention: {kernel} cannot do this on cpu")
    assert not lab.at("x").exists()
