"""est-push from its command line to what a stand-in of the hub holds afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import _http
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

from est_cli.cli.entry import enter
from est_cli.evaluation.results import keep_zero_shot
from est_cli.models.pretrained import model_digest
from est_cli.push import hub as hub_side
from est_cli.push import main
from est_cli.push import publish as publishing
from est_cli.reporting.card import is_edited
from est_cli.storage.store import verify_folder, write_folder
from tests.lab.hub import READER, TOKEN, Hub, Repo, hub_here
from tests.lab.made_runs import make_run

Push = Callable[..., tuple[int, str, str]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_here() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
        monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)  # the library's, and ours
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def push(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Push:
    """push(*arguments): (exit code, stdout, stderr); no token is in either."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = enter("est-push", main, ["est-push", *arguments])
        out, err = capsys.readouterr()
        assert "CANARY" not in out + err
        return code, out, err

    return run


def a_run(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """A finished run with a model of 1 layer."""
    make_run(folder, seed=seed, **settings)
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=16, bos_token_id=0, eos_token_id=0))

    def fill(tmp: Path) -> None:
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
        save_file(weights, tmp / "model.safetensors", metadata={"format": "pt"})
        model.config.save_pretrained(tmp)

    write_folder(folder / "model", fill, {"step": 100})
    return folder


def metadata(card: bytes) -> dict[str, Any]:
    found = ModelCard(card.decode())
    assert found.data.eval_results, "the hub's own reader sees the results"
    return found.data.to_dict()


def test_a_run_goes_there_whole_and_its_card_says_what_it_is(hub: Hub, push: Push, tmp_path: Path) -> None:
    run = a_run(tmp_path / "runs" / "x")
    code, out, err = push("runs/x", "me/y", "--license", "apache-2.0")
    assert code == 0, err
    repo = hub.repos["me/y"]
    assert repo.private and len(repo.commits) == 1
    assert out.splitlines()[-1] == f"pushed    {hub.url}/me/y/commit/{repo.sha}"
    model = {path.name: path.read_bytes() for path in (run / "model").iterdir()}
    assert repo.files == {".gitattributes": b"", **model}
    assert {"README.md", "loss.png", "MANIFEST.json", "model.safetensors"} <= set(model)
    verify_folder(run / "model")
    head = metadata(model["README.md"])
    assert head["license"] == "apache-2.0" and head["library_name"] == "transformers" and "est" in head["tags"]
    text = model["README.md"].decode()
    count = sum(p.numel() for p in GPT2LMHeadModel.from_pretrained(run / "model").parameters())
    assert f"{count / 1e6:.1f} M parameters" in text
    assert "| FLOPs, convention blocks | 37.50 % |" in text and "| FLOPs, convention total | 30.00 % |" in text
    assert "| step time | 25.00 % |" in text and "9.0000" in text and str(tmp_path) not in text


def test_a_second_push_changes_nothing_and_an_evaluation_changes_the_card(hub: Hub, push: Push, tmp_path: Path) -> None:
    run = a_run(tmp_path / "x")
    assert push("x", "me/y")[0] == push("x", "me/y")[0] == 0
    assert len(hub.repos["me/y"].commits) == 1
    digest, other = model_digest(run / "model")[:8], "00000000"
    for name, value in ((f"runs/x/model@{digest}", 12.25), (f"runs/x/model@{other}", 99.5)):
        keep_zero_shot(run, {"checkpoint": name, "task": "perplexity", "settings_digest": "a", "perplexity": value})
    results = {"acc": 0.625, "acc_stderr": 0.5}
    entry = {"checkpoint": f"x@{digest}", "task": "lm_eval:arc", "settings_digest": "a", "results": results}
    keep_zero_shot(run, {**entry, "files": ["/CANARY/path"]})
    assert push("x", "me/y")[0] == 0
    card = hub.repos["me/y"].files["README.md"]
    assert b"12.2500" in card and b"| arc | acc | 0.6250 | zero-shot |" in card and b"99.5" not in card
    assert b"stderr" not in card and b"path" not in card.partition(b"## Training")[2]
    assert {r["dataset"]["name"] for r in metadata(card)["model-index"][0]["results"]} >= {"arc", "other text"}


