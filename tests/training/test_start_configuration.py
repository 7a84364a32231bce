"""Which run a command line means. Without torch: only configurations are read."""

from __future__ import annotations

import copy
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from est_cli.common.errors import CheckpointError, ConfigError, StorageError
from est_cli.config import Precision, RunConfig
from est_cli.config.schema import leaves_of, plain, to_yaml, typed
from est_cli.config.setting import FREE, settings_of
from est_cli.config.stored import stored_config
from est_cli.storage.run_dir import OUTPUTS
from est_cli.training.start import Start, resolve_resume
from tests.lab.commands import composed
from tests.lab.settings import another_value

X = OUTPUTS / "x"


@lru_cache
def _composed(args: tuple[str, ...]) -> tuple[RunConfig, set[str]]:
    return composed(*args)


def start(*args: str) -> Start:
    config, given = _composed(args)
    return resolve_resume(copy.deepcopy(config), given)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make_run(name: str, *args: str, finished: bool = False, age_s: int = 0) -> Path:
    """What a run named `name` leaves on disk, as far as it matters here."""
    folder = OUTPUTS / name
    folder.mkdir(parents=True)
    config = copy.deepcopy(_composed(args)[0])
    config.run_name = name
    (folder / "config.yaml").write_text(to_yaml(config))
    os.utime(folder / "config.yaml", (1e9 - age_s, 1e9 - age_s))
    if finished:
        (folder / "summary.json").write_text("{}")
    return folder


def test_a_new_run_is_the_configuration_itself() -> None:
    begin = start("seed=3", "run_name=new")
    assert begin.folder is None and not begin.finished
    assert begin.config == _composed(("seed=3", "run_name=new"))[0]


@pytest.mark.parametrize(
    ("finished", "message"),
    [
        (True, r"^run_name: outputs/s/x is a finished run and is never overwritten; .* or make it longer: resume="),
        (False, r"^run_name: outputs/s/x is an unfinished run; continue it with resume=outputs/s/x"),
    ],
)
def test_a_name_that_a_run_has_is_refused_before_the_text_is_read(finished: bool, message: str) -> None:
    make_run("s/x", finished=finished)
    with pytest.raises(ConfigError, match=message):
        start("sweep=s", "run_name=x")
    assert start("run_name=x").folder is None


def test_a_name_whose_run_was_killed_before_it_began_is_free() -> None:
    X.mkdir(parents=True)
    (X / ".lock").touch()
    assert start("run_name=x").folder is None
    assert start("run_name=x", "resume=auto").folder is None


@pytest.mark.parametrize("what", ["a file", "a link", "somebody's folder"])
def test_a_name_that_something_else_has_is_refused(what: str) -> None:
    OUTPUTS.mkdir()
    if what == "a file":
        X.touch()
    elif what == "a link":
        X.symlink_to("nowhere")
    else:
        X.mkdir()
        (X / "thesis.tex").touch()
    for more in ([], ["resume=auto"]):
        with pytest.raises(ConfigError, match=r"^run_name: outputs/x "):
            start("run_name=x", *more)


@pytest.mark.parametrize("args", [["run_name=a/b"], ["run_name=.."], ["run_name=''"], ["run_name=a/b", "resume=auto"]])
def test_a_name_that_is_no_folder_name_is_refused(args: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^run_name: "):
        start(*args)


@pytest.mark.parametrize("what", ["a file", "a link to nothing", "a loop"])
def test_a_place_where_nothing_can_be_written_is_told_before_the_text_is_read(what: str) -> None:
    if what == "a file":
        OUTPUTS.write_text("")
    else:
        OUTPUTS.symlink_to("nowhere" if what == "a link to nothing" else OUTPUTS)
    for args in ([], ["run_name=x"], ["sweep=s", "run_name=x"]):
        with pytest.raises(StorageError, match=r"^outputs: is (no folder|a link to nothing), and results are"):
            start(*args)


def test_a_new_run_is_checked() -> None:
    for args in (["seed=-1"], ["seed=-1", "resume=auto"], ["seed=-1", "resume=auto", "run_name=x"]):
        with pytest.raises(ConfigError, match=r"^seed: -1 is out of range"):
            start(*args)


def test_a_run_is_continued_with_its_own_settings() -> None:
    make_run("x", "seed=3", "stage.t1=1", "train.log_every=7")
    begin = start("resume=outputs/x")
    assert begin.folder == X and not begin.finished
    assert (begin.config.run_name, begin.config.resume) == ("x", "outputs/x")
    assert (begin.config.seed, begin.config.stage.t1, begin.config.train.log_every) == (3, 1, 7)
    assert type(begin.config.stage.t1) is int


@pytest.mark.parametrize("path", ["nowhere", "outputs", "outputs/x/config.yaml", "", "a" * 5000])
def test_a_path_that_is_no_run_is_refused(path: str) -> None:
    make_run("x")
    with pytest.raises(ConfigError, match=r"^resume: .* is not the folder of a run"):
        start(f"resume='{path}'")


def test_from_inside_its_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_run("x"))
    assert start("resume=.").config.run_name == "x"


