"""Which commit of a data set, a model and a tokenizer a run is made with, and that a resume uses the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file

from est_cli.common.errors import ConfigError
from est_cli.config import DatasetConfig, ModelConfig, RunConfig, SchedulerConfig, Source
from est_cli.config.resolve import check, resolve
from est_cli.config.run import tokenizer_revision_of
from est_cli.config.schema import to_yaml
from est_cli.config.setting import Given
from est_cli.data import Corpus, load_corpus
from est_cli.data.tokens.stream import Tokens
from est_cli.data.tokens.tokenizer import load_tokenizer, tokenizer_commit
from est_cli.models import build_model, hf_config, pinned
from est_cli.storage.run_dir import RunDir
from est_cli.training.parts import with_revisions
from est_cli.training.start import resolve_resume
from tests.lab.commands import accepted
from tests.lab.lab import Lab
from tests.lab.small_models import byte_tokenizer, save

OLD, NEW = "a" * 40, "b" * 40
DENSE = SchedulerConfig("dense")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the hub's libraries keep of a repository `user/model`: two commits, the newer one on `main`."""
    root = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    place = root / "models--user--model"
    for number, commit in enumerate((OLD, NEW)):
        save(place / "snapshots" / commit, "llama", seed=number)
    older = byte_tokenizer()
    older.add_tokens(["<older>"])
    older.save_pretrained(place / "snapshots" / OLD)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(NEW)
    (place / "refs" / "old").write_text(OLD)
    return place


@pytest.mark.parametrize(("revision", "commit"), [(None, NEW), ("old", OLD), (OLD, OLD)])
def test_model_and_tokenizer_of_a_revision(hub: Path, revision: str | None, commit: str, tmp_path: Path) -> None:
    model = ModelConfig(family="hf", name_or_path="user/model", revision=revision)
    config = hf_config(model)
    assert pinned(model, config).revision == commit
    weight = next(iter(build_model(pinned(model, config), config, 0).parameters()))
    here = load_file(hub / "snapshots" / commit / "model.safetensors")
    assert (weight == here["model.embed_tokens.weight"]).all()
    tokenizer = load_tokenizer("user/model", 300, (), 0.0, tmp_path, revision=revision)
    assert ("<older>" in tokenizer.get_vocab()) == (commit == OLD)
    assert tokenizer_commit("user/model", revision) == commit


def test_a_tokenizer_is_that_of_the_models_revision_where_nothing_else_is_said() -> None:
    model = ModelConfig(family="hf", name_or_path="user/model", revision=OLD)
    assert tokenizer_revision_of(RunConfig(model=model)) == OLD
    assert tokenizer_revision_of(RunConfig(model=model, tokenizer="other")) is None
    assert tokenizer_revision_of(RunConfig(model=model, tokenizer_revision=NEW)) == NEW


def test_what_was_found_stands_in_the_configuration() -> None:
    run = resolve(RunConfig(scheduler=DENSE, dataset=DatasetConfig(source=Source.hub, hub_ids=["user/a", "folder"])))
    none = Tokens(())
    corpus = Corpus(none, none, (), None, "", "", (), revisions=(OLD, None), tokenizer_revision=NEW)  # type: ignore[arg-type]
    config = with_revisions(run, corpus).config
    assert config.dataset.revision == [OLD, "-"] and config.tokenizer_revision == NEW
    assert config.revisions == {"dataset": [OLD, "-"], "model": None, "tokenizer": NEW}
    plain = with_revisions(run, replace(corpus, revisions=(None,), tokenizer_revision=None)).config
    assert plain.revisions == {"dataset": None, "model": None, "tokenizer": None}


@pytest.mark.parametrize(("given", "refused"), [([], False), (["main"], False), ([OLD], False), ([NEW], True)], ids=str)
def test_a_resume_keeps_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], refused: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = DatasetConfig(source=Source.hub, hub_ids=["user/a"], revision=[OLD], max_tokens=5000)
    run_dir = RunDir(tmp_path / "outputs" / "a")
    run_dir.root.mkdir(parents=True)
    run_dir.config.write_text(to_yaml(replace(accepted("scheduler=dense", "run_name=a"), dataset=dataset)))
    again = replace(dataset, revision=given, max_tokens="auto")
    config = replace(accepted("scheduler=dense", "run_name=a", "resume=auto"), dataset=again)
    if refused:
        with pytest.raises(ConfigError, match=r"^dataset\.revision: the run in .* was started with"):
            resolve_resume(config, Given({"dataset.revision", "dataset.max_tokens"}))
        return
    start = resolve_resume(config, Given({"dataset.revision", "dataset.max_tokens"}))
    assert start.config.dataset == dataset


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RunConfig(tokenizer_revision=OLD), "tokenizer_revision: is for a tokenizer of the hub"),
        (RunConfig(model=ModelConfig(revision=OLD)), r"model\.revision: has a meaning only with model=hf"),
        (RunConfig(dataset=DatasetConfig(revision=[OLD])), r"dataset\.revision: is for data sets of the hub"),
        (
            RunConfig(dataset=DatasetConfig(source=Source.hub, hub_ids=["a", "b"], revision=[OLD])),
            r"dataset\.revision: has 1 entries, dataset\.hub_ids has 2",
        ),
    ],
)
def test_a_revision_of_nothing_is_refused(config: RunConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(config)


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^tokenizer_revision: .* is a folder, which has no revisions"):
        load_tokenizer(str(tmp_path), 300, (), 0.0, tmp_path, revision=OLD)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"^model\.revision: .* is a folder, which has no revisions"):
        hf_config(ModelConfig(family="hf", name_or_path=str(tmp_path), revision=OLD))
    hub = DatasetConfig(source=Source.hub, hub_ids=[str(tmp_path)], revision=[OLD])
    with pytest.raises(ConfigError, match=r"^dataset\.revision: .* is a folder, which has no revisions"):
        load_corpus(hub, "bpe", 300, tmp_path / "cache")


def test_auto_is_written_down_and_goes_on(lab: Lab) -> None:
    part = [
        "dataset.max_tokens=auto",
        "train.max_steps=4",
        "stage.t1=1",
        "stage.t2=2",
        "dataset.validation_fraction=0.1",
    ]
    assert lab.tiny("part", *part).code == 0
    assert yaml.safe_load(RunDir(lab.at("part")).config.read_text())["dataset"]["max_tokens"] == 4 * 128
    again = lab.tiny("part", *part)
    assert again.code == 0 and "finished" in again.out
    other = lab.tiny("part", *part, "dataset.max_tokens=600")
    assert other.code == 2 and "dataset.max_tokens: the run in" in other.err
