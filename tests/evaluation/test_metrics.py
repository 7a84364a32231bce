import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from est_cli.common.errors import NumericsError
from est_cli.evaluation.finetune import score, task_score
from est_cli.evaluation.glue import TASKS


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    ("name", "predictions", "labels", "expected"),
    [
        # true positives 3, false negatives 1, false positives 1, true negatives 1: (3 - 1) / sqrt(4 * 4 * 2 * 2)
        ("cola", [1, 0, 1, 0, 1, 1], [1, 1, 1, 0, 0, 1], {"mcc": 0.25}),
        ("cola", [0, 1, 0, 1], [1, 0, 1, 0], {"mcc": -1.0}),
        ("cola", [1, 1, 1, 1], [1, 0, 1, 0], {"mcc": 0.0}),
        ("cola", [1, 0, 1, 0], [1, 1, 1, 1], {"mcc": 0.0}),
        ("sst2", [1, 0, 1, 0, 1], [1, 1, 1, 0, 0], {"accuracy": 0.6}),
        ("sst2", [1, 1, 1, 1], [1, 0, 0, 0], {"accuracy": 0.25}),
        # 2 * 3 / (2 * 3 + 1 + 1)
        ("mrpc", [1, 0, 1, 0, 1, 1], [1, 1, 1, 0, 0, 1], {"f1": 0.75, "accuracy": 4 / 6}),
        ("mrpc", [0, 0, 0], [1, 0, 1], {"f1": 0.0, "accuracy": 1 / 3}),
        ("mrpc", [0, 0], [0, 0], {"f1": 0.0, "accuracy": 1.0}),
        ("mrpc", [1, 1, 1, 1], [1, 1, 1, 0], {"f1": 6 / 7, "accuracy": 0.75}),
        # the duplicate, class 1, is the positive one: 2 * 1 / (2 * 1 + 0 + 1), of class 0 it would be 6 / 7
        ("qqp", [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], {"f1": 2 / 3, "accuracy": 0.8}),
        # deviations -1.5, -0.5, 0.5, 1.5 and -3.5, -2.5, 0.5, 5.5: 15 / sqrt(5 * 49)
        ("stsb", [0.0, 1.0, 4.0, 9.0], [0.0, 1.0, 2.0, 3.0], {"pearson": 15 / math.sqrt(245), "spearman": 1.0}),
        # ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4: 4.5 / sqrt(5 * 4.5); values: 3.5 / sqrt(5 * 2.75)
        ("stsb", [1, 1, 2, 3], [0, 1, 2, 3], {"pearson": 3.5 / math.sqrt(13.75), "spearman": 4.5 / math.sqrt(22.5)}),
        ("stsb", [2.5, 2.5, 2.5], [0.0, 1.0, 5.0], {"pearson": 0.0, "spearman": 0.0}),
        ("stsb", [0.1, 0.2, 0.3], [5.0, 5.0, 5.0], {"pearson": 0.0, "spearman": 0.0}),
        ("mnli", [0, 2, 2, 1], [0, 1, 2, 2], {"accuracy": 0.5}),
        ("mnli", [1, 1, 1], [0, 1, 2], {"accuracy": 1 / 3}),
        ("qnli", [0, 1, 1], [0, 1, 0], {"accuracy": 2 / 3}),
        ("rte", [0, 0, 0, 0], [0, 1, 0, 1], {"accuracy": 0.5}),
        ("wnli", [1, 0], [0, 1], {"accuracy": 0.0}),
    ],
)
def test_by_hand(name: str, predictions: list[float], labels: list[float], expected: dict[str, float]) -> None:
    found = score(TASKS[name], np.array(predictions), np.array(labels, dtype=np.float64))
    assert found == pytest.approx(expected, abs=1e-12)
    assert list(found) == list(TASKS[name].metrics)


def test_float32_predictions_of_a_collapsed_regression() -> None:
    labels = np.linspace(0, 5, 1500)
    assert score(TASKS["stsb"], np.full(1500, 2.7131, np.float32), labels) == {"pearson": 0.0, "spearman": 0.0}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_predictions_that_are_not_finite(value: float) -> None:
    with pytest.raises(NumericsError, match="stsb: predictions are not finite; try a lower"):
        score(TASKS["stsb"], np.array([1.0, value]), np.array([1.0, 2.0]))


def test_what_is_no_class_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="class ids"):
        score(TASKS["rte"], np.array([0, 2]), np.array([0, 1]))


def test_the_one_number_of_a_task() -> None:
    assert task_score(TASKS["mrpc"], {"dev": {"f1": 0.9, "accuracy": 0.7}}) == pytest.approx(0.8)
    halves = {"dev_matched": {"accuracy": 0.5}, "dev_mismatched": {"accuracy": 0.7}}
    assert task_score(TASKS["mnli"], halves) == pytest.approx(0.6)
    assert task_score(TASKS["mnli"], {"dev_matched": {"accuracy": 0.5}}) == 0.5
    assert task_score(TASKS["cola"], {"dev": {"mcc": -0.1}}) == -0.1