PLACED = {"run_name", "sweep", "share_prefix", "resume"}
"""Free, and told apart: they say where the run lies."""
FREE_VALUES = {
    key: another_value(known)
    for key, known in settings_of(RunConfig).items()
    if FREE in known.roles
    and key not in PLACED
    and not key.startswith("train.eval_tasks")  # which need another package
} | {"train.lm_loss": "chunked", "launch.num_processes": "2", "launch.strategy": "fsdp", "launch.shard_size": "2"}


def test_free_keys_are_laid_over_the_stored_ones() -> None:
    assert {"train.micro_batch", "train.keep_last", "tracking.tags", "launch.timeout_s"} <= FREE_VALUES.keys()
    assert not {"train.precision", "seed", "stage.t1", "optim.lr"} & FREE_VALUES.keys()
    assert not {"launch.reduce_dtype", "launch.gather_dtype"} & FREE_VALUES.keys()
    make_run("x", "seed=3", "train.keep_last=7")
    args = [f"{key}={value}" for key, value in FREE_VALUES.items()]
    wanted = leaves_of(plain(_composed((*args,))[0]))
    got = leaves_of(plain(start("resume=outputs/x", *args).config))
    assert {key: got[key] for key in FREE_VALUES} == {key: wanted[key] for key in FREE_VALUES}
    assert got["seed"] == 3
    assert start("resume=outputs/x").config.train.keep_last == 7  # not given: as it was, not the default


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=4", "seed: the run in outputs/x was started with 3, not 4"),
        ("model.num_layers=2", "model.num_layers: the run in outputs/x was started with 4, not 2"),
        ("model=gpt2", "model.hidden_size: the run in outputs/x was started with 128, not 768"),
        ("scheduler=dense", "scheduler.name: the run in outputs/x was started with 'three_stage', not 'dense'"),
        ("stage.t1=1.0", "stage.t1: the run in outputs/x was started with 1, not 1.0"),
        ("sampling.redraw=forward", "sampling.redraw: the run in outputs/x was started with 'step', not 'forward'"),
        ("optim.lr=1", "optim.lr: the run in outputs/x was started with 0.001, not 1.0"),
        ("optim.name=muon", "optim.name: the run in outputs/x was started with 'adamw', not 'muon'"),
        ("optim.unsampled_rows=frozen", "optim.unsampled_rows: the run in outputs/x was started with 'zero_grad', not"),
        ("train.tokens_per_step=8192", "train.tokens_per_step: the run in outputs/x was started with 4096, not 8192"),
        ("train.precision=bf16", "train.precision: the run in outputs/x was started with 'fp32', not 'bf16'"),
        ("dataset.validation_fraction=0.5", "dataset.validation_fraction: the run in outputs/x was started with "),
        ("tokenizer=other", "tokenizer: the run in outputs/x was started with "),
        ("run_name=y", "run_name: the run in outputs/x was started with 'x', not 'y'"),
        ("experiment=paper_gpt2", "dataset.hub_ids: the run in outputs/x was started with []"),
    ],
)
def test_keys_that_define_the_run_are_frozen(override: str, message: str) -> None:
    make_run("x", "seed=3", "stage.t1=1", "train.precision=fp32")
    with pytest.raises(ConfigError) as error:
        start("resume=outputs/x", override)
    assert str(error.value).startswith(message) and "cannot change when it is resumed" in str(error.value)
    fixed = override.startswith(("seed", "model", "sampling", "optim.name", "train.tokens_per_step", "run_name"))
    assert ("; fork=outputs/x@STEP run_name=OTHER begins another run" in str(error.value)) is not fixed


