"""tracking.also: which names it takes, and what is said of a tracker that is not installed."""

from __future__ import annotations

import importlib.util

import pytest

from est_cli.common.errors import ConfigError
from est_cli.config.eval import check_eval
from tests.lab.commands import accepted, typed_in


def test_one_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tracking\.also: mlflow is not installed; pip install 'est-cli\[mlflow\]'"):
        accepted("tracking.also=[tensorboard,mlflow]")
    assert accepted("tracking.also=[tensorboard]").tracking.also == ["tensorboard"]


def test_names_that_nobody_knows() -> None:
    with pytest.raises(ConfigError, match="not one of tensorboard, mlflow, trackio"):
        accepted("tracking.also=[aim]")


def test_an_evaluation_has_no_such_trackers() -> None:
    config, _ = typed_in("eval", "checkpoint=x", "tracking.also=[tensorboard]")
    with pytest.raises(ConfigError, match=r"tracking\.also: is for a training; est-eval tells W&B"):
        check_eval(config)
