import math

import pytest
from scipy import stats

from est_cli.reporting.student_t import half_width, mean_interval, t_quantile


@pytest.mark.parametrize("degrees", [*range(1, 40), 100, 1001, 10_000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_quantiles_are_scipys(degrees: int, confidence: float) -> None:
    assert t_quantile(degrees, confidence) == pytest.approx(stats.t.ppf((1 + confidence) / 2, degrees), rel=1e-8)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_quantiles_of_one_and_two_degrees_in_closed_form(confidence: float) -> None:
    assert t_quantile(1, confidence) == pytest.approx(math.tan(math.pi / 2 * confidence), rel=1e-8)
    assert t_quantile(2, confidence) == pytest.approx(confidence * math.sqrt(2 / (1 - confidence**2)), rel=1e-8)


@pytest.mark.parametrize("values", [[1.0, 2.0], [0.3, -0.1, 0.7], [5.0, 5.1, 4.8, 5.3, 5.0]])
def test_intervals_are_scipys(values: list[float]) -> None:
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((expected.low, expected.high), rel=1e-8)


def test_one_value_has_no_interval() -> None:
    assert mean_interval([1.0]) is None


def test_by_hand() -> None:
    """4.302653 / sqrt(3): three values with a standard deviation of 1."""
    assert half_width(1.0, 3) == pytest.approx(2.484138, abs=1e-6)