def test_runs_of_before_the_type_of_token_ids_could_be_left_open_go_on() -> None:
    before = make_run("x", "dataset.token_dtype=uint16")
    assert start("resume=auto").folder == before.resolve().relative_to(Path.cwd())


def test_what_was_settled_for_the_machine_is_taken_over() -> None:
    """The precision of a run that did not name one: found again without a name, kept, and no other one is taken."""
    settled = make_run("x", "seed=3", "train.precision=bf16")
    assert start("resume=auto", "seed=3").folder == settled.resolve().relative_to(Path.cwd())
    assert start("resume=auto", "seed=3").config.train.precision is Precision.bf16
    assert start("resume=outputs/x", "train.precision=null").config.train.precision is Precision.bf16
    assert start("resume=auto", "seed=3", "train.precision=fp32").folder is None


def test_saying_again_what_the_run_has_is_no_change() -> None:
    make_run("x", "seed=3", "stage.t1=1", "model=llama_tiny")
    again = start("resume=outputs/x", "seed=3", "stage.t1=1", "model=llama_tiny", "run_name=x", "scheduler=three_stage")
    assert again.config.seed == 3


def test_a_free_key_out_of_range_is_refused() -> None:
    make_run("x")
    with pytest.raises(ConfigError, match=r"^train\.keep_last: 1 is out of range"):
        start("resume=outputs/x", "train.keep_last=1")


def test_auto_by_name() -> None:
    assert start("resume=auto", "run_name=x").folder is None
    make_run("x", "seed=3", age_s=9)
    make_run("y", "seed=4")
    assert start("resume=auto", "run_name=x").folder == X
    with pytest.raises(ConfigError, match=r"^seed: .* started with 3, not 5"):
        start("resume=auto", "run_name=x", "seed=5")


def test_auto_takes_the_newest_unfinished_run_of_the_same_settings() -> None:
    assert start("resume=auto").folder is None
    make_run("other", "seed=4")
    make_run("as-a-fraction", "stage.t1=1.0", "stage.t2=1.0")
    assert start("resume=auto").folder is None
    make_run("old", age_s=20)
    make_run("new", "train.log_every=7", age_s=10)  # a free key may differ
    make_run("newest", finished=True)
    make_run("broken").joinpath("config.yaml").write_text("a: [")
    assert start("resume=auto").folder == OUTPUTS / "new"
    assert start("resume=auto", "stage.t1=1", "stage.t2=1.0").folder is None
    assert start("resume=auto", "seed=4").folder == OUTPUTS / "other"


def make_older(*args: str) -> Path:
    """A run that was begun before est could cut documents exactly and join the lines of wikitext."""
    folder = make_run("x", *args)
    lines = (folder / "config.yaml").read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.strip().partition(":")[0] not in ("cut", "articles")]
    assert len(kept) == len(lines) - 2
    (folder / "config.yaml").write_text("".join(kept))
    return folder


@pytest.mark.parametrize("choice", ["dataset=stdlib", "dataset=wikitext103"])
def test_an_older_run_goes_on_as_it_read_its_text(choice: str) -> None:
    make_older(choice)
    for args in (["resume=outputs/x"], ["resume=auto", choice], ["resume=auto", "run_name=x", choice]):
        found = start(*args)
        assert found.folder == X
        assert (found.config.dataset.cut, found.config.dataset.articles) == ("lines", False)
    assert start(choice).config.dataset.cut == "exact"
    assert start(choice).config.dataset.articles is (choice == "dataset=wikitext103")


def test_what_an_older_run_does_not_do_is_refused_where_it_is_named() -> None:
    make_older()
    path = X / "config.yaml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "multiple_of" not in line))
    for override, was in (("dataset.cut=exact", "'lines'"), ("sampling.multiple_of=4", "1")):
        for resume in (["resume=outputs/x"], ["resume=auto", "run_name=x"]):
            with pytest.raises(ConfigError, match=rf"^{override.partition('=')[0]}: .* started with {was}, not "):
                start(*resume, override)
        assert start("resume=auto", override).folder is None
    assert start("resume=outputs/x", "dataset.cut=lines", "sampling.multiple_of=1").folder == X


def test_a_precision_that_nobody_asked_for_is_known() -> None:
    make_run("x", "seed=3", "train.precision=bf16")
    for given in (["run_name=x"], ["train.precision=bf16"]):
        assert not start("resume=auto", "seed=3", *given).precision_left_open
    found = start("resume=auto", "seed=3")
    assert found.folder == X and found.precision_left_open


