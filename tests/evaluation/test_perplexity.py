"""Perplexity: every token once, with its context."""

from __future__ import annotations

import copy
import json
import math
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState

from est_cli.cli.entry import enter
from est_cli.common.errors import CheckpointError, ConfigError, DataError
from est_cli.common.rank import Rank
from est_cli.config import EvalSettings
from est_cli.data import load_corpus
from est_cli.data.tokens import encode_workers, token_cache
from est_cli.data.tokens.evaluated import EvaluatedText, load_evaluated
from est_cli.distributed import Group
from est_cli.distributed.workers import Processes
from est_cli.eval import main
from est_cli.evaluation import zero_shot
from est_cli.evaluation.zero_shot import first_token, measure, windows, windows_apart
from est_cli.models.documents import mark_documents
from est_cli.models.pretrained import Checkpoint, load_language_model, open_checkpoint
from est_cli.storage.digest import digest_files
from tests.lab.corpora import all_ids, files, write_jsonl
from tests.lab.small_models import END, POSITIONS, byte_tokenizer, save

ALONE = Processes(torch.device("cpu"), nullcontext, Group(Rank(), 60.0))
TEXTS = ["The first text, which is longer than a window of the model: it has three of them. Äöü!", "short", "x" * 47]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint("checkpoint", str(save(tmp_path_factory.mktemp("gpt2"))))


def test_each_token_is_predicted_once_from_all_that_its_window_holds() -> None:
    for count in range(1, 30):
        for length in range(2, 9):
            for stride in range(1, length):
                ids = list(range(count))
                found = list(windows(0, np.arange(1, count), length, stride))
                assert [i for w in found for i in w.ids[-w.predicted :]] == ids[1:]
                assert all(len(w.ids) <= length and w.predicted < len(w.ids) for w in found)
                assert all(w.ids == ids[w.ids[0] : w.ids[0] + length] for w in found)


def test_a_model_of_documents_apart_sees_their_beginning_alone() -> None:
    """What training put before a document it never showed with it: only the first token is predicted from there."""
    for count in range(2, 15):
        ids = list(range(count))
        first, *others = windows_apart(0, np.arange(1, count), 5, 2)
        assert (first.ids, first.predicted) == ([0, 1], 1) and all(0 not in window.ids for window in others)
        assert [i for w in (first, *others) for i in w.ids[-w.predicted :]] == ids[1:]


def test_such_a_checkpoint_says_so_itself(checkpoint: Checkpoint, tmp_path: Path) -> None:
    config = copy.deepcopy(checkpoint.config)
    mark_documents(config, apart=True)
    apart, text = replace(checkpoint, config=config), text_of(checkpoint, [text[:40] for text in TEXTS], tmp_path)
    model, nats = load_language_model(checkpoint).eval(), 0.0
    for ids in map(np.ndarray.tolist, text.documents()):
        for behind, predicted in (([1], ids[:1]), (ids[:-1], ids[1:])):
            with torch.no_grad():
                logits = model(torch.tensor([behind])).logits[0]
            nats += F.cross_entropy(logits, torch.tensor(predicted), reduction="sum").item()
    settings = EvalSettings(max_length=POSITIONS, stride=POSITIONS - 1)
    assert max(map(len, text.documents())) <= POSITIONS, "each fits in a window"
    assert measure(apart, text, settings, ALONE).nats == pytest.approx(nats, rel=1e-5)
    assert measure(checkpoint, text, settings, ALONE).nats != pytest.approx(nats, rel=1e-3)


def by_hand(checkpoint: Checkpoint, text: str, length: int, stride: int) -> float:
    """Sum of -log p, a token at a time."""
    model = load_language_model(checkpoint).eval()
    ids = [1, *checkpoint.tokenizer(text, add_special_tokens=False).input_ids]
    total = 0.0
    for at in range(1, len(ids)):
        begin = 0
        while begin + length <= at:
            begin += stride
        with torch.no_grad():
            logits = model(torch.tensor([ids[begin:at]])).logits[0, -1]
        total -= torch.log_softmax(logits.double(), 0)[ids[at]].item()
    return total


def text_of(checkpoint: Checkpoint, texts: list[str], folder: Path) -> EvaluatedText:
    """These documents as est-eval reads them."""
    path = write_jsonl(folder / "text.jsonl", texts)
    return load_evaluated([path], digest_files([path]), ["text"], checkpoint.tokenizer, folder / "data")


