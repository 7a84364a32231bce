"""dataset.packing=document: what a run trains, counts and says; how its checkpoints are read afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from est_cli.common.rank import Rank
from est_cli.config.stored import keys_newer_than, stored_config
from est_cli.data import BlockOrder
from est_cli.est import IndexGenerator, SamplingOptions, SamplingRates
from est_cli.est.subnetwork import sizes_of
from est_cli.families import spec_of
from est_cli.tracking import read_metrics
from est_cli.training.inputs import own_samples, plan_step
from tests.lab.est_models import config_of
from tests.lab.lab import Lab, cached_tokens, train_records

SHORT = ("train.max_steps=6", "stage.t1=2", "stage.t2=4", "train.spread_draws=0", "train.eval_tokens=null")
DOCUMENT = "dataset.packing=document"
SEQUENCES, T = 4, 32


@pytest.fixture(scope="module")
def packed(shared: Lab) -> Path:
    ended = shared.tiny("packed", *SHORT, DOCUMENT)
    assert ended.code == 0, ended.err
    return shared.at("packed")


def blocks_of(lab: Lab) -> tuple[np.ndarray, np.ndarray]:
    """The blocks to train and to validate on."""
    remembered, ids = cached_tokens(lab.folder / "data")
    train, held = np.split(ids.astype(np.int64), [remembered["train_tokens"]])
    return tuple(part[: len(part) // T * T].reshape(-1, T) for part in (train, held))  # type: ignore[return-value]


def pieces(block: np.ndarray, end: int) -> list[np.ndarray]:
    return [piece for piece in np.split(block, np.flatnonzero(block == end) + 1) if len(piece)]


def squares(block: np.ndarray, end: int) -> int:
    return sum(len(piece) ** 2 for piece in pieces(block, end))


def test_attention_is_counted_by_the_lengths_of_documents(packed: Path, shared: Lab) -> None:
    """GPT-2 of 4 heads of 8 and 4 layers: of the default's FLOPs only the pairs of different documents are missing."""
    assert shared.tiny("across", *SHORT).code == 0
    end = AutoTokenizer.from_pretrained(packed / "model").eos_token_id
    train, _ = blocks_of(shared)
    order = BlockOrder(len(train), yaml.safe_load((packed / "config.yaml").read_text())["seed"])
    used = dense = 0
    ran = [(2, 2), (2, 2), (2, 4), (2, 4), (4, 4), (4, 4)]  # heads and layers
    records = zip(train_records(packed), train_records(shared.at("across")), strict=True)
    for step, ((heads, layers), (own, default)) in enumerate(zip(ran, records, strict=True)):
        samples = train[order.blocks(step * SEQUENCES, SEQUENCES)]
        missing = SEQUENCES * T * T - sum(squares(block, end) for block in samples)
        used, dense = used + missing * 3 * 4 * 8 * heads * layers, dense + missing * 3 * 4 * 8 * 4 * 4
        assert default["flops"] - own["flops"] == used and default["flops_dense"] - own["flops_dense"] == dense
        assert own["flops_saved_pct_blocks"] == default["flops_saved_pct_blocks"]
    assert 0 < used < dense
    assert {key: json.loads((packed / "summary.json").read_text())[key] for key in ("flops", "flops_dense")} == {
        key: own[key] for key in ("flops", "flops_dense")
    }