def test_how_a_new_run_reads_its_text_is_frozen() -> None:
    make_run("x")
    with pytest.raises(ConfigError, match=r"^dataset\.cut: .* started with 'exact', not 'lines'"):
        start("resume=outputs/x", "dataset.cut=lines")


def test_a_finished_run_is_told_as_such() -> None:
    make_run("x", finished=True)
    for args in (["resume=outputs/x"], ["resume=auto", "run_name=x"], ["resume=auto"]):
        assert start(*args).finished and start(*args).folder == X


def test_a_stored_configuration_is_the_one_that_was_written() -> None:
    config = copy.deepcopy(_composed(("model=llama_tiny", "tracking.wandb=off"))[0])
    folder = make_run("x", "model=llama_tiny", "tracking.wandb=off")
    config.run_name = "x"
    assert stored_config(folder) == config == typed(plain(config), RunConfig)


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "holds no settings"),
    "a list": ("- 1", "holds no settings"),
    "an alias": ("tokenizer: &x bpe\nrun_name: *x", "cannot be read as YAML: holds YAML aliases"),
    "an anchor": ("tokenizer: &x bpe", "cannot be read as YAML: holds YAML aliases"),
    "too large": ("#" * (1 << 20) + "\n", "cannot be read as YAML: larger than 1048576 bytes"),
    "too deep": ("a: " + "[" * 100_000, "cannot be read as YAML: "),
    "cut off": ("train: {seq_len", "cannot be read as YAML"),
    "not UTF-8": (b"\xff\xfe", "cannot be read as YAML"),
    "a control character": ("a: \x00", "cannot be read as YAML"),
    "two documents": ("seed: 1\n---\nseed: 2", "cannot be read as YAML"),
    "a Python object": ("run_name: !!python/object/apply:os.system [ls]", "cannot be read as YAML"),
    "no date": ("run_name: 2024-13-45", "cannot be read as YAML"),
    "a date": ("run_name: 2024-01-01", "run_name: datetime.date(2024, 1, 1) is not a word"),
    "an endless number": (f"seed: {'1' * 5000}", "cannot be read as YAML"),
    "a set": ("run_name: !!set {a}", "run_name: {'a'} is not a word"),
    "an unknown key": ("train: {new: 1}", "train.new: unknown key"),
    "a key that is no word": ("1: 2", "1: unknown key"),
    "a resolver": ("run_name: ${oc.env:HOME}", "run_name: resolvers are not allowed"),
    "a target": ("model: {_target_: os.system}", "model._target_: unknown key"),
    "a group that is none": ("train: 3", "train: '3' is not a group of settings"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_stored_configuration_that_no_run_wrote(what: str) -> None:
    content, message = BROKEN[what]
    path = make_run("x") / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError) as error:
        start("resume=outputs/x")
    told = str(error.value)
    assert told.startswith(f"outputs/x/config.yaml: {message}") and "\n" not in told and len(told) < 400


def test_a_pipe_in_the_place_of_the_configuration_is_not_waited_for() -> None:
    folder = make_run("x")
    (folder / "config.yaml").unlink()
    os.mkfifo(folder / "config.yaml")
    with pytest.raises(CheckpointError, match="holds no settings"):
        stored_config(folder)


def test_a_stored_configuration_out_of_range_is_the_files_fault() -> None:
    config: Any = copy.deepcopy(_composed(())[0])
    config.train.seq_len = 0
    (make_run("x") / "config.yaml").write_text(to_yaml(config))
    with pytest.raises(CheckpointError, match=r"^outputs/x/config\.yaml: train\.seq_len: 0 is out of range"):
        start("resume=outputs/x")
    make_run("y")
    with pytest.raises(ConfigError, match=r"^train\.log_every: -1 is out of range"):
        start("resume=outputs/y", "train.log_every=-1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    ["sampling.redraw=forward", "sampling.layers_by=sequence", "sampling.ranks=independent", "model.dropout=0.1"],
)
def test_the_micro_batch_is_frozen_where_randomness_depends_on_it(setting: str) -> None:
    make_run("x", setting)
    with pytest.raises(ConfigError, match=r"^train\.micro_batch: the run in outputs/x was started with 16, not 3"):
        start("resume=outputs/x", "train.micro_batch=3")
