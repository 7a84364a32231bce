"""The paper's recipes: complete, with a source for every line, told truthfully in docs/recipes.md, and they run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from est_cli.common.errors import ConfigError
from est_cli.config import PlanConfig, RunConfig
from est_cli.config.resolve import check, resolve
from est_cli.config.schema import leaves_of, plain
from est_cli.config.setting import FREE, keys_with, settings_of
from est_cli.planning import Plan, make_plan, memory_of
from est_cli.training.optim import lr_at
from tests.lab.commands import accepted, composed
from tests.lab.lab import WORDS, Lab, Server, losses, train_records

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CONF, DOCS = ROOT / "conf", ROOT / "docs" / "recipes.md"
PAPER = ("paper_gpt2", "paper_tinyllama")
SOURCES = {"paper_gpt2": {"EST", "nanoGPT", "ours"}, "paper_tinyllama": {"EST", "TinyLlama", "ours"}}

NO_MEANING = {
    "paper_gpt2": {"model.num_kv_heads", "model.rope_theta", "sampling.kv_groups", "model.mlp_size"},
    "paper_tinyllama": set[str](),
}
"""Keys of another family; GPT-2's MLP has four times its width, which is what null means."""

NOT_NEEDED = {
    *("fork", "model.name_or_path", "model.pretrained", "model.fused_activation", "optim.decay"),
    *("model.head_dim", "model.sliding_window", "model.state_size", "model.fused_scan"),
    *("stage.boundaries", "stage.rates", "stage.depths", "stage.levels", "stage.p_d", "stage.theta", "stage.gamma"),
    *("optim.muon_lr", "optim.momentum", "optim.nesterov", "optim.ns_steps", "optim.adjust_lr"),
    *("dataset.files", "dataset.validation_files", "dataset.weights", "dataset.exclude", "dataset.hub_config"),
    *("dataset.hub_split", "dataset.hub_validation_split", "dataset.text_fields", "dataset.token_dtype"),
    *("dataset.separator", "dataset.articles", "launch.reduce_dtype", "launch.gather_dtype"),
    *("dataset.revision", "dataset.data_files", "dataset.data_dir", "dataset.on_bad_row"),
    *("dataset.max_tokens", "dataset.max_documents", "dataset.part_seed", "model.revision", "tokenizer_revision"),
    *("train.on_spike", "train.spike_window", "train.spike_threshold"),
    *("dataset.tokenize", "train.max_flops", "optim.warmup_tokens", "optim.decay_tokens", "optim.batch_lr"),
    *("optim.stage_lr", "optim.stage_clip"),
    *("model.package", "scheduler.package"),
}
"""Keys of other model families, schedulers, schedules and corpora, and how the same function is computed."""


def written(file: Path) -> dict[str, tuple[Any, str]]:
    """Key -> (value, first word of its comment) of a recipe or a group's file; what a recipe chooses, by its group."""
    group = "" if file.parent.name == "experiment" else f"{file.parent.name}."
    found, section = {}, ""
    for line in file.read_text("utf-8").splitlines():
        if line.startswith("#") or line == "defaults:":
            continue
        if re.fullmatch(r"\w+:", line):
            section = f"{line[:-1]}."
            continue
        setting, _, comment = line.partition(" # ")
        key, value = setting.removeprefix("  - override /").split(": ", 1)
        indented = key.startswith("  ")
        source = re.match(r"\w*", comment)
        name = f"{group}{section if indented else ''}{key.strip()}"
        found[name] = (yaml.safe_load(value), source.group() if source else "")
    return found


def recipe(name: str) -> dict[str, tuple[Any, str]]:
    return written(CONF / "experiment" / f"{name}.yaml")


def chosen_files(name: str) -> Iterator[Path]:
    """The files of the groups that a recipe chooses."""
    for group in ("model", "dataset", "scheduler", "stage"):
        yield CONF / group / f"{recipe(name)[group][0]}.yaml"


