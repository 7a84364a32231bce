"""What is said of a path that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from est_cli.common.nearby import looks_like_a_path, no_folder


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mylama", "there is no folder mylama; did you mean myllama?"),
        ("runs/baselin", "there is no folder runs/baselin; did you mean runs/baseline?"),
        ("run/baseline", "there is no folder run/baseline; run is not there either; did you mean runs?"),
        ("~/models", "there is no folder ~/models; no shell replaces a ~ behind a =: write $HOME"),
        ("something", "there is no folder something"),
        ("else/where", "there is no folder else/where"),
        ("/nowhere/at/all", "there is no folder /nowhere/at/all"),
        ("", "there is no folder "),
    ],
)
def test_the_nearest_name_is_offered(name: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "baseline").mkdir(parents=True)
    (tmp_path / "myllama").mkdir()
    monkeypatch.chdir(tmp_path)
    assert no_folder(name) == told


def test_what_cannot_be_on_the_hub_is_a_path() -> None:
    assert all(map(looks_like_a_path, ("./a", "/a", "~/a", "outputs/a", "../a")))
    assert not any(map(looks_like_a_path, ("gpt2", "owner/name")))