def test_an_edited_card_goes_as_it_is(hub: Hub, push: Push, tmp_path: Path) -> None:
    run = a_run(tmp_path / "x")
    assert push("x", "me/y")[0] == 0
    card = run / "model" / "README.md"
    assert not is_edited(card.read_text())
    card.write_text(card.read_text().replace("# x", "# My own words"))
    assert is_edited(card.read_text())
    code, out, _ = push("x", "me/y")
    assert code == 0 and "was edited, and goes as it is" in out
    assert b"# My own words" in hub.repos["me/y"].files["README.md"] == card.read_bytes()
    code, _, err = push("x", "me/y", "--license", "mit")
    assert code == 2 and "est-push: error: --license: x/model/README.md was edited" in err


def test_a_dry_run_asks_nobody_and_writes_nothing(hub: Hub, push: Push, tmp_path: Path) -> None:
    run = a_run(tmp_path / "x")
    before = sorted(run.rglob("*"))
    code, out, _ = push("x", "me/y", "--dry-run")
    assert code == 0 and "would go to me/y (private" in out and "No licence was chosen" in out
    assert sorted(run.rglob("*")) == before and hub.asked == []


def test_another_model_is_not_overwritten_unless_asked(hub: Hub, push: Push, tmp_path: Path) -> None:
    a_run(tmp_path / "x")
    a_run(tmp_path / "z", seed=1)
    assert push("x", "me/y", "--public")[0] == 0
    hub.repos["me/y"].files["model-00001-of-2.safetensors"] = b"left over"
    before = dict(hub.repos["me/y"].files)
    code, _, err = push("z", "me/y")
    assert code == 2 and err.startswith("est-push: error: me/y: holds files of another model")
    assert hub.repos["me/y"].files == before and not hub.repos["me/y"].private
    assert push("z", "me/y", "--replace")[0] == 0
    files = hub.repos["me/y"].files
    assert files["model.safetensors"] == (tmp_path / "z/model/model.safetensors").read_bytes()
    assert "model-00001-of-2.safetensors" not in files and ".gitattributes" in files


def unfinished(run: Path) -> None:
    (run / "summary.json").unlink()


def damaged(run: Path) -> None:
    weights = run / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)


def lost(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"not_finite": ["weights"]}))


def odd_stages(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"stages": [{"stage": 1}]}))


def no_results(run: Path) -> None:
    (run / "zero_shot.json").write_text("[]")


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (unfinished, 4, "x: is not finished; resume=x continues it"),
        (damaged, 4, "x/model/model.safetensors: damaged"),
        (lost, 4, "x: has no model, for its weights is not finite"),
        (odd_stages, 4, "x: its files are not as est-train writes them"),
        (no_results, 3, "x/zero_shot.json: holds no results of est-eval"),
        (lambda run: shutil.rmtree(run / "model"), 4, "x/model: No such file or directory"),
        (lambda run: (run / "config.yaml").unlink(), 2, "x: is no run of est-train"),
    ],
)
def test_what_is_refused_before_anything_is_sent(
    hub: Hub, push: Push, tmp_path: Path, change: Callable[[Path], object], code: int, told: str
) -> None:
    change(a_run(tmp_path / "x"))
    found, out, err = push("x", "me/y")
    assert (found, out) == (code, "") and err.startswith(f"est-push: error: {told}") and err.count("\n") == 1
    assert hub.asked == []


@pytest.mark.parametrize("repo", ["y", "me/", "a/b/c", "me/y y", "me/y..z"])
def test_names_that_are_no_repository(hub: Hub, push: Push, tmp_path: Path, repo: str) -> None:
    a_run(tmp_path / "x")
    code, _, err = push("x", repo)
    assert code == 2 and err.startswith("est-push: error: command line: the repository is USER/NAME")