@pytest.mark.parametrize("name", PAPER)
def test_the_reading_above_is_what_yaml_reads(name: str) -> None:
    raw = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text("utf-8"))
    choices = {key.removeprefix("override /"): value for entry in raw.pop("defaults") for key, value in entry.items()}
    assert {key: value for key, (value, _) in recipe(name).items()} == choices | leaves_of(raw)


@pytest.mark.parametrize("name", PAPER)
def test_every_line_is_a_setting_with_a_source(name: str) -> None:
    stage = written(CONF / "stage" / f"{recipe(name)['stage'][0]}.yaml")
    known = {*settings_of(RunConfig)} | {"model", "dataset", "scheduler", "stage"}
    for key, (_, source) in (recipe(name) | stage).items():
        assert key in known, key
        assert source in SOURCES[name], f"{name}: {key}: {source!r}"


@pytest.mark.parametrize("name", PAPER)
def test_every_setting_that_defines_the_run_is_there(name: str) -> None:
    there = set(recipe(name))
    for file in chosen_files(name):
        there |= {f"{file.parent.name}.{key}" for key in yaml.safe_load(file.read_text("utf-8"))}
    missing = {*settings_of(RunConfig)} - there - keys_with(RunConfig, FREE)
    assert missing <= NOT_NEEDED | NO_MEANING[name]
    assert {"train.max_steps", "optim.eps", "seed", "sampling.redraw", "model.hidden_size"} <= there


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("dense", [False, True])
def test_what_is_written_is_what_is_composed(name: str, dense: bool) -> None:
    config: RunConfig = accepted(f"experiment={name}", *(["scheduler=dense"] if dense else []))
    leaves = leaves_of(plain(config))
    for key, (value, _) in recipe(name).items():
        if key not in ("model", "dataset", "scheduler", "stage"):
            assert leaves[key] == value, key
    stages = {leaves[f"stage.{key}"] for key in ("t1", "t2", "p_h", "p_m", "p_l")}
    assert (stages == {None}) == dense == (leaves["scheduler.name"] == "dense")


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    return {name: make_plan(accepted(f"experiment={name}", schema=PlanConfig)) for name in PAPER}


@pytest.mark.parametrize(("name", "blocks", "total"), [("paper_gpt2", 26.67, 19.44), ("paper_tinyllama", 25.0, 23.66)])
def test_the_plans_and_what_the_docs_say(plans: dict[str, Plan], name: str, blocks: float, total: float) -> None:
    plan = plans[name]
    used, dense, text = plan.ledger.used, plan.ledger.dense, DOCS.read_text("utf-8")
    assert (round(plan.ledger.saved_pct("blocks"), 2), round(plan.ledger.saved_pct("total"), 2)) == (blocks, total)
    tokens = sum(stage.tokens for stage in plan.stages)
    memory = [stage.whole for stage in memory_of(plan).stages]
    row = [f"{tokens:,}", f"{used.blocks:.3e} of {dense.blocks:.3e}", f"{used.total:.3e} of {dense.total:.3e}"]
    row += [f"{blocks:.2f} %", f"{total:.2f} %", " / ".join(f"{amount / 1e9:.1f}" for amount in memory) + " GB"]
    assert f"| `{name}` | {' | '.join(row)} |" in text


def test_the_table_in_the_docs_is_that_of_the_recipes() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (\S+) \| (\w+)[^|]*\| (\S+) \| (\w+)[^|]*\|$", DOCS.read_text("utf-8"), re.M)
    assert len(rows) > 30
    for column, name in enumerate(PAPER):
        stage = written(CONF / "stage" / f"{recipe(name)['stage'][0]}.yaml")
        wanted = {key: (value, source) for key, (value, source) in (recipe(name) | stage).items()}
        told = {row[0]: (yaml.safe_load(row[2 * column + 1]), row[2 * column + 2]) for row in rows}
        assert {key: told[key] for key in told if key in wanted} == wanted


