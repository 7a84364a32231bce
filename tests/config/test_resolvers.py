from __future__ import annotations

import re

import pytest

from est_cli.config import RunConfig
from est_cli.config.compose import composed
from tests.lab.commands import told


def name_of(text: str) -> str | None:
    return composed("train", RunConfig, [f"run_name={text}"], None).config.run_name


def test_a_date_and_harmless_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    monkeypatch.setenv("USER", "ada")
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    name = name_of("a-${oc.env:SLURM_JOB_ID}-${oc.env:USER}-${oc.env:SLURM_ARRAY_TASK_ID,0}-${now:%Y-%m-%d}")
    assert name is not None and re.fullmatch(r"a-71-ada-0-20\d\d-\d\d-\d\d", name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${oc.env:WANDB_API_KEY}", "run_name: ${oc.env:WANDB_API_KEY} is not read"),
        ("${oc.env:USERS}", "run_name: ${oc.env:USERS} is not read"),
        ("${oc.env:SLURM_X}", "run_name: SLURM_X is not set here; ${oc.env:SLURM_X,DEFAULT} says what else to take"),
        ("${oc.decode:1}", "run_name: resolvers are not allowed"),
    ],
)
def test_what_is_not_read(capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    assert told(capsys, f"run_name={text}").startswith(message)


def test_no_clock_where_each_process_has_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert told(capsys, "run_name=${now:%S}").startswith("run_name: every process would read its own clock")


def test_other_settings_have_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "tokenizer=${now:%Y}").startswith("tokenizer: resolvers are not allowed")
