"""est-data from its command line to what it prints, in this process."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest

from est_cli.cli.entry import enter
from est_cli.corpus import main
from est_cli.data.tokens import token_cache
from est_cli.training.parts import configured_corpus
from tests.lab.commands import accepted, command, poisoned_path
from tests.lab.corpora import documents, write_jsonl
from tests.lab.web import Site, certificate, serving


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", [*documents(60), documents(60)[0], " "])


ARGS = ("dataset=text", "dataset.files=[a.jsonl]", "model.vocab_size=300", "dataset.validation_fraction=0.2")


def test_everything_is_told_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert enter("est-data", main, ["est-data", *ARGS, "json=x.json", "samples=2", "paths.data=tokens"]) == 0
    shown = capsys.readouterr().out
    numbers = json.loads((tmp_path / "x.json").read_text())
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert lines[:2] == ["est-data: text, tokenizer bpe", "documents 61"]
    assert "blank, left out 1" in lines and f"tokens {numbers['tokens']:,}" in lines
    assert lines[-1] == "json x.json" and len(numbers["samples"]) == 2
    assert [line.removeprefix("sample ") for line in lines if line.startswith("sample")] == numbers["samples"]
    assert numbers["documents"] == 61 and numbers["blank"] == 1
    assert numbers["tokens"] == numbers["train_tokens"] + numbers["validation_tokens"]

    monkeypatch.setattr(token_cache, "write_tokens", None)  # est-train has nothing left to do
    from est_cli.config.resolve import check
    from est_cli.families import spec_of
    from est_cli.models import hf_config

    run = check(accepted(*ARGS, "paths.data=tokens"))
    corpus = configured_corpus(run, spec_of(hf_config(run.config.model)), True)
    assert (corpus.data_hash, corpus.tokenizer_hash) == (numbers["data_hash"], numbers["tokenizer_hash"])


def test_files_on_a_web_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By https, with a certificate of its own: the same numbers as of the file here."""
    certified, key = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certified))
    for name in ("https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certified, key)
    assert enter("est-data", main, ["est-data", *ARGS, "json=here.json"]) == 0
    with serving(Site(files={"a.jsonl": Path("a.jsonl").read_bytes()}), context) as site:
        assert site.url("a.jsonl").startswith("https://")
        there = (*ARGS, f"dataset.files=[{site.url('a.jsonl')}]", "paths.data=there", "json=there.json")
        assert enter("est-data", main, ["est-data", *there]) == 0
    here, there_too = (json.loads(Path(name).read_text()) for name in ("here.json", "there.json"))
    for key_of_text in ("documents", "tokens", "bytes", "data_hash", "tokenizer_hash", "samples"):
        assert here[key_of_text] == there_too[key_of_text], key_of_text


def test_auto_is_what_the_run_would_read(capsys: pytest.CaptureFixture[str]) -> None:
    more = "dataset.max_tokens=auto", "train.max_steps=4", "train.tokens_per_step=256", "train.seq_len=64"
    assert enter("est-data", main, ["est-data", *ARGS, *more, "samples=0", "json=x.json"]) == 0
    assert json.loads(Path("x.json").read_text())["train_tokens"] == 1024
    assert "sample" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["resume=auto"], 2, "resume: est-data looks at the text of a new run; leave it null"),
        (["json=a.jsonl"], 2, "json: a.jsonl is there already; give another name"),
        (["json=none/x.json"], 2, "json: there is no folder none"),
        (["samples=-1"], 2, "samples: -1 is out of range; it must be at least 0 and at most 1,000"),
        (["-m", "seed=1,2"], 2, "--multirun: est-data takes one value of each key; est-train -m sweeps"),
        (["dataset=text"], 2, "dataset.files: is empty"),
        (["dataset=text", "dataset.files=[none.txt]"], 3, "dataset.files: "),
        (["paths.data=a.jsonl/x"], 6, "a.jsonl: is no folder, and tokens are kept in a.jsonl/x; move it away"),
    ],
)
def test_what_is_refused(capsys: pytest.CaptureFixture[str], args: list[str], code: int, told: str) -> None:
    assert enter("est-data", main, ["est-data", *args]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"est-data: error: {told}") and err.count("\n") == 1


@pytest.mark.processes
def test_nothing_heavy_is_imported_before_the_configuration_is_accepted(tmp_path: Path) -> None:
    path = poisoned_path(tmp_path)
    ended = command("est-data", "json=a.jsonl", cwd=tmp_path, PYTHONPATH=path)
    assert ended.code == 2 and ended.err.startswith("est-data: error: json: a.jsonl")
    ended = command("est-data", "--help", cwd=tmp_path, PYTHONPATH=path)
    assert ended.code == 0 and "paths.data" in ended.out and "samples" in ended.out