def test_validation_reads_each_document_alone(packed: Path, shared: Lab) -> None:
    model, tokenizer = (kind.from_pretrained(packed / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    nats, count = 0.0, 0
    for block in blocks_of(shared)[1]:
        begin = 0
        for piece in pieces(block, tokenizer.eos_token_id):
            labels = torch.from_numpy(
                block[begin + 1 : begin + len(piece) + 1]
            )  # the next document's first is the last
            with torch.no_grad():
                logits = model.eval()(torch.from_numpy(piece)[None]).logits[0, : len(labels)]
            nats += F.cross_entropy(logits, labels, reduction="sum").item()
            begin, count = begin + len(piece), count + len(labels)
    assert count == len(blocks_of(shared)[1]) * (T - 1)
    found = [record["val_loss"] for record in read_metrics(packed / "metrics.jsonl") if "val_loss" in record]
    assert found[-1] == pytest.approx(nats / count, rel=1e-5)


def test_its_checkpoints_are_read_as_it_was_trained(packed: Path, shared: Lab) -> None:
    assert json.loads((packed / "model" / "config.json").read_text())["est_documents_apart"] is True
    arguments = (f"checkpoint={packed}", f"dataset.files={shared.corpus}", "dataset=text", "analyze.probes=2")
    other = shared.tool("analyze", *arguments)
    assert other.code == 2 and "was trained with document; give that here, too" in other.err
    assert shared.tool("analyze", *arguments, DOCUMENT).code == 0


def test_a_later_training_across_documents_says_nothing_of_them(packed: Path, lab: Lab) -> None:
    hf = ("model=hf", f"model.name_or_path={packed / 'model'}", f"tokenizer={packed / 'model'}")
    numbers = tuple(f"model.{key}=null" for key in ("vocab_size", "hidden_size", "num_layers", "num_heads"))
    ended = lab.tiny("on", *SHORT, *hf, *numbers, "model.max_positions=null")
    assert ended.code == 0, ended.err
    assert "est_documents_apart" not in json.loads((lab.at("on") / "model" / "config.json").read_text())


def test_a_run_of_before_goes_on_across_documents(packed: Path, tmp_path: Path) -> None:
    tree = yaml.safe_load((packed / "config.yaml").read_text())
    assert stored_config(packed).dataset.packing == "document" and "dataset.packing" not in keys_newer_than(packed)
    del tree["dataset"]["packing"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    assert stored_config(tmp_path).dataset.packing == "across" and "dataset.packing" in keys_newer_than(tmp_path)


def test_state_spaces_are_refused_by_name(lab: Lab) -> None:
    settings = ("model=mamba_tiny", "model.num_heads=null", "model.max_positions=null", DOCUMENT)
    for tool in (lab.tiny("x", *settings), lab.tool("plan", *lab.arguments(*settings))):
        assert tool.code == 2 and "dataset.packing: the family mamba carries a state" in tool.err
    assert not lab.at("x").exists()


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("options", [{}, {"redraw": "forward"}, {"ranks": "independent"}], ids=str)
def test_pairs_go_with_the_subnetwork_that_read_them(options: dict[str, Any], world_size: int) -> None:
    """Random depths, so that sizes differ by draw; all processes come to the same numbers."""
    spec = spec_of(config_of("gpt2"))
    generator = IndexGenerator(spec, 0, SamplingOptions(**options))
    rates = SamplingRates(p_l=0.5, layers="chance")
    sequences, pairs = [2 * world_size] * 3, np.arange(1, 6 * world_size + 1) ** 2
    kinds = 1
    for step in range(8):
        expected: dict[Any, int] = {}
        for number in range(world_size):
            plan, *_ = plan_step(generator, step, rates, sequences, Rank(number, world_size), pairs)
            own = pairs[own_samples(len(pairs), 2, Rank(number, world_size))].reshape(3, 2).sum(1)
            for micro_step, count in enumerate(own.tolist()):
                sizes = sizes_of(spec, plan.at(micro_step))
                expected[sizes] = expected.get(sizes, 0) + count
        for number in range(world_size):
            _, _, ran, found = plan_step(generator, step, rates, sequences, Rank(number, world_size), pairs)
            assert found is not None and dict(zip([sizes for sizes, _ in ran], found, strict=True)) == expected
        kinds = max(kinds, len(expected))
    differ = "redraw" in options or ("ranks" in options and world_size > 1)
    assert (kinds > 1) == differ, "a step of subnetworks of several sizes is among them"
