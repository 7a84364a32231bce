"""E2: model folders that somebody else made, given to est-eval and to model=hf: no code of theirs, no other files."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from est_cli.common.errors import CheckpointError, ConfigError, DataError, EstError
from est_cli.config import ModelConfig
from est_cli.data.tokens.tokenizer import load_tokenizer
from est_cli.models import build_model, hf_config
from est_cli.models.pretrained import load_language_model, open_checkpoint
from tests.faults.conftest import Tally
from tests.faults.refused import check_line, unchanged
from tests.faults.test_hostile import EVERY, HEADERS, grown_by, parts, whole
from tests.lab.small_models import save
from tests.storage.test_content import Canary

pytestmark = pytest.mark.row("E2")

Spoil = Callable[[Path], object]
"""Makes a good folder a bad one. Beside it is room for files that it must not lead to."""

MEMORY = 200 << 20
"""Bytes that looking at a model of a few kB may take; it imports modules of transformers."""


def setting(**changes: Any) -> Spoil:
    return lambda folder: _edit(folder / "config.json", changes)


def of_tokenizer(**changes: Any) -> Spoil:
    return lambda folder: _edit(folder / "tokenizer_config.json", changes)


def written(name: str, text: str) -> Spoil:
    return lambda folder: (folder / name).write_text(text)


def pickled(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(pickle.dumps(Canary(folder.parent / "canary")))

    return spoil


def only_pickled(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        pickled(name)(folder)

    return spoil


def whole_but_pickled(folder: Path) -> None:
    """Weights that torch would read, and find nothing wrong with."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def indexed(name: str) -> Spoil:
    """The weights lie elsewhere, and an index says where."""

    def spoil(folder: Path) -> None:
        target = folder.parent / "elsewhere.safetensors" if name == "absolute" else folder / name
        names = list(load_file(folder / "model.safetensors"))
        shutil.move(folder / "model.safetensors", target)
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, str(target) if name == "absolute" else name)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return spoil


def index_of(name: str, **others: Any) -> Spoil:
    """The weights lie in shard.safetensors, and an index says that they lie in `name`."""

    def spoil(folder: Path) -> None:
        names = list(load_file(folder / "model.safetensors"))
        shutil.move(folder / "model.safetensors", folder / "shard.safetensors")
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": dict.fromkeys(names, name), **others})
        )

    return spoil


def with_header(change: Callable[[dict[str, Any], bytes], bytes]) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(change(*parts(path)))

    return spoil


def with_code(spoil: Spoil) -> Spoil:
    def both(folder: Path) -> None:
        (folder / "evil.py").write_text(f"import os\nos.mkdir({str(folder.parent / 'canary')!r})\nclass A: pass\n")
        spoil(folder)

    return both


def replaced(old: str, new: str) -> Spoil:
    def spoil(folder: Path) -> None:
        text = (folder / "config.json").read_text()
        assert old in text
        (folder / "config.json").write_text(text.replace(old, new))

    return spoil


