"""Names in W&B: a setting of ours above W&B's variable, that above our own; and which run an id means."""

from __future__ import annotations

from pathlib import Path

import pytest

from est_cli.common.errors import ConfigError
from est_cli.config import RunConfig, TrackingConfig, WandbMode
from est_cli.config.setting import refuse
from est_cli.config.tracking import tracking_problems
from est_cli.tracking.wandb_identity import Job, chosen_run_id, identity_of, requested_mode

TOLD = {
    "WANDB_PROJECT": "p", "WANDB_NAME": "n", "WANDB_TAGS": "a, b,", "WANDB_RUN_GROUP": "g", "WANDB_JOB_TYPE": "j",
    "WANDB_NOTES": "words", "WANDB_DIR": "/tmp/elsewhere", "WANDB_RUN_ID": "told-id_1",
}  # fmt: skip
OWN = {
    "project": "mine", "name": "mine", "tags": ["c"], "group": "mine", "job_type": "mine", "notes": "mine",
    "dir": "/tmp/mine",
}  # fmt: skip


def job(sweep: str | None = None, group: str | None = None) -> Job:
    return Job("run", "abcd1234", Path("outputs/run"), sweep, "train", group)


def test_without_a_word_the_names_are_ours() -> None:
    found = identity_of(TrackingConfig(), job(), {})
    assert (found.id, found.name, found.project, found.tags, found.group) == ("abcd1234", "run", "est", [], None)
    assert (found.job_type, found.notes, found.dir, found.entity) == ("train", None, "outputs/run", None)


def test_the_variables_of_wandb_are_heard() -> None:
    found = identity_of(TrackingConfig(), job(), TOLD)
    assert (found.project, found.name, found.tags, found.group, found.job_type, found.notes, found.dir) == (
        "p", "n", ["a", "b"], "g", "j", "words", "/tmp/elsewhere",
    )  # fmt: skip


def test_settings_stand_above_them() -> None:
    found = identity_of(TrackingConfig(**OWN), job(), TOLD)
    assert {key: getattr(found, key) for key in OWN} == OWN


def test_the_group_is_the_sweep_and_one_name_is_not_meant_for_all_its_runs() -> None:
    found = identity_of(TrackingConfig(), job(sweep="s"), {"WANDB_NAME": "n"})
    assert (found.group, found.name) == ("s", "run")
    assert identity_of(TrackingConfig(), job(sweep="s", group="of the model"), {}).group == "of the model"


@pytest.mark.parametrize(
    ("setting", "sweep", "environ", "expected"),
    [
        (None, None, {}, None),
        (None, None, TOLD, "told-id_1"),
        ("mine", None, TOLD, "mine"),
        (None, "s", TOLD, None),
        (None, "s", TOLD | {"WANDB_SWEEP_ID": "w"}, "told-id_1"),
        (None, None, {"WANDB_RUN_ID": "../../x"}, None),
    ],
)
def test_which_id(setting: str | None, sweep: str | None, environ: dict[str, str], expected: str | None) -> None:
    assert chosen_run_id(TrackingConfig(run_id=setting), sweep, environ) == expected


@pytest.mark.parametrize(
    ("settings", "sweep", "trains", "words"),
    [
        ({"run_id": "a/b"}, None, True, r"tracking.run_id: 'a/b' is no id"),
        ({"run_id": "a" * 65}, None, True, "is no id"),
        ({"run_id": "a"}, "s", True, "is of one run"),
        ({"log_model": True}, None, False, "tracking.log_model: only est-train"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], sweep: str | None, trains: bool, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        refuse(tracking_problems(TrackingConfig(**settings), sweep, trains))  # type: ignore[arg-type]
    assert not [*tracking_problems(RunConfig().tracking, sweep, trains)]


@pytest.mark.parametrize(
    ("setting", "environment", "expected"),
    [
        ("auto", None, "auto"), ("auto", "", "auto"), ("auto", "offline", "offline"), ("auto", "disabled", "off"),
        ("auto", "Online", "online"), ("auto", "dryrun", "offline"), ("off", "online", "off"),
        ("online", "offline", "online"), ("offline", "disabled", "offline"),
    ],
)  # fmt: skip
def test_wandb_mode_counts_where_nothing_is_set(setting: str, environment: str | None, expected: str) -> None:
    assert requested_mode(WandbMode(setting), environment) is WandbMode(expected)