@pytest.mark.parametrize(
    ("token", "repo", "code", "told"),
    [
        ("hf_CANARYunknown", "me/y", 2, "HF_TOKEN: the hub does not know this login (401: Invalid username"),
        (READER, "me/y", 2, "me/y: this login may not write there (403: You don't have the rights"),
        (TOKEN, "you/y", 2, "you/y: this login may not write there (403: You don't have the rights"),
        ("", "me/y", 2, "HF_TOKEN: there is none, and no other login"),
    ],
)
def test_logins(
    hub: Hub, push: Push, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, repo: str, code: int, told: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    a_run(tmp_path / "x")
    found, _, err = push("x", repo)
    assert found == code and err.startswith(f"est-push: error: {told}") and err.count("\n") == 1
    assert hub.repos == {}


PLACES = ("/api/models/me/y", "/api/repos/create", "validate-yaml", "preupload", "/objects/batch", "/lfs/", "/commit/")
FAULTS: list[tuple[str, int | str]] = [(place, fault) for place in PLACES for fault in (503, "drop")]
FAULTS += [("/api/repos/create", "late"), ("/lfs/", "late"), ("/commit/", "late"), ("preupload", 429)]
FAULTS += [("validate-yaml", "page"), ("/commit/", "page")]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "loss_figure", lambda metrics, title: None)
    monkeypatch.setattr(publishing, "png_of", lambda figure: b"PNG")


@pytest.mark.parametrize(("place", "fault"), FAULTS)
@pytest.mark.usefixtures("quick")
def test_what_breaks_once_is_tried_again(hub: Hub, push: Push, tmp_path: Path, place: str, fault: int | str) -> None:
    a_run(tmp_path / "x")
    hub.faults.append((place, fault))
    code, _, err = push("x", "me/y")
    assert code == 0, err
    assert not hub.faults, "it has happened"
    files = {path.name: path.read_bytes() for path in (tmp_path / "x/model").iterdir()}
    assert hub.repos["me/y"].files == {".gitattributes": b"", **files}
    assert len(hub.repos["me/y"].commits) == 1


@pytest.mark.parametrize(
    ("place", "fault", "code", "told"),
    [
        ("/commit/", 503, 6, ": answers 503"),
        ("/lfs/", "drop", 6, ": the transfer broke"),
        ("preupload", 404, 2, "me/y: is not found (404"),
        ("/commit/", 403, 2, "me/y: this login may not write there (403"),
        ("/commit/", 400, 6, "me/y: the hub refuses it (400"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_what_stays_broken_is_told_in_one_line(
    hub: Hub, push: Push, tmp_path: Path, place: str, fault: int | str, code: int, told: str
) -> None:
    a_run(tmp_path / "x")
    hub.faults.extend([(place, fault)] * 100)
    found, out, err = push("x", "me/y")
    assert found == code and out == ""
    *_, last = err.splitlines()
    assert last.startswith("est-push: error: ") and told in last
    assert list(hub.repos["me/y"].files) == [".gitattributes"], "all or nothing"


def test_somebody_else_pushes_meanwhile(hub: Hub, push: Push, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit between the look and ours is seen: the second try finds another model and leaves it alone."""
    a_run(tmp_path / "x")
    hub.repos["me/y"] = Repo(private=True)
    look = hub_side._look

    def looked(*arguments: Any) -> Any:
        found = look(*arguments)
        hub.repos["me/y"].files["model.safetensors"] = b"theirs"
        hub.repos["me/y"].sha = "1" * 40
        return found

    monkeypatch.setattr(hub_side, "_look", looked)
    code, _, err = push("x", "me/y")
    assert code == 2 and "holds files of another model" in err
    assert hub.repos["me/y"].files["model.safetensors"] == b"theirs"


def test_a_hub_that_would_see_the_token_unencrypted(
    push: Push, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_run(tmp_path / "x")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.example.org")
    code, _, err = push("x", "me/y")
    assert code == 2 and err.startswith("est-push: error: HF_ENDPOINT: http://hub.example.org would be sent the token")


def test_a_run_of_before_there_were_cards_gets_one(hub: Hub, push: Push, tmp_path: Path) -> None:
    run = a_run(tmp_path / "x")
    assert not (run / "model" / "README.md").exists()
    assert push("x", "me/y")[0] == 0
    assert not is_edited((run / "model" / "README.md").read_text())