@pytest.mark.parametrize("group_tokens", [zero_shot.GROUP_TOKENS, 30])
@pytest.mark.parametrize(("length", "stride"), [(None, None), (20, 7), (20, 19)])
def test_it_is_what_one_token_at_a_time_gives(
    checkpoint: Checkpoint,
    length: int | None,
    stride: int | None,
    group_tokens: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zero_shot, "GROUP_TOKENS", group_tokens)
    settings = EvalSettings(max_length=length, stride=stride, batch_size=4)
    found = measure(checkpoint, text_of(checkpoint, TEXTS, tmp_path), settings, ALONE)
    nats = sum(by_hand(checkpoint, text, length or POSITIONS, stride or POSITIONS // 2) for text in TEXTS)
    size = sum(len(text.encode()) for text in TEXTS)
    assert (found.tokens, found.bytes, found.documents) == (size, size, 3)
    assert found.perplexity == pytest.approx(math.exp(nats / size), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-5)


def test_the_tokens_are_those_of_a_training(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Blank documents are left out, end-of-text that is written in a document is text."""
    texts = [*TEXTS, "", " \n", f"before {END} after", "\u3000", "x y" * 40_000]
    found = text_of(checkpoint, texts, tmp_path)
    end = checkpoint.tokenizer.eos_token_id
    trained = load_corpus(
        files(tmp_path / "text.jsonl", validation_fraction=0.5), checkpoint.place, 260, tmp_path / "cache"
    )
    documents = [[*ids.tolist(), end] for ids in found.documents()]
    assert len(documents) == found.total("documents") == 5 and found.total("blank") == 3
    assert sorted(all_ids(trained).tolist()) == sorted(chain.from_iterable(documents))
    assert documents[3][:-1] == [byte_id(byte) for byte in f"before {END} after"], "no token but of plain bytes"
    assert found.tokens == sum(map(len, documents)) - 5


def byte_id(byte: str) -> int:
    vocabulary: dict[str, int] = byte_tokenizer().get_vocab()
    return vocabulary["\u0120" if byte == " " else byte]


def test_a_text_begins_behind_what_training_put_there(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """est puts end-of-text before a document whatever else a tokenizer has; other models' makers say it."""
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = "[CLS]"
    config = copy.deepcopy(checkpoint.config)
    foreign = replace(checkpoint, place=str(tmp_path), tokenizer=tokenizer, config=config)
    config.bos_token_id = 3
    assert first_token(foreign) == 3
    config.bos_token_id = None
    assert first_token(foreign) == tokenizer.bos_token_id == 2
    (tmp_path / "MANIFEST.json").write_text("{}")
    assert first_token(foreign) == tokenizer.eos_token_id == 1


def test_what_cannot_be_measured(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^eval\.stride: 20 must be below the window's 20 tokens"):
        measure(checkpoint, EvaluatedText(()), EvalSettings(max_length=20, stride=20), ALONE)
    with pytest.raises(DataError, match=r"^eval\.files: hold no text"):
        measure(checkpoint, text_of(checkpoint, ["", " "], tmp_path), EvalSettings(), ALONE)
    save(tmp_path, "bert")
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="looks ahead, so it is no language model"):
        measure(open_checkpoint("checkpoint", str(tmp_path)), EvaluatedText(()), EvalSettings(), ALONE)


def test_the_command(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    AcceleratorState._reset_state()
    (tmp_path / "a.txt").write_text(TEXTS[0])
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[1:]))
    args = ["est-eval", f"checkpoint={checkpoint.place}", "task=perplexity", "eval.files=[a.txt,b.jsonl]"]
    for extra in ([], [], ["eval.stride=1"]):
        assert enter("est-eval", main, [*args, "run_name=x", *extra]) == 0
    records = json.loads(Path("outputs/x/zero_shot.json").read_text())["records"]
    assert [record["stride"] for record in records] == [POSITIONS // 2, 1], "the same again is the same record"
    assert {(record["tokens"], record["documents"]) for record in records} == {(141, 3)}
    assert f"perplexity {records[0]['perplexity']:.3f}" in capsys.readouterr().out
    assert enter("est-eval", main, [*args[:3], "eval.files=[nothing.txt]"]) == 3
    assert "eval.files: 'nothing.txt' matches no file" in capsys.readouterr().err
    (tmp_path / "c.jsonl").write_text(json.dumps({"body": "some text"}) + "\n")
    assert enter("est-eval", main, [*args[:3], "eval.files=[c.jsonl]"]) == 3
    assert "no field text or content (eval.text_fields); the fields here are: 'body'" in capsys.readouterr().err
    assert enter("est-eval", main, [*args[:3], "eval.files=[c.jsonl]", "eval.text_fields=[body]"]) == 0
    assert enter("est-eval", main, [args[0], args[1], "task=rte", "eval.text_fields=[body]"]) == 2
    assert "eval.text_fields: has a meaning only with task=perplexity" in capsys.readouterr().err


def test_a_lost_process_names_no_setting_of_a_training(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(tasks: list[dict[str, Any]], *_: object) -> None:
        dead = SimpleNamespace(process=SimpleNamespace(wait=lambda: -9))
        raise encode_workers._lost(dead, tasks[0])  # type: ignore[arg-type]

    monkeypatch.setattr(token_cache, "run_tasks", lost)
    monkeypatch.setattr(token_cache.EncodeJob, "limited", True)
    monkeypatch.setattr(token_cache, "LIMIT_BYTES", None)
    with pytest.raises(DataError, match=r"^eval\.files: a process that tokenises was .*; start again to continue$"):
        text_of(checkpoint, TEXTS, tmp_path)
