"""What a plan says, and what est-plan prints."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from est_cli.common.errors import ConfigError
from est_cli.config import LaunchConfig, PlanConfig, WireDtype
from est_cli.est import Flops
from est_cli.planning import Plan, make_plan, memory_of, print_plan
from est_cli.planning.notes import notes
from tests.lab.commands import accepted, command, tree

pytestmark = pytest.mark.slow


def plan(*args: str) -> Plan:
    return make_plan(accepted(*args, schema=PlanConfig))


def printed(found: Plan, width: int = 80) -> str:
    out = io.StringIO()
    print_plan(found, Console(file=out, width=width))
    return out.getvalue()


@pytest.fixture(scope="module")
def paper_gpt2() -> Plan:
    return plan("experiment=paper_gpt2")


def test_the_papers_gpt2_run(paper_gpt2: Plan) -> None:
    assert [stage.steps for stage in paper_gpt2.stages] == [20_000, 50_000, 80_000]
    assert [stage.first_step for stage in paper_gpt2.stages] == [0, 20_000, 70_000]
    assert round(paper_gpt2.ledger.saved_pct("blocks"), 2) == 26.67
    assert round(paper_gpt2.ledger.saved_pct("total"), 2) == 19.44
    assert paper_gpt2.ledger.dense.blocks == 6 * 12 * (4 * 768**2 + 2 * 768 * 3072) * 491_520 * 150_000
    assert memory_of(paper_gpt2).estimate.parameters == 124_439_808


def test_the_papers_tinyllama_run() -> None:
    found = plan("experiment=paper_tinyllama", "train.micro_batch=1")
    assert found.ledger.saved_pct("blocks") == pytest.approx(25.0, abs=1e-9)
    assert memory_of(found).estimate.parameters == 1_100_048_384


@pytest.mark.long
def test_what_a_process_holds_of_a_sharded_model() -> None:
    layer = 2 * 2048**2 + 2 * 2048 * 256 + 3 * 2048 * 5632 + 2 * 2048
    outside = 2 * 32_000 * 2048 + 2048
    whole = 22 * layer + outside
    args = ("experiment=paper_tinyllama", "train.micro_batch=1", "launch.num_processes=8", "launch.strategy=fsdp")
    found = memory_of(plan(*args))
    assert {stage.states for stage in found.stages} == {4 * (4 * whole // 8 + outside + 2 * layer + whole)}
    assert [stage.whole - stage.kept for stage in found.stages] == [found.stages[0].states] * 3

    def held(accumulates: bool, **launch: Any) -> int:
        config = LaunchConfig(strategy="fsdp", **{"num_processes": 8, **launch})
        return found.estimate.states_under(config, accumulates)

    assert held(False) == 4 * (4 * whole // 8 + 2 * outside + 3 * layer)
    assert held(True, shard_size=2) - held(True) == 4 * (4 * whole // 2 - 4 * whole // 8)
    assert held(True) - held(True, gather_dtype=WireDtype.bf16) == 2 * 2 * layer
    assert held(True, reshard_after_forward=False) - held(True) == 4 * 20 * layer
    assert held(True, num_processes=1) == 16 * whole == found.estimate.states


def test_the_default_stages_are_the_papers_for_any_length() -> None:
    found = plan("model=gpt2", "train.max_steps=150000")
    assert round(found.ledger.saved_pct("blocks"), 2) == 26.67


@pytest.mark.parametrize(
    "args", [["model=gpt2_tiny"], ["model=llama_tiny"], ["scheduler=dense"], ["stage.t1=0"], ["stage.t2=1.0"]]
)
def test_the_stages_add_up(args: list[str]) -> None:
    found = plan(*args, "train.max_steps=30", "train.micro_batch=2")
    assert sum((stage.flops for stage in found.stages), Flops()) == found.ledger.used
    assert sum((stage.dense for stage in found.stages), Flops()) == found.ledger.dense
    assert sum(stage.steps for stage in found.stages) == 30 == found.scheduler.max_steps
    assert sum(stage.tokens for stage in found.stages) == 30 * 4096
    memory = memory_of(found)
    assert [stage.kept for stage in memory.stages] == [kept.of(2) for kept in memory.estimate.activations]
    assert all(stage.steps > 0 for stage in found.stages)


def test_rates_are_those_realised() -> None:
    found = plan("stage.p_h=0.6", "stage.p_m=0.3", "stage.p_l=0.4", "train.micro_batch=1")
    assert dataclasses.astuple(found.stages[0].rates) == (2 / 4, 152 / 512, 2 / 4)
    assert dataclasses.astuple(found.stages[1].rates) == (2 / 4, 152 / 512, 1.0)


def test_the_micro_batch_is_no_larger_than_the_step() -> None:
    found = plan("train.micro_batch=64", "train.tokens_per_step=1024")
    assert [stage.micro_batch for stage in found.stages] == [4, 4, 4]
    assert printed(found).splitlines()[-1].endswith("is kept for the backward pass of 4 sequences in fp32")


def test_each_process_has_its_part_of_the_micro_batch() -> None:
    found = plan("train.micro_batch=64", "train.tokens_per_step=4096", "launch.num_processes=8")
    assert [stage.micro_batch for stage in found.stages] == [2, 2, 2]


def memory_column(text: str) -> list[str]:
    """The memory of stages 1, 2, 3 and of all, as printed."""
    rows = [line.split() for line in text.splitlines() if re.match(r" *([123]|all) .* GB *$", line)]
    return [row[-2] for row in rows]


def test_the_memory_of_each_stage_is_that_of_its_own_micro_batch() -> None:
    args = ("model=gpt2", "train.micro_batch=[16,2,1]", "train.tokens_per_step=4096")
    found = plan(*args)
    memory = memory_of(found)
    wanted = [kept.of(size) for kept, size in zip(memory.estimate.activations, (16, 2, 1), strict=True)]
    assert [stage.kept for stage in memory.stages] == wanted and wanted[0] > max(wanted[1:])
    numbers = [f"{(memory.estimate.states + kept) / 1e9:.2f}" for kept in (*wanted, max(wanted))]
    assert memory_column(printed(found)) == numbers and len(set(numbers)) == 3
    assert printed(found).splitlines()[-1].endswith("of 16 / 2 / 1 sequences in stages 1 / 2 / 3 in fp32")


def test_a_micro_batch_that_is_not_chosen_yet_is_said_to_be_so() -> None:
    found = plan("train.micro_batch=[auto,auto,2]")
    assert [stage.micro_batch for stage in found.stages] == [None, None, 2]
    memory = memory_of(found)
    kept = memory.estimate.activations
    assert [stage.kept for stage in memory.stages] == [kept[0].of(1), kept[1].of(1), kept[2].of(2)]
    added = " / ".join(f"{stage.activations.per_sequence / 1e9:.3g}" for stage in memory.stages[:2])
    assert printed(found).splitlines()[-1] == (
        "train.micro_batch=auto: est-train finds the size on its device when it starts; the memory of stages 1 / 2 is "
        f"that of 1 sequence, and each further one adds {added} GB"
    )
    assert "auto" not in printed(plan("train.micro_batch=2"))


@pytest.mark.parametrize("convention", ["blocks", "total"])
@pytest.mark.parametrize("keep", ["ratio", "t1", "t2"])
def test_a_target_is_met_by_the_finished_ledger(convention: str, keep: str) -> None:
    wanted = {"blocks": 0.25, "total": 0.15}[convention]
    args = (f"target_saving={wanted}", f"target_convention={convention}", f"target_keep={keep}")
    found = plan(*args, "train.max_steps=1000", "stage.t1=0.2", "stage.t2=0.4", "train.micro_batch=1")
    assert abs(found.ledger.saved_pct(convention) / 100 - wanted) <= 1 / 1000
    ends = [stage.until_step for stage in found.scheduler.stages]
    line = f"target_saving={wanted} ({convention}): stage.t1={ends[0]} stage.t2={ends[1]}"
    assert line in printed(found).splitlines()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["target_saving=0.9"],
            "target_saving: 0.9 is out of reach; with target_keep=ratio these rates save 0 to 0.57",
        ),
        (["target_saving=0.05", "target_keep=t1"], "target_saving: 0.05 is out of reach"),
        (["target_saving=0.9", "target_keep=t2"], "target_saving: 0.9 is out of reach"),
        (
            # the run as it is samples nothing, the one that is looked for would
            ["target_saving=0.2", "model=llama_tiny", "model.num_kv_heads=1", "stage.t1=0", "stage.t2=0"],
            "sampling.kv_groups: `whole` cannot sample a model with one KV head",
        ),
    ],
)
def test_targets_out_of_reach(args: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan(*args)
    assert str(error.value).startswith(message)


def test_stages_without_steps_may_have_rates_that_cannot_be_sampled() -> None:
    found = plan("model=llama_tiny", "model.num_kv_heads=1", "stage.t1=0", "stage.t2=0", "train.micro_batch=1")
    assert [stage.number for stage in found.stages] == [3] and found.ledger.saved_pct("total") == 0.0


def test_a_foreign_model_that_is_too_short_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config

    GPT2Config(n_embd=8, n_head=2, n_layer=2, n_positions=32, vocab_size=64).save_pretrained(tmp_path)
    args = ("model=hf", f"model.name_or_path={tmp_path}", "model.pretrained=false", "train.tokens_per_step=1024")
    with pytest.raises(ConfigError, match=r"^train\.seq_len: 64 is longer than the model's 32 positions"):
        plan(*args, "train.seq_len=64")
    assert plan(*args, "train.seq_len=32").spec.num_layers == 2


def test_the_printed_tables_fit_80_columns_and_lose_nothing(paper_gpt2: Plan) -> None:
    lines = printed(paper_gpt2).splitlines()
    tables = [line for line in lines if re.match(r" *(stage|[123]|all) ", line)]
    assert max(map(len, tables)) <= 80
    cells = [line.split() for line in tables]
    assert cells[0] == ["stage", "from", "step", "steps", "tokens", "p_H", "p_M", "p_L"]
    assert cells[1] == ["1", "0", "20,000", "9,830,400,000", "0.5", "0.5", "0.5"]
    assert cells[2] == ["2", "20,000", "50,000", "24,576,000,000", "0.5", "0.5", "1"]
    assert cells[3] == ["3", "70,000", "80,000", "39,321,600,000", "1", "1", "1"]
    assert cells[4] == ["all", "150,000", "73,728,000,000"]
    assert [row[0] for row in cells[5:]] == ["stage", "1", "2", "3", "all"] * 2
    assert cells[10] == ["stage", "micro-batch", "model", "states", "activations", "memory"]
    assert [row[3:7:2] for row in cells[6:10]] == [
        ["75.00", "54.67"], ["50.00", "36.45"], ["0.00", "0.00"], ["26.67", "19.44"]
    ]  # fmt: skip
    dense = paper_gpt2.ledger.dense
    assert f"dense would use {dense.blocks:.4e} FLOPs (blocks), {dense.total:.4e} (total)" in lines


def test_the_real_command(tmp_path: Path) -> None:
    before = tree(tmp_path)
    ended = command("est-plan", "experiment=paper_gpt2", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert (ended.code, ended.err) == (0, "")
    total = [line.split() for line in ended.out.splitlines() if line.strip().startswith("all ")][1]
    assert total[3:7] == ["26.67", "%", "19.44", "%"]
    assert tree(tmp_path) == before
    frames = [line for line in ended.out.splitlines() if not line.strip() or "─" in line]
    assert not frames, "a pipe has neither frames nor blank lines"


def test_the_real_command_refuses_to_plan_a_rest(tmp_path: Path) -> None:
    ended = command("est-plan", "resume=auto", cwd=tmp_path)
    assert (ended.code, ended.err) == (2, "est-plan: error: resume: est-plan plans whole runs; leave it null\n")


@pytest.mark.parametrize("given", ["sampling.protect=[first]", "stage.layer_rates=[0.5,0.5,0.75,0.75]"])
def test_rates_that_are_a_mean_over_layers_are_told_as_one(given: str) -> None:
    found = [note for note in notes(plan(given)) if "mean shares" in note]
    assert len(found) == 1 and given.partition("=")[0] in found[0]
    assert not any("mean shares" in note for note in notes(plan()))
