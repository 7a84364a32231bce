"""Folder names: the same for the same settings, different for different ones, and good folder names always."""

from __future__ import annotations

import pytest

from est_cli.cli.sweep.jobs import job_name, sweep_name
from est_cli.config import RunConfig
from est_cli.config.setting import settings_of
from est_cli.storage.run_dir import MAX_NAME, check_run_name

KNOWN = [*settings_of(RunConfig), "model", "scheduler", "stage"]


@pytest.mark.parametrize(
    ("swept", "name"),
    [
        ({"stage.t1": "0.1", "stage.t2": "0.4"}, "t1=0.1,t2=0.4"),
        ({"seed": "-1"}, "seed=-1"),
        ({"scheduler": "dense", "optim.lr": "1e-05"}, "scheduler=dense,lr=1e-05"),
        ({"optim.name": "muon"}, "optim.name=muon"),  # model, dataset and scheduler have a name too
        ({"model": "gpt2", "model.name_or_path": "null"}, "model=gpt2,name_or_path=null"),
    ],
)
def test_a_job_is_named_by_what_is_swept(swept: dict[str, str], name: str) -> None:
    assert job_name(swept, KNOWN) == name


def test_what_a_folder_name_cannot_hold_is_replaced_and_told_apart() -> None:
    values = [
        "a b",
        "a-b",
        "a  b",
        "'a b'",
        "a,b",
        "[a,b]",
        "a/b",
        "../a",
        "a=b",
        "é",
        "",
        "x" * 500,
        "x" * 501,
        "1",
        "-1",
    ]
    names = [job_name({"tokenizer": value}, KNOWN) for value in values]
    assert len(set(names)) == len(values)
    assert names[0].startswith("tokenizer=a-b-") and names[1] == "tokenizer=a-b"
    for name in names:
        check_run_name(name)
    assert job_name({"tokenizer": "a,seed=1", "seed": "2"}, KNOWN) != job_name(
        {"tokenizer": "a", "seed": "1,seed=2"}, KNOWN
    )


def test_a_sweep_is_named_by_what_it_is_not_by_its_values() -> None:
    name = sweep_name(["gpt2_tiny", "dense"], ["stage.t1", "seed"], KNOWN, ["optim.lr=1", "optim.beta1=0.5"])
    assert name.startswith("gpt2_tiny-dense-t1,seed-") and len(name) == len("gpt2_tiny-dense-t1,seed-") + 8
    assert name == sweep_name(["gpt2_tiny", "dense"], ["stage.t1", "seed"], KNOWN, ["optim.beta1=0.5", "optim.lr=1"])
    assert name != sweep_name(["gpt2_tiny", "dense"], ["stage.t1", "seed"], KNOWN, ["optim.lr=1"])
    assert sweep_name(["a", "b"], ["seed"], KNOWN, []) == "a-b-seed"
    assert sweep_name([], ["seed"], KNOWN, []) == "seed"


def test_names_of_sweeps_are_folder_names_too() -> None:
    keys = list(settings_of(RunConfig))
    names = [sweep_name(["some/model", "x"], keys[:number], KNOWN, []) for number in range(1, len(keys))]
    assert len(set(names)) == len(names) and max(map(len, names)) == MAX_NAME
    for name in names:
        check_run_name(name, "sweep")
