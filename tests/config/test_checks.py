"""Contradictions between keys: each is told, by the key that is wrong, before anything heavy is imported."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest

from est_cli.common.errors import ConfigError
from est_cli.config import PlanConfig, RunConfig
from est_cli.config.length import max_steps
from est_cli.config.method import options_of
from est_cli.config.resolve import check, resolve
from est_cli.config.run import tokenizer_of
from est_cli.config.schema import leaves_of, plain, typed
from est_cli.est import SamplingRates
from est_cli.families import gpt2
from tests.lab.commands import composed

HF = ("model=hf", "model.name_or_path=somewhere")
DENSE = ("scheduler=dense",)
LLAMA = ("model=llama_tiny",)
MUON = ("optim=muon",)
FSDP = ("launch.strategy=fsdp",)
MAMBA, MAMBA2 = ("model=mamba_tiny",), ("model=mamba2_tiny",)


@lru_cache
def base(*args: str) -> PlanConfig:
    return composed(*args, schema=PlanConfig)[0]


def config_with(args: tuple[str, ...], changes: dict[str, Any]) -> PlanConfig:
    tree = plain(copy.deepcopy(base(*args)))
    for key, value in changes.items():
        group, _, name = key.rpartition(".")
        (tree[group] if group else tree)[name] = value
    return typed(tree, PlanConfig)


def problem(args: tuple[str, ...], changes: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        check(config_with(args, changes))
    return str(error.value)


CONTRADICTIONS: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
    ((), {"model.num_heads": 3}, "model.num_heads: 3 heads do not divide model.hidden_size=128"),
    ((), {"model.num_kv_heads": 2}, "model.num_kv_heads: has no meaning in the family gpt2; leave it null"),
    ((), {"model.rope_theta": 1e4}, "model.rope_theta: has no meaning in the family gpt2"),
    ((), {"model.hidden_size": None}, "model.hidden_size: null is not a size"),
    ((), {"model.name_or_path": "x"}, "model.name_or_path: has a meaning only with model=hf"),
    (LLAMA, {"model.num_kv_heads": 3}, "model.num_kv_heads: 3 KV heads do not divide model.num_heads=4"),
    (LLAMA, {"model.num_heads": 128}, "model.num_heads: rotary positions need an even head size, got 1"),
    (LLAMA, {"model.rope_theta": float("inf")}, "model.rope_theta: inf is out of range"),
    (HF, {"model.name_or_path": None}, "model.name_or_path: is missing"),
    (HF, {"model.name_or_path": ""}, "model.name_or_path: is missing"),
    (HF, {"model.num_layers": 2}, "model.num_layers: comes from model.name_or_path under model=hf"),
    ((), {"train.seq_len": 1024}, "train.seq_len: 1024 is longer than the model's 512 positions"),
    ((), {"train.seq_len": 100}, "train.tokens_per_step: 4096 is not a multiple of train.seq_len=100"),
    ((), {"train.tokens_per_step": 128}, "train.tokens_per_step: 128 is not a multiple of train.seq_len=256"),
    ((), {"launch.timeout_s": 1e15}, "launch.timeout_s: 1000000000000000.0 is out of range"),
    ((), {"launch.sharded_checkpoints": True}, "launch.sharded_checkpoints: has no meaning under launch.strategy=ddp"),
    ((), {"launch.gather_dtype": "bf16"}, "launch.gather_dtype: has no meaning under launch.strategy=ddp"),
    ((), {"launch.shard_size": 2}, "launch.shard_size: has no meaning under launch.strategy=ddp"),
    ((), {"launch.reshard_after_forward": True}, "launch.reshard_after_forward: has no meaning under launch.strategy"),
    (FSDP, {"launch.num_processes": 4, "launch.shard_size": 3}, "launch.shard_size: 3 does not divide the 4 processes"),
    (FSDP, {"launch.shard_size": 1}, "launch.shard_size: 1 is out of range; it must be at least 2"),
    (
        FSDP,
        {"train.precision": "fp32", "launch.gather_dtype": "bf16"},
        "launch.gather_dtype: bf16 needs train.precision=bf16; fp32 would",
    ),
    ((), {"train.max_steps": 3, "train.max_tokens": 9}, "train.max_tokens: the budget is given twice"),
    ((), {"train.tokens_per_step": 0, "train.max_tokens": 9}, "train.tokens_per_step: 0 is out of range"),
    ((), {"stage.t1": 0.5, "stage.t2": 0.4}, "stage.t1: step 150 lies after stage.t2 (step 120)"),
    ((), {"stage.t1": 1.0, "stage.t2": 299}, "stage.t1: step 300 lies after stage.t2 (step 299)"),
    ((), {"stage.t1": 301}, "stage.t1: step 301 is outside the run of 300 steps"),
    ((), {"stage.p_h": None}, "stage.p_h: is missing; scheduler=three_stage needs it"),
    (DENSE, {"stage.p_l": 0.5}, "stage.p_l: has no meaning under scheduler=dense"),
    (DENSE, {"stage.t1": 0}, "stage.t1: has no meaning under scheduler=dense"),
    (DENSE, {"sampling.keep_ends": True}, "sampling.keep_ends: has no meaning under scheduler=dense"),
    (DENSE, {"target_saving": 0.1}, "target_saving: scheduler=dense saves nothing"),
    ((), {"target_saving": 1.0}, "target_saving: 1.0 is out of range"),
    ((), {"optim.schedule": "cosine", "optim.decay": 0.2}, "optim.decay: belongs to optim.schedule=wsd"),
    ((), {"optim.schedule": "constant", "optim.min_lr_ratio": 0.1}, "optim.min_lr_ratio: has no meaning under optim"),
    ((), {"optim.warmup": 0.5, "optim.decay": 0.6}, "optim.decay: warm-up (150) and decay (180) exceed the run of 300"),
    ((), {"optim.warmup": 241}, "optim.decay: warm-up (241) and decay (60) exceed the run of 300 steps"),
    ((), {"optim.warmup": 301}, "optim.warmup: step 301 is outside the run of 300 steps"),
    ((), {"optim.momentum": 0.9}, "optim.momentum: belongs to optim=muon and has no meaning under optim.name=adamw"),
    ((), {"optim.muon_lr": 0.1}, "optim.muon_lr: belongs to optim=muon"),
    ((), {"optim.nesterov": False}, "optim.nesterov: belongs to optim=muon"),
    ((), {"optim.ns_steps": 5}, "optim.ns_steps: belongs to optim=muon"),
    ((), {"optim.adjust_lr": "original"}, "optim.adjust_lr: belongs to optim=muon"),
    (MUON, {"optim.name": "adamw"}, "optim.momentum: belongs to optim=muon"),
    (MUON, {"optim.ns_steps": 100}, "optim.ns_steps: 100 is out of range; it must be at least 1 and at most 99"),
    (MUON, {"optim.muon_lr": float("inf")}, "optim.muon_lr: inf is out of range; it must be above 0"),
    (MUON, {"optim.unsampled_rows": "frozen"}, "optim.unsampled_rows: frozen has no meaning under optim.name=muon"),
    (
        (),
        {"optim.unsampled_rows": "frozen", "launch.strategy": "fsdp"},
        "optim.unsampled_rows: frozen is not there under launch.strategy=fsdp",
    ),
    (DENSE, {"optim.unsampled_rows": "frozen"}, "optim.unsampled_rows: has no meaning under scheduler=dense"),
    (DENSE, {"optim.skipped_layers": "zero_grad"}, "optim.skipped_layers: has no meaning under scheduler=dense"),
    ((), {"dataset.files": ["a.txt"]}, "dataset.files: dataset=stdlib reads no files"),
    ((), {"dataset.hub_ids": ["a/b"]}, "dataset.hub_ids: dataset=stdlib does not read the hub"),
    (("dataset=text",), {}, "dataset.files: is empty; dataset=text needs paths"),
    (("dataset=hub",), {}, "dataset.hub_ids: is empty"),
    (
        ("dataset=tokens",),
        {"dataset.files": ["a.bin"]},
        "tokenizer: dataset=tokens holds ids of a tokenizer that exists",
    ),
    (LLAMA, {"model.num_kv_heads": 1}, "sampling.kv_groups: `whole` cannot sample a model with one KV head; use"),
    (LLAMA, {"model.num_kv_heads": None, "sampling.kv_groups": "within"}, "sampling.kv_groups: `within` cannot sample"),
    ((), {"sampling.kv_groups": "within"}, "sampling.kv_groups: `within` cannot sample groups of one query head; use"),
    ((), {"sampling.cover": "balanced"}, "sampling.cover: balanced shares units out among the draws of a step, and"),
    (
        (),
        {"sampling.cover": "balanced", "sampling.redraw": "forward", "train.micro_batch": 999},
        "sampling.cover: balanced shares units out among the draws of a step, and there is one; use a smaller train.mi",
    ),
    (
        (),
        {"sampling.layers_by": "sequence", "train.micro_batch": 1},
        "sampling.layers_by: sequence leaves out nothing of",
    ),
    (
        (),
        {"sampling.layers_by": "sequence", "train.micro_batch": 5},
        "sampling.layers_by: sequence leaves out nothing of",
    ),
    (
        (),
        {"sampling.layers_by": "sequence", "optim.skipped_layers": "zero_grad"},
        "optim.skipped_layers: has no meaning under sampling.layers_by=sequence",
    ),
    (
        (),
        {"sampling.layers_by": "sequence", "train.attention": "flex", "dataset.packing": "document"},
        "train.attention: flex makes one mask for all of a batch",
    ),
    ((), {"sampling.keep_ends": True, "stage.p_l": 0.25}, "sampling.keep_ends: p_l = 0.25 of 4 layers keeps only 1"),
    ((), {"sampling.protect": [0, 4]}, "sampling.protect: 4: the model has no layer 4; its 4 layers are 0 to 3"),
    ((), {"sampling.protect": "0-2"}, "sampling.protect: p_l = 0.5 of 4 layers keeps only 2, but 3 always run (0, 1,"),
    (
        (),
        {"sampling.protect": ["heads:0"], "stage.p_h": 1.0},
        "sampling.protect: heads:0 changes nothing, since no stage samples heads; leave it out",
    ),
    (
        ("scheduler=layer_dropout", "stage.p_l=0.5"),
        {"sampling.protect": ["columns:0"]},
        "sampling.protect: columns:0 changes nothing",
    ),
    ((), {"stage.layer_rates": [0.5, 0.6]}, "stage.layer_rates: has 2 entries; the model has 4 layers"),
    ((), {"stage.layer_rates": [0.5, 0.5, 0.5, 0.5]}, "stage.layer_rates: [0.5, 0.5, 0.5, 0.5] makes no difference"),
    ((), {"stage.layer_rates": [0.5, 0.5, 0.5, 0.0]}, "stage.layer_rates: 0.0 is out of range; it must be in (0, 1]"),
    (
        (),
        {"stage.layer_rates": [1.0, 0.5, 0.5, 1.0]},
        "stage.layer_rates: at p_h = 0.5 the rate of layer 1 would be 0; raise p_h (the entries' mean is 0.75), or its",
    ),
    (
        (),
        {"stage.layer_rates": [0.4, 0.6, 0.5, 0.5], "stage.p_h": 1.0, "stage.p_m": 1.0, "stage.p_l": 1.0},
        "stage.layer_rates: changes nothing, since no stage samples anything; leave it null",
    ),
    (
        (),
        {"sampling.layers_by": "sequence", "stage.p_l": 1.0},
        "sampling.layers_by: sequence changes nothing, since no stage samples layers; leave it batch",
    ),
    (
        ("scheduler=constant",),
        {"sampling.cover": "balanced", "sampling.redraw": "forward"} | {f"stage.p_{kind}": 1.0 for kind in "hml"},
        "sampling.cover: balanced changes nothing, since no stage samples anything; leave it independent",
    ),
    ((), {"stage.layer_rates": []}, "stage.layer_rates: is empty; give a rate for each layer, or null"),
    (DENSE, {"stage.layer_rates": [0.4, 0.6, 0.5, 0.5]}, "stage.layer_rates: has no meaning under scheduler=dense"),
    (MAMBA, {"sampling.protect": ["columns:0"]}, "sampling.protect: columns:0 changes nothing"),
    (
        ("scheduler=raptr",),
        {"sampling.protect": [1]},
        "sampling.protect: has no meaning under scheduler=raptr; leave it",
    ),
    (DENSE, {"sampling.protect": [1]}, "sampling.protect: has no meaning under scheduler=dense; leave it null"),
    (MAMBA, {"train.attention": "flash"}, "train.attention: flash has no meaning in the family mamba; leave it auto"),
    (MAMBA, {"model.dropout": 0.1}, "model.dropout: 0.1 has no meaning in the family mamba; leave it 0.0"),
    (MAMBA, {"model.num_heads": 4}, "model.num_heads: has no meaning in the family mamba; leave it null"),
    (MAMBA2, {"model.head_dim": 48}, "model.head_dim: 48 does not divide 2 * model.hidden_size = 256"),
    (MAMBA2, {"sampling.kv_groups": "within"}, "sampling.kv_groups: `within` cannot sample groups of one query head"),
]


@pytest.mark.parametrize(("args", "changes", "message"), CONTRADICTIONS)
def test_contradictions(args: tuple[str, ...], changes: dict[str, Any], message: str) -> None:
    assert problem(args, changes).startswith(message)


@pytest.mark.parametrize(
    ("args", "changes", "key"),
    [
        ((), {"model.num_heads": 3}, "model.num_heads"),
        (LLAMA, {"model.num_kv_heads": 3}, "model.num_kv_heads"),
        ((), {"train.seq_len": 100}, "train.tokens_per_step"),
        ((), {"launch.num_processes": 3}, "launch.num_processes"),
        ((), {"launch.num_processes": 3}, "train.tokens_per_step"),
        ((), {"launch.num_processes": 100}, "launch.num_processes"),
        ((), {"train.profile_step": 900}, "train.profile_step"),
    ],
)
def test_what_a_message_says_to_type_is_accepted(args: tuple[str, ...], changes: dict[str, Any], key: str) -> None:
    told = problem(args, changes).partition("; ")[2]
    value = re.search(rf"{key}=([0-9]+)", told)
    assert value is not None, told
    check(config_with(args, changes | {key: int(value[1])}))


def test_all_problems_are_told_at_once() -> None:
    told = problem((), {"optim.lr": 0.0, "train.seq_len": 1, "stage.p_m": 2.0})
    assert [part.partition(":")[0] for part in told.split("; also ")] == ["optim.lr", "train.seq_len", "stage.p_m"]


@pytest.mark.parametrize(
    ("args", "changes"),
    [
        ((), {"stage.t1": 0, "stage.t2": 300}),
        ((), {"stage.t1": 1.0, "stage.t2": 1.0}),
        ((), {"stage.p_h": 1.0, "stage.p_m": 1.0, "stage.p_l": 1.0, "sampling.kv_groups": "within"}),
        ((), {"optim.warmup": 240}),
        ((), {"optim.warmup": 0, "optim.decay": 1.0}),
        ((), {"optim.schedule": "cosine", "optim.warmup": 300}),
        ((), {"train.seq_len": 512}),
        ((), {"train.max_steps": 1, "stage.t1": 0, "stage.t2": 1}),
        ((), {"sampling.keep_ends": True, "stage.p_l": 0.5}),
        ((), {"sampling.cover": "balanced", "sampling.redraw": "forward", "train.micro_batch": 4}),
        ((), {"sampling.cover": "balanced", "sampling.ranks": "independent"}),
        ((), {"sampling.layers_by": "sequence", "train.micro_batch": 2}),
        ((), {"sampling.layers_by": "sequence", "train.micro_batch": [2, 1, 1]}),
        (LLAMA, {"model.num_kv_heads": 1, "sampling.kv_groups": "within"}),
        (LLAMA, {"model.num_kv_heads": 1, "stage.t1": 0, "stage.t2": 0}),  # nothing is ever sampled
        (DENSE, {"optim.decay": 60}),
        ((), {"optim.name": "muon"}),
        (MUON, {"optim.skipped_layers": "zero_grad"}),
        ((), {"optim.skipped_layers": "zero_grad", "launch.strategy": "fsdp"}),
        ((), {"optim.skipped_layers": "zero_grad", "optim.unsampled_rows": "frozen"}),
        (HF, {"train.seq_len": 4096}),  # how long the model may read is known later, see check_fit
    ],
)
def test_what_looks_odd_and_is_right(args: tuple[str, ...], changes: dict[str, Any]) -> None:
    check(config_with(args, changes))


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 300),
        ({"train.max_steps": 7}, 7),
        ({"train.max_tokens": 4096 * 5}, 5),
        ({"train.max_tokens": 4096 * 5 + 1}, 6),
        ({"train.max_tokens": 1}, 1),
        ({"train.max_tokens": 4096 * 10**17 + 1}, 10**17 + 1),  # more than a float can count
    ],
)
def test_steps_of_the_run(changes: dict[str, Any], steps: int) -> None:
    assert max_steps(config_with((), changes)) == steps


def test_the_scheduler_and_options_are_those_of_the_configuration() -> None:
    config = config_with((), {"stage.t1": 10, "stage.t2": 0.5, "stage.p_h": 0.25, "sampling.redraw": "forward"})
    scheduler = resolve(config).scheduler
    assert [stage.until_step for stage in scheduler.stages] == [10, 150, 300]
    assert scheduler.rates_at(0) == SamplingRates(0.25, 0.5, 0.5) and scheduler.rates_at(10) == SamplingRates(0.25, 0.5)
    assert resolve(base(*DENSE)).scheduler.stage_steps() == [300]
    assert options_of(config.sampling).redraw == "forward"
    given = leaves_of(plain(config.sampling)) | {"protect": ()}  # None
    assert given.items() - vars(options_of(config.sampling)).items() == set()  # every option reaches the method
    protecting = [
        options_of(replace(config.sampling, protect=value)).protect for value in ("first", 2, [0, "heads:1-2"])
    ]
    assert protecting == [("first",), (2,), (0, "heads:1-2")]


@pytest.mark.parametrize(
    ("args", "changes", "tokenizer"),
    [
        ((), {}, "bpe"),
        (HF, {}, "somewhere"),
        (HF, {"model.pretrained": False}, "bpe"),
        (HF, {"tokenizer": "other"}, "other"),
    ],
)
def test_the_tokenizer(args: tuple[str, ...], changes: dict[str, Any], tokenizer: str) -> None:
    assert tokenizer_of(config_with(args, changes)) == tokenizer


class Gpt2Sizes:
    add_cross_attention, n_embd, n_head, n_inner, n_layer, vocab_size, n_positions = False, 8, 2, None, 1, 11, 16


def test_what_is_told_once_a_foreign_model_is_known() -> None:
    sizes = gpt2.spec(Gpt2Sizes)
    fits = config_with(HF, {"train.seq_len": 16, "stage.p_l": 1.0})
    resolve(fits).check_fit(sizes)
    for changes, key in (
        ({"train.seq_len": 32}, "train.seq_len: 32 is longer"),
        ({"train.seq_len": 16, "sampling.kv_groups": "within"}, "sampling.kv_groups: "),
        ({"train.seq_len": 16, "sampling.keep_ends": True}, "sampling.keep_ends: "),
    ):
        with pytest.raises(ConfigError, match=f"^{key}"):
            resolve(config_with(HF, changes)).check_fit(sizes)


def test_an_unchanged_run_configuration_lacks_what_presets_give() -> None:
    with pytest.raises(ConfigError, match=r"^model\.vocab_size: null .*; also stage\.t1: is missing"):
        check(RunConfig())
