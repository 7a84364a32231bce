"""train.compile=true on a CPU: the same training, and no graph is compiled again because other units were drawn."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from est_cli.distributed.device import missing_for_compiling
from est_cli.tracking import read_metrics
from tests.lab.lab import QUICK, Lab, losses

pytestmark = pytest.mark.slow

SHORT = ("train.max_steps=6", "stage.t1=2", "stage.t2=4", "train.eval_every=0", "train.checkpoint_every=0")


NO_COMPILER = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and there is no g++"
)


WAYS = {
    "one process": (),
    "checkpointing": ("train.activation_checkpointing=true",),
    "documents": ("dataset.packing=document", "train.activation_checkpointing=true"),
    "positions": ("stage.p_t=0.4",),
    "ddp": ("launch.strategy=ddp", "launch.timeout_s=500"),
    "fsdp": ("launch.strategy=fsdp", "launch.timeout_s=500"),
}
"""The last two in two processes."""
MODELS = {"gpt2": (), "llama": ("model=llama_tiny", "model.num_kv_heads=2")}
CASES = [(way, model) for model in MODELS for way in WAYS]
SHOWN = CASES if os.environ.get("EST_COMPILE") == "full" else CASES[:1]
"""All of them: make test-compile."""


@NO_COMPILER
@pytest.mark.parametrize(("way", "model"), SHOWN)
def test_compiled_layers(lab: Lab, way: str, model: str) -> None:
    """Graphs: the softmax, the full layers, all sampled ones, and those of the evaluation, whose last batch is ragged;
    where positions are drawn one softmax more, of as many logits as these are.

    What the last stage runs is compiled before the first step, and a ragged batch compiles nothing.
    """
    ragged = ("train.eval_every=1", "train.eval_tokens=160")  # 5 sequences in batches of 2
    settings = (*SHORT, *MODELS[model], *ragged, *WAYS[way])
    assert lab.tiny("eager", *settings, "train.compile=false").code == 0
    paths = [str(lab.folder / f"graphs-{rank}") for rank in range(2 if "launch.timeout_s=500" in settings else 1)]
    if len(paths) == 1:
        ended = lab.tiny("compiled", *settings, "train.compile=true", plants=[("count_graphs", *paths)])
        assert ended.code == 0, ended.err
    else:
        plants = {rank: [*QUICK, ("count_graphs", path)] for rank, path in enumerate(paths)}
        both = lab.tiny_ranks(2, "compiled", *settings, "train.compile=true", plants=plants)
        assert [ended.code for ended in both] == [0, 0], both[0].err
    assert losses(lab.at("compiled")) == pytest.approx(losses(lab.at("eager")), rel=1e-5)
    validated = [
        [record["val_loss"] for record in read_metrics(lab.at(name) / "metrics.jsonl") if "val_loss" in record]
        for name in ("eager", "compiled")
    ]
    assert validated[1] == pytest.approx(validated[0], rel=1e-5) and len(validated[1]) == 6
    graphs = [count + (way == "positions") for count in (3, 4, 4, 4, 4, 4)]
    assert [json.loads(Path(path).read_text()) for path in paths] == [graphs] * len(paths)


def test_without_a_compiler(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, it is one line before anything is written; by default it goes without."""
    ended = lab.tiny("x", *SHORT, "train.compile=true", plants=[("no_compiler",)])
    assert ended.code == 2 and ended.last_words == [
        "est-train: error: train.compile: needs a C++ compiler, and there is none here; install one, or use false"
    ]
    assert not lab.at("x").exists()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert missing_for_compiling("cuda") in ("Triton", "a C compiler")


def test_layers_by_sequence_compile_nothing_anew(lab: Lab) -> None:
    """Which sequences a layer runs is decided outside of its graph, and how many they are stays the same.

    One graph more than in test_factors_that_change_in_every_step_compile_nothing: layers of fewer units.
    """
    settings = ("sampling.layers_by=sequence", "sampling.redraw=forward", *SHORT)
    assert lab.tiny("eager", *settings).code == 0
    plant = ("count_graphs", str(lab.folder / "graphs"), "aot_eager")
    ended = lab.tiny("compiled", *settings, "train.compile=true", plants=[plant])
    assert ended.code == 0, ended.err
    assert losses(lab.at("compiled")) == pytest.approx(losses(lab.at("eager")), rel=1e-5)
    graphs = json.loads((lab.folder / "graphs").read_text())
    assert graphs[0] == graphs[1] and graphs[2:] == [graphs[2]] * 4, "at most one in each stage"


def test_factors_that_change_in_every_step_compile_nothing(lab: Lab) -> None:
    """Those of progressive layer dropping are inputs of the compiled layers, as the drawn indices are.

    That is decided when a layer is traced, so this one needs no C++.
    """
    pld = ("scheduler=pld", "stage.t1=null", "stage.t2=null", "stage.gamma=0.5", *SHORT[:1], *SHORT[3:])
    assert lab.tiny("eager", *pld).code == 0
    plant = ("count_graphs", str(lab.folder / "graphs"), "aot_eager")
    ended = lab.tiny("compiled", *pld, "train.compile=true", plants=[plant])
    assert ended.code == 0, ended.err
    assert losses(lab.at("compiled")) == pytest.approx(losses(lab.at("eager")), rel=1e-5)
    graphs = json.loads((lab.folder / "graphs").read_text())
    assert graphs == [2, 3, 3, 3, 3, 3], "the first step has no factors"
