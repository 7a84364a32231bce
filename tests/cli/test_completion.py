from __future__ import annotations

from pathlib import Path

import pytest

from est_cli.cli.completion import offered
from est_cli.cli.entry import enter
from est_cli.config import RunConfig
from est_cli.train import main


def words(line: str) -> list[str]:
    return offered(RunConfig, {"COMP_LINE": line, "COMP_POINT": str(len(line))})


def test_keys_are_offered_up_to_the_dot() -> None:
    assert words("est-train mo") == ["model.", "model="]
    assert words("est-train seed=1 stage.t") == ["stage.t1=", "stage.t2=", "stage.theta="]
    assert words("est-train --c") == ["--cfg", "--config-dir"]


def test_options_and_choices() -> None:
    assert words("est-train model=gpt2_") == ["model=gpt2_medium", "model=gpt2_tiny"]
    assert words("est-train -m model=gpt2,llama_t") == ["model=gpt2,llama_tiny"]
    assert words("est-train train.precision=b") == ["train.precision=bf16"]
    assert words("est-train nothing=") == []


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "t1=0.1").mkdir(parents=True)
    assert words("est-train resume=outputs/") == ["resume=outputs/t1=0.1/"]
    assert words("est-train --config-dir ou") == ["outputs/"]


def test_the_words_before_the_cursor_count() -> None:
    line = "est-train model=gpt2_ seed=1"
    assert offered(RunConfig, {"COMP_LINE": line, "COMP_POINT": "21"}) == words("est-train model=gpt2_")


def test_the_command_answers_without_hydra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COMP_LINE", "est-train mo")
    monkeypatch.setattr("est_cli.cli.dispatch.dispatch", lambda *_: pytest.fail("composed"))
    assert enter("est-train", main, ["est-train", "-sc", "query=bash"]) == 0
    assert capsys.readouterr().out == "model.\nmodel=\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_hydra_installs_it(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert enter("est-train", main, ["est-train", "-sc", f"install={shell}"]) == 0
    assert f"-sc query={'bash' if shell == 'zsh' else shell}" in capfd.readouterr().out


def test_groups_are_offered_behind_help() -> None:
    assert words("est-train --help t") == ["train", "tracking"]
    assert words("est-train -h s") == ["scheduler", "stage", "sampling"]
