"""The layers' health against a plain loop in float64, and that measuring it changes nothing."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from est_cli.common.rank import Rank
from est_cli.config import OptimConfig, OptimName, SkippedLayers, UnsampledRows
from est_cli.distributed import StepPlan
from est_cli.est import EstHandle, IndexGenerator, SamplingRates, Subnetwork, apply_est, reached_parts
from est_cli.est.coverage import coverage
from est_cli.est.schedule import constant
from est_cli.est.sizes import MicroBatchSplit, SamplingOptions
from est_cli.families import spec_of
from est_cli.storage.store import is_leftover
from est_cli.tracking import read_metrics
from est_cli.training.health import Health, parts_of
from est_cli.training.inputs import plan_step
from est_cli.training.optim import build_optimizer, update
from tests.lab.est_models import build, config_of, tokens
from tests.lab.lab import STEPS, T1, Lab, outcome

CPU = torch.device("cpu")
HEADS = r"attn\.c_attn|attn\.c_proj\.weight|self_attn\.([qkv]_proj|o_proj\.weight)"
COLUMNS = r"mlp\.c_fc|mlp\.c_proj\.weight|mlp\.(gate|up)_proj|mlp\.down_proj\.weight"
HALF = SamplingRates(0.5, 0.5, 0.5)


def measured(
    model: PreTrainedModel, drawn: Subnetwork, batches: list[torch.Tensor], watched: bool = True, **optim: Any
) -> dict[str, Any] | None:
    """Take a step on a wrapped model, and record it."""
    handle = apply_est(model, spec_of(model.config))
    health = Health(model, handle, int(watched), CPU, replicas=None)
    config = OptimConfig(lr=0.01, **optim)
    optimizer = build_optimizer(model, config, handle)
    plan = StepPlan((drawn,), len(batches), None)
    health.count(plan, [len(batch) for batch in batches])
    handle.activate(drawn)
    loss = torch.zeros(())
    with health.watching(0) as watch:
        for batch in batches:
            part = model(input_ids=batch, labels=batch, use_cache=False).loss / len(batches)
            part.backward()
            loss += part.detach()
    parts = reached_parts(handle, plan.drawn) if config.unsampled_rows is UnsampledRows.frozen else ()
    update(optimizer, 0.01, 0.5, loss, parts, watch=watch)
    return None if watch is None else health.record(watch.numbers().tolist(), health.counted())


def reference(model: PreTrainedModel, batches: list[torch.Tensor]) -> dict[str, Any]:
    """The same of the complete model: float64, AdamW written out, norms by the names of the parameters."""
    model = deepcopy(model).double()
    layers = 5
    sizes, entries = [0.0] * layers, [0] * layers
    blocks = model.transformer.h if model.config.model_type == "gpt2" else model.model.layers
    for number, block in enumerate(blocks):

        def see(_: nn.Module, __: Any, y: Any, number: int = number) -> None:
            y = y[0] if isinstance(y, tuple) else y
            sizes[number] += float((y.detach() ** 2).sum())
            entries[number] += y.numel()

        block.register_forward_hook(see)
    for batch in batches:
        (model(input_ids=batch, labels=batch, use_cache=False).loss / len(batches)).backward()
    total = sum(float((p.grad**2).sum()) for p in model.parameters()) ** 0.5
    sums: dict[tuple[str, str, int], float] = {}
    for name, p in model.named_parameters():
        inner = re.search(r"\.(?:h|layers)\.(\d+)\.(.*)", name)
        kind, at = "outside", 0
        if inner:
            kind = "heads" if re.match(HEADS, inner[2]) else "columns" if re.match(COLUMNS, inner[2]) else "rest"
            at = int(inner[1])
        clipped = p.grad / max(1.0, total / 0.5)
        decay = 0.1 if p.dim() >= 2 else 0.0
        added = -0.01 * decay * p - 0.01 * clipped / (clipped.abs() + 1e-8)
        for norm, of in (("grad_norm", p.grad), ("update_norm", added), ("weight_norm", p)):
            sums[norm, kind, at] = sums.get((norm, kind, at), 0.0) + float((of.detach() ** 2).sum())
    found: dict[str, Any] = {"activation_rms": [(s / n) ** 0.5 for s, n in zip(sizes, entries, strict=True)]}
    for norm in ("grad_norm", "update_norm", "weight_norm"):
        for kind in ("heads", "columns", "rest"):
            found[f"{norm}_{kind}"] = [sums[norm, kind, n] ** 0.5 for n in range(layers)]
        found[f"{norm}_outside"] = sums[norm, "outside", 0] ** 0.5
    return found


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_numbers_are_those_of_a_plain_loop_in_float64(family: str) -> None:
    batches = [tokens(batch=2, seed=1), tokens(batch=2, seed=2)]
    model = build(config_of(family))
    expected = reference(model, batches)
    found = measured(model, Subnetwork(), batches)
    assert found is not None
    trained = {key: found.pop(key) for key in ("trained_layers", "trained_heads", "trained_columns")}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=2e-4 if "update" in key else 2e-5), key
    heads = model.config.num_attention_heads
    assert trained == {
        "trained_layers": [1.0] * 5, "trained_heads": [[1.0] * heads] * 5, "trained_columns": [[1.0] * 3] * 5
    }  # fmt: skip


@pytest.mark.parametrize(
    "optim",
    [
        {},
        {"name": OptimName.muon},
        {"unsampled_rows": UnsampledRows.frozen},
        {"skipped_layers": SkippedLayers.zero_grad},
    ],
    ids=["adamw", "muon", "frozen rows", "zero_grad"],
)
def test_a_measured_step_trains_the_same_bits(optim: dict[str, Any]) -> None:
    both = [build(config_of("llama")) for _ in range(2)]
    drawn = IndexGenerator(spec_of(both[0].config), 3).draw(1, HALF)
    found = [
        measured(model, drawn, [tokens()], watched, **optim) for model, watched in zip(both, (True, False), strict=True)
    ]
    assert found[1] is None and found[0] is not None
    for (name, one), (_, other) in zip(both[0].named_parameters(), both[1].named_parameters(), strict=True):
        assert torch.equal(one, other), name
    skipped = [number for number in range(5) if number not in (drawn.layer_idx or ())]
    decays = "skipped_layers" in optim
    for number in range(5):
        ran = number not in skipped
        assert (found[0]["activation_rms"][number] is not None) == ran
        assert (found[0]["grad_norm_heads"][number] is not None) == ran
        assert (found[0]["update_norm_columns"][number] > 0) == (ran or decays)
        assert found[0]["weight_norm_rest"][number] > 0 and found[0]["trained_layers"][number] == ran


def test_the_gradients_of_all_parts_are_the_whole_gradient() -> None:
    for family in ("phi3", "gemma2", "starcoder2"):
        model = build(config_of(family))
        handle: EstHandle = apply_est(model, spec_of(model.config))
        named = [parameter for part in parts_of(model, handle) for parameter in part.parameters]
        assert len(named) == len({*named}) and {*named} == {*model.parameters()}


def test_shares_are_those_of_the_draws() -> None:
    """Two micro-batches with draws of their own, of 3 and 1 sequences: as coverage() counts a whole run."""
    model = build(config_of("llama"))
    options = SamplingOptions(redraw="forward")
    handle = apply_est(model, spec_of(model.config))
    health = Health(model, handle, 6, CPU, replicas=None)
    generator = IndexGenerator(handle.spec, 7, options)
    for step in range(6):
        health.count(plan_step(generator, step, HALF, [3, 1], Rank())[0], [3, 1])
    found, expected = (
        health.counted(),
        coverage(handle.spec, constant(6, HALF), 7, options, {1: MicroBatchSplit((3, 1))}),
    )
    for name in ("layers", "heads", "columns"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    assert not health.counted().layers.any(), "and begins anew"


def records(run: Any) -> list[dict[str, Any]]:
    return read_metrics(run / "layers.jsonl")


def test_a_run_that_measures_is_the_same_run(lab: Lab) -> None:
    assert lab.tiny("x", "train.log_layers_every=7").code == 0
    found = outcome(lab.at("x"))
    assert found.pop("layers") and found == lab.golden()
    assert lab.at("x").joinpath("plots/layers.png").exists()
    found = records(lab.at("x"))
    assert [record["step"] for record in found] == [7, 14, 21, 28]
    assert [record["stage"] for record in found] == [1, 2, 3, 3]
    metrics = {record["step"]: record for record in read_metrics(lab.at("x") / "metrics.jsonl") if "loss" in record}
    for record in found:
        squares = [record["grad_norm_outside"] ** 2]
        squares += [n**2 for kind in ("heads", "columns", "rest") for n in record[f"grad_norm_{kind}"] if n is not None]
        assert sum(squares) ** 0.5 == pytest.approx(metrics[record["step"]]["grad_norm"], rel=1e-5)
    assert found[0]["grad_norm_heads"].count(None) == 2, "half of 4 layers ran"
    assert sum(found[0]["trained_layers"]) == pytest.approx(2) and found[3]["trained_layers"] == [1.0] * 4


def test_a_killed_run_records_each_step_once(lab: Lab) -> None:
    """Killed between two records, behind the newest checkpoint: the shares of the steps before are counted again."""
    every = "train.log_layers_every=7"
    assert lab.tiny("whole", every).code == 0
    for step in (T1 + 1, T1 + 5):  # the first goes on from the end of a stage
        kill = ("at_step", "est_cli.training.train.train_step", step, "after", "SIGKILL")
        assert lab.tiny("x", every, plants=[kill]).code == -9
    assert lab.tiny("x", every).code == 0
    assert lab.at("x").joinpath("layers.jsonl").read_bytes() == lab.at("whole").joinpath("layers.jsonl").read_bytes()
    assert [record["step"] for record in records(lab.at("x"))] == list(range(7, STEPS, 7))


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.long)])
def test_several_processes_measure_what_one_does(lab: Lab, strategy: str) -> None:
    settings = ("train.log_layers_every=4", "train.max_steps=8", "stage.t1=2", "stage.t2=5", "train.eval_every=0")
    assert lab.tiny("one", *settings).code == 0
    ended = lab.tiny_ranks(2, "two", *settings, f"launch.strategy={strategy}")
    assert [rank.code for rank in ended] == [0, 0], ended
    for one, two in zip(records(lab.at("one")), records(lab.at("two")), strict=True):
        assert one.keys() == two.keys()
        for key, value in one.items():
            flat = [*torch.tensor(value).flatten().tolist()] if "trained" in key else value
            other = [*torch.tensor(two[key]).flatten().tolist()] if "trained" in key else two[key]
            assert other == pytest.approx(flat, rel=2e-3 if "update" in key else 1e-4), key


def test_what_a_kill_leaves_of_the_file_is_cleaned() -> None:
    assert is_leftover(".tmp-layers.jsonl-123") and not is_leftover("layers.jsonl")