def _edit(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


FOREIGN_HEADERS = (
    *("10^9 x 10^9", "larger than a size can be", "negative", "behind the end", "end before the start"),
    *("all tensors in one place", "length 2^62", "length 99 MB", "nested", "a tensor lost"),
)
CODE = {"AutoConfig": "evil.A", "AutoModelForCausalLM": "evil.A"}
REFUSED: dict[str, Spoil] = {
    "auto_map": with_code(setting(auto_map=CODE)),
    "auto_map and its trust": with_code(setting(auto_map=CODE, trust_remote_code=True)),
    "auto_map of a part": with_code(setting(text_config={"auto_map": CODE})),
    "attention of a repository, as in CVE-2026-4372": setting(_attn_implementation_internal="user/repo:evil"),
    "attention of a repository": setting(_attn_implementation="user/repo"),
    "attention, without the underscore": setting(attn_implementation="user/repo"),
    "quantization": setting(quantization_config={"quant_method": "evil"}),
    "unknown type": setting(model_type="evil"),
    "a path as its type": setting(model_type="../evil"),
    "a function as dtype": setting(dtype="os.mkdir"),
    "a module as dtype": setting(dtype="os"),
    "tokenizer pickled": pickled("tokenizer.json"),
    "tokenizer nested": written("tokenizer.json", "[" * 100_000),
    "tokenizer cut": written("tokenizer.json", '{"version": "1.0"'),
    "weights pickled": pickled("model.safetensors"),
    "weights.bin only": only_pickled("pytorch_model.bin"),
    "whole weights, in pickles": whole_but_pickled,
    "weights.pt only": only_pickled("model.pt"),
    "weights.ckpt only": only_pickled("model.ckpt"),
    "an index that leads up": indexed("../elsewhere.safetensors"),
    "an absolute index": indexed("absolute"),
    "an index of pickles": indexed("pytorch_model.bin"),
    "an index of a shard that is not there": index_of("gone.safetensors", metadata={}),
    "an index without its metadata": index_of("shard.safetensors"),
    "a header of 20 MB": with_header(lambda header, data: whole(json.dumps(header).encode() + b" " * (20 << 20), data)),
    **{f"a header: {name}": with_header(HEADERS[name]) for name in FOREIGN_HEADERS},
    "an index that is no object": written("model.safetensors.index.json", "[]"),
    "huge": setting(n_embd=EVERY, vocab_size=EVERY),
    "wide": setting(n_embd=20_000, n_head=20),
    "many tokens": setting(vocab_size=EVERY),
    "deep": setting(n_layer=EVERY),
    "no heads": setting(n_head=0),
    "negative": setting(n_embd=-32),
    "NaN": replaced('"n_embd": 32', '"n_embd": NaN'),
    "infinite": replaced('"n_embd": 32', '"n_embd": 1e999'),
    "a word for a number": setting(n_embd="32"),
    "its depth twice": replaced('"n_layer": 2', '"n_layer": 2, "n_layer": 2000000000'),
    "a list": written("config.json", "[]"),
    "nested": written("config.json", "[" * 100_000),
    "no JSON": written("config.json", "import os"),
    "empty": written("config.json", ""),
    "adapter of another model": written("adapter_config.json", '{"base_model_name_or_path": "/", "peft_type": "LORA"}'),
}
HARMLESS: dict[str, Spoil] = {
    "_target_": setting(_target_="os.mkdir", path="canary"),
    "trust": setting(trust_remote_code=True),
    "architecture": setting(architectures=["../evil"]),
    "code beside it": with_code(lambda folder: None),
    "code of the tokenizer": with_code(of_tokenizer(auto_map={"AutoTokenizer": ["evil.A", "evil.A"]})),
    "class of the tokenizer": with_code(of_tokenizer(tokenizer_class="evil.A")),
    "file of the tokenizer": of_tokenizer(tokenizer_file="/etc/passwd"),
    "chat": of_tokenizer(chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    "pickle beside it": pickled("pytorch_model.bin"),
    "optimizer pickled": pickled("optimizer.pt"),
    "arguments pickled": pickled("training_args.bin"),
    "dtype as code": setting(torch_dtype="__import__('os').mkdir('canary')"),
}
"""What transformers ignores; the model is that of its config.json and safetensors."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save(tmp_path_factory.mktemp("foreign") / "model")
    evaluated(folder)  # what is imported for the first one is not counted against the others
    continued(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def evaluated(folder: Path) -> None:
    load_language_model(open_checkpoint("checkpoint", str(folder)))


def continued(folder: Path) -> None:
    model = ModelConfig(name="hf", family="hf", name_or_path=str(folder), pretrained=True)
    load_tokenizer(str(folder), 260, (), 0.0, folder.parent)
    build_model(model, hf_config(model), 0)


USES = {"eval": evaluated, "hf": continued}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_is_refused(folder: Path, tally: Tally, case: str, use: str) -> None:
    REFUSED[case](folder)
    caught: list[EstError] = []

    def attempt() -> None:
        with pytest.raises((ConfigError, CheckpointError, DataError)) as error:
            USES[use](folder)
        caught.append(error.value)

    begin = time.monotonic()
    with unchanged(folder.parent):
        assert grown_by(attempt) < MEMORY
    check_line(" ".join(str(caught[0]).split()), str(folder))
    assert time.monotonic() - begin < 10
    assert not (folder.parent / "canary").exists()
    tally(inputs=1)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("case", HARMLESS)
def test_a_folder_whose_traps_are_not_looked_at(folder: Path, tally: Tally, case: str, use: str) -> None:
    HARMLESS[case](folder)
    with unchanged(folder.parent):
        USES[use](folder)
    assert not list(folder.parent.rglob("canary"))
    tally(inputs=1)
