import math
from dataclasses import replace

import pytest

from est_cli.evaluation.glue import TASKS
from est_cli.evaluation.outcomes import (
    AVERAGE_PRESENT,
    GLUE_AVERAGE,
    Constant,
    Difference,
    Spread,
    compare,
    constant_predictions,
    score_numbers,
    spread,
    summarise,
)
from tests.lab.glue_files import nine, record


def test_spread() -> None:
    assert spread([1.0, 2.0, 4.5]) == Spread(2.5, pytest.approx(math.sqrt((2.25 + 0.25 + 4.0) / 2)), 3)
    assert spread([0.25]) == Spread(0.25, None, 1)


def test_a_summary_per_checkpoint() -> None:
    records = [record("b", "mrpc", 0, 0.9, 0.7), record("b", "mrpc", 1, 0.8, 0.6), record("a", "cola", 0, 0.1)]
    b, a = summarise(records)
    assert (b.checkpoint, a.checkpoint) == ("b", "a")
    assert b.tasks == {"mrpc": Spread(pytest.approx(0.75), pytest.approx(math.sqrt(0.005)), 2)}
    assert b.metrics["mrpc"]["dev.f1"].mean == pytest.approx(0.85)
    assert b.metrics["mrpc"]["dev.accuracy"].mean == pytest.approx(0.65)
    assert a.tasks == {"cola": Spread(0.1, None, 1)}


def test_the_average_is_of_the_tasks_and_its_spread_of_the_seeds() -> None:
    """Averages of seed 0 and 1: 0.4 and 0.5; every task counts the same, however many metrics it has."""
    records = [record("a", "cola", 0, 0.0), record("a", "cola", 1, 0.4)]
    records += [record("a", "mrpc", 1, 0.7, 0.5), record("a", "mrpc", 0, 0.9, 0.7)]
    (found,) = summarise(records)
    assert found.average_over_tasks_present == Spread(pytest.approx(0.45), pytest.approx(math.sqrt(0.005)), 2)
    assert found.glue_average is None


def test_unequal_seeds_have_no_spread_of_averages() -> None:
    (found,) = summarise([record("a", "cola", 0, 0.0), record("a", "cola", 1, 0.4), record("a", "rte", 0, 0.6)])
    assert found.average_over_tasks_present == Spread(pytest.approx(0.4), None, 1)


def test_the_glue_average_needs_all_nine_and_both_halves_of_mnli() -> None:
    values = dict(zip(TASKS, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), strict=True))
    records = nine("a", [0, 1], values)
    (found,) = summarise(records)
    assert found.glue_average == found.average_over_tasks_present == Spread(pytest.approx(0.5), pytest.approx(0.0), 2)
    for task in TASKS:
        assert summarise([record for record in records if record.task != task])[0].glue_average is None
    half = [replace(found, scores={"dev_matched": {"accuracy": 0.5}}) for found in records if found.task == "mnli"]
    assert summarise([*(found for found in records if found.task != "mnli"), *half])[0].glue_average is None


def test_one_record_per_seed() -> None:
    with pytest.raises(AssertionError):
        summarise([record("a", "cola", 0, 0.0), record("a", "cola", 0, 0.1)])


def test_paired_differences() -> None:
    """0.1, 0.2 and 0.3: mean 0.2, sd 0.1, and t of 2 degrees of freedom is 4.302653: 0.2 +- 0.248414."""
    model = [record("m", "rte", seed, 0.5 + 0.1 * (seed + 1)) for seed in range(3)]
    baseline = [record("b", "rte", seed, 0.5) for seed in (2, 0, 1)]
    (found,) = compare(model, baseline)
    assert found.mean == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((-0.048414, 0.448414), abs=1e-6)
    assert (found.n, found.significant) == (3, False)


def test_pairs_tell_more_than_means() -> None:
    """Seeds spread by 0.3, the difference by 0.01: 0.02 +- 4.302653 * 0.01 / sqrt(3) does not reach 0."""
    gains = {0: 0.01, 1: 0.02, 2: 0.03}
    model = [record("m", "rte", seed, 0.2 + 0.3 * seed + gain) for seed, gain in gains.items()]
    baseline = [record("b", "rte", seed, 0.2 + 0.3 * seed) for seed in gains]
    (found,) = compare(model, baseline)
    assert found.significant is False and found.low == pytest.approx(0.02 - 0.0248414, abs=1e-6)
    (found,) = compare([replace(one, score=one.score + 0.01) for one in model], baseline)
    assert found.significant is True


def test_one_pair_claims_nothing() -> None:
    (found,) = compare([record("m", "rte", 0, 0.6)], [record("b", "rte", 0, 0.5)])
    assert found == Difference("rte", pytest.approx(0.1), None, None, 1, None)


def test_the_same_twice_differs_by_nothing() -> None:
    records = nine("m", [0, 1, 2])
    for found in compare(records, [replace(one, checkpoint="b") for one in records]):
        assert (found.mean, found.low, found.high, found.significant) == (0.0, 0.0, 0.0, False)


def test_rounding_errors_are_no_difference() -> None:
    """0.1 + 0.2 is not 0.3."""
    model = [record("m", "rte", seed, 0.1 + 0.2) for seed in range(3)]
    (found,) = compare(model, [record("b", "rte", seed, 0.3) for seed in range(3)])
    assert found.significant is False


@pytest.mark.parametrize("other", [{"settings": "other"}, {"data": "other"}])
def test_only_equal_settings_and_data_are_compared(other: dict[str, str]) -> None:
    baseline = [record("b", "rte", 0, 0.5, **other), record("b", "rte", 1, 0.5)]
    (found,) = compare([record("m", "rte", seed, 0.6) for seed in range(2)], baseline)
    assert found.n == 1


def test_the_average_is_compared_where_all_tasks_are() -> None:
    model = [*nine("m", [0, 1], {"rte": 0.95}), record("m", "rte", 7, 0.9)]
    baseline = nine("b", [0, 1])
    *tasks, average = compare(model, baseline)
    assert [found.task for found in tasks] == list(TASKS)
    assert (average.task, average.n, average.mean) == (GLUE_AVERAGE, 2, pytest.approx(0.05))
    *_, average = compare(model[2:], baseline[2:])
    assert average.task == AVERAGE_PRESENT
    assert [found.task for found in compare(model, baseline[2:])] == list(TASKS)[1:]
    assert [found.task for found in compare(model[2:], baseline)] == list(TASKS)[1:]
    assert compare(model, []) == []


def test_predictions_that_are_all_the_same() -> None:
    labels = [1.0, 0.0, 1.0, 1.0]
    assert constant_predictions(TASKS["mrpc"], [1.0] * 4, labels) == Constant("equivalent", 0.75)
    assert constant_predictions(TASKS["mrpc"], [1.0, 1.0, 1.0, 0.0], labels) is None
    assert constant_predictions(TASKS["stsb"], [2.345] * 2, [5.0, 2.345]) == Constant("2.35", 0.5)


def test_a_sweep_knows_of_how_many_it_is_so() -> None:
    one = replace(record("m", "rte", 0, 0.5), constant={"dev": Constant("entailment", 0.5)})
    other = replace(record("m", "rte", 1, 0.6), constant={})
    assert score_numbers([one, other], "m", None)["one_class"] == 1
    assert "one_class" not in score_numbers([other], "m", None)
