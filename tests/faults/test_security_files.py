"""Folders from elsewhere: what they say of code, of other files and of sizes is not believed."""

from __future__ import annotations

import json
import logging
import pickle
import resource
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from est_cli.cli.entry import enter
from est_cli.common.errors import CheckpointError, ConfigError, DataError
from est_cli.common.redact import one_line
from est_cli.config import ModelConfig
from est_cli.models import build_model, hf_config
from est_cli.models.foreign import ADAPTER, CODE_KEYS, INDEX
from est_cli.models.pretrained import load_language_model, load_model, open_checkpoint
from est_cli.reporting.page import table
from est_cli.storage import cache
from est_cli.storage.digest import fingerprint
from tests.faults.conftest import Tally
from tests.faults.refused import told_as, unchanged
from tests.storage.test_content import Canary

pytestmark = pytest.mark.row("S")

VOCAB = 300


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "model"
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, bos_token_id=0, eos_token_id=0, **sizes)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(VOCAB)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0", pad_token="w0").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def examined(folder: Path) -> object:
    return load_language_model(open_checkpoint("checkpoint", str(folder)))


def classifier(folder: Path) -> object:
    return load_model(AutoModelForSequenceClassification, open_checkpoint("checkpoint", str(folder)), outputs=2)


def continued(folder: Path) -> object:
    model = ModelConfig(family="hf", name_or_path=str(folder))
    return build_model(model, hf_config(model), seed=0)


READERS: dict[str, tuple[Callable[[Path], object], type[CheckpointError] | type[ConfigError]]] = {
    "est-analyze": (examined, CheckpointError),
    "est-eval": (classifier, CheckpointError),
    "est-train": (continued, ConfigError),
}


def refused(folder: Path, *words: str) -> None:
    """By every reader, in one line, with nothing written and little memory taken."""
    for read, kind in READERS.values():
        before = largest()
        with unchanged(folder):
            line = told_as(kind, lambda read=read: read(folder))  # type: ignore[misc]
        assert all(word in line for word in words), line
        assert largest() - before < 64 << 20


def largest() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_without_a_fault_all_read_it(folder: Path) -> None:
    for read, _ in READERS.values():
        read(folder)


EVIL: dict[str, Any] = {
    "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    "_attn_implementation_internal": "someone/kernel",
    "_attn_implementation": "someone/kernel",
    "attn_implementation": {"": "eager", "text_config": "someone/kernel"},
    "quantization_config": {"quant_method": "evil"},
}


@pytest.mark.parametrize("key", CODE_KEYS)
@pytest.mark.parametrize("nested", [False, True])
def test_a_config_that_chooses_code(folder: Path, tally: Tally, key: str, nested: bool) -> None:
    (folder / "evil.py").write_text(f"open({str(folder / 'canary')!r}, 'w')")
    edit(folder / "config.json", **({"text_config": {"parts": [{key: EVIL[key]}]}} if nested else {key: EVIL[key]}))
    refused(folder, key, "config.json")
    assert not (folder / "canary").exists()
    tally(inputs=len(READERS))


def test_an_adapter_that_names_another_model(folder: Path, tally: Tally) -> None:
    (folder / ADAPTER).write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "someone/evil"}))
    refused(folder, ADAPTER)
    tally(inputs=len(READERS))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("index", [False, True])
def test_weights_that_are_a_pickle(folder: Path, tally: Tally, name: str, index: bool) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Canary(folder / "canary")))
    if index:
        (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": {"transformer.wte.weight": name}}))
    refused(folder)
    assert not (folder / "canary").exists()
    tally(inputs=len(READERS))


ODD_NAMES = (
    "../model.safetensors",
    "/etc/passwd",
    "sub/model.safetensors",
    "model.bin",
    ".hidden.safetensors",
    "",
    None,
)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_index_that_names_files_elsewhere(folder: Path, tally: Tally, name: str | None) -> None:
    shutil.move(folder / "model.safetensors", folder.parent / "model.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"transformer.wte.weight": name}}))
    refused(folder, INDEX)
    tally(inputs=len(READERS))


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": 3}', "{", '{"weight_map": {}, "weight_map": {}}'])
def test_an_index_that_is_none(folder: Path, tally: Tally, text: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(text)
    refused(folder)
    tally(inputs=len(READERS))


@pytest.mark.parametrize(
    "changes", [{"vocab_size": 10**7}, {"vocab_size": 10**12}, {"n_positions": 10**8}, {"n_layer": 10**5}]
)
def test_sizes_that_the_weights_do_not_have(folder: Path, tally: Tally, changes: dict[str, int]) -> None:
    """Nothing of that size is allocated, and no time is spent on building it."""
    edit(folder / "config.json", **changes)
    refused(folder, "config.json describes")
    tally(inputs=len(READERS))


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "sub/file"])
def test_a_cache_that_names_files_elsewhere(tmp_path: Path, tally: Tally, name: str) -> None:
    place = tmp_path / "cached"
    place.mkdir()
    files = {name: {"size": 0, "sha256": "0" * 64}}
    meta = {"files": files, "remembered": {}, "seal": fingerprint(place.name, files, {})}
    (place / cache.META).write_text(json.dumps(meta))
    (tmp_path / "outside").touch()
    assert cache.intact(place) is None
    with pytest.raises(cache.Damaged, match="not in its folder"):
        cache.verified(place)
    tally(inputs=1)


def test_a_line_for_the_terminal_is_only_text(tally: Tally) -> None:
    told = one_line("a\x1b]0;title\x07 \x1b[31mred\r\nnext\x00 https://me:canary@example.org/x 'ssh://canary@h/y' ü")
    assert told == "a?]0;title? ?[31mred next? https://example.org/x 'ssh://h/y' ü"
    tally(inputs=1)


def test_the_door_prints_text_only(capfd: pytest.CaptureFixture[str], tally: Tally) -> None:
    """Errors and warnings, with whatever stands in the files that they are about."""
    odd = "https://me:canary@example.org/x\x1b[2J\nestimated"

    def main(argv: Sequence[str]) -> None:
        logging.getLogger("est_cli.data").warning("%s is skipped", odd)
        raise DataError(f"{odd}: cannot be read")

    assert enter("est-train", main, ["est-train"]) == DataError.exit_code
    shown = "https://example.org/x?[2J estimated"
    assert capfd.readouterr().err == f"{shown} is skipped\nest-train: error: {shown}: cannot be read\n"
    tally(inputs=2)


def test_what_a_run_is_called_is_no_markup(tally: Tally) -> None:
    page = table(["<script>"], [["<img src=x onerror=alert(1)>\n<b>"]], words=1)
    assert "<script>" not in page and "<img" not in page and "<b>" not in page
    tally(inputs=1)