@pytest.mark.parametrize(("name", "lr", "floor"), [("paper_gpt2", 6e-4, 6e-5), ("paper_tinyllama", 4e-4, 4e-5)])
def test_the_learning_rate_is_the_cosine_of_the_sources(name: str, lr: float, floor: float) -> None:
    config: RunConfig = accepted(f"experiment={name}")
    steps = config.train.max_steps
    assert steps is not None
    half = 2000 + (steps - 2000) // 2
    batch = resolve(config).batch
    rates = [lr_at(step, batch, config.optim) for step in (0, 1999, 2000, half, steps - 1)]
    assert rates == pytest.approx([lr / 2000, lr, lr, (lr + floor) / 2, floor], rel=1e-3)


@pytest.mark.some(2)
@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("how", ["launch.num_processes=8", "launch.num_processes=4 launch.strategy=fsdp"])
def test_several_gpus(name: str, how: str) -> None:
    accepted(f"experiment={name}", *how.split())
    config: RunConfig = composed(f"experiment={name}", "launch.num_processes=7")[0]
    with pytest.raises(ConfigError, match=r"^launch\.num_processes: .* do not divide among 7"):
        check(config)


# --- A few steps of each, with only the sizes and the texts made small. ---

STEPS = 15
"""The paper's boundaries are whole steps here: 2/15, 7/15, and 0.2, 0.4."""
SMALL = (
    "tokenizer=bpe dataset.num_workers=1 dataset.validation_fraction=0.3 model.vocab_size=300 model.hidden_size=32 "
    "model.num_layers=4 model.num_heads=4 train.seq_len=32 train.tokens_per_step=256 train.micro_batch=4 "
    f"train.max_steps={STEPS} optim.warmup=2 train.log_every=1 train.eval_every=5 train.checkpoint_every=5 "
    "tracking.wandb=off run_name=small"
).split()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def lab(server: Server, tmp_path: Path) -> Lab:
    """A folder with stand-ins for the three data sets, of the hub's layout and with the fields of the real ones."""
    texts = [" ".join(WORDS[(3 * row + word * word) % len(WORDS)] for word in range(40 + row)) for row in range(40)]
    sets = ["RedPajamaC4", "RedPajamaBook", "RedPajamaGithub", "RedPajamaWikipedia"]
    rows: dict[str, list[dict[str, Any]]] = {
        "openwebtext": [{"text": text} for text in texts],
        "slimpajama": [{"text": text, "meta": {"redpajama_set_name": sets[row % 4]}} for row, text in enumerate(texts)],
        "starcoder": [{"content": f"def {text}", "id": row} for row, text in enumerate(texts)],
    }
    for name, lines in rows.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Lab(server, tmp_path, tmp_path / "openwebtext")


def assert_ran(lab: Lab, blocks: float) -> None:
    run = lab.at("small")
    summary, records = json.loads((run / "summary.json").read_text()), train_records(run)
    assert (summary["steps"], summary["tokens"]) == (STEPS, STEPS * 256)
    assert round(summary["flops_saved_pct_blocks"], 2) == blocks
    assert {record["stage"] for record in records} == {1, 2, 3}
    found = [loss for loss in losses(run) if loss is not None]
    assert len(found) == STEPS and found[-1] < found[0] - 0.05
    assert (run / "model" / "model.safetensors").is_file()


def test_gpt2_runs(lab: Lab) -> None:
    ended = lab.train("experiment=paper_gpt2", "dataset.hub_ids=[openwebtext]", *SMALL)
    assert ended.code == 0, ended.err
    assert_ran(lab, 26.67)


def test_tinyllama_runs_on_its_mixture_without_github(lab: Lab) -> None:
    sizes = ("model.num_kv_heads=2", "model.mlp_size=64")
    ended = lab.train("experiment=paper_tinyllama", "dataset.hub_ids=[slimpajama,starcoder]", *sizes, *SMALL)
    assert ended.code == 0, ended.err
    assert_ran(lab, 25.0)
    assert re.search(r"slimpajama: [\d,]+ tokens of 30 documents; .* 10 excluded ones", ended.err), ended.err
    assert re.search(r"starcoder: [\d,]+ tokens of 40 documents", ended.err), ended.err
    assert re.findall(r"(\w+) gives (\d+) % of the training samples", ended.err) == [
        ("slimpajama", "70"), ("starcoder", "30")
    ]  # fmt: skip
