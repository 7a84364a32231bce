"""train.compile=true on a CPU: the same training, and no graph is compiled again because other units were drawn."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.lab.lab import Lab, losses

pytestmark = pytest.mark.slow

SHORT = ("train.max_steps=6", "stage.t1=2", "stage.t2=4", "train.eval_every=0", "train.checkpoint_every=0")


NO_COMPILER = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and there is no g++"
)


@NO_COMPILER
def test_compiled_layers(lab: Lab) -> None:
    assert lab.tiny("eager", *SHORT).code == 0
    ended = lab.tiny("compiled", *SHORT, "train.compile=true", plants=[("count_graphs", str(lab.folder / "graphs"))])
    assert ended.code == 0, ended.err
    assert losses(lab.at("compiled")) == pytest.approx(losses(lab.at("eager")), rel=1e-5)
    graphs = json.loads((lab.folder / "graphs").read_text())
    assert graphs == [2, 2, 2, 2, 3, 3], "one for the softmax, one for all sampled layers, one for the full ones"


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
