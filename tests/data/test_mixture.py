import numpy as np
import pytest

from est_cli.data import BlockOrder
from est_cli.data.blocks import WINDOW, Mixture, interleaved, shares


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([7, 3], [700, 300]),
        ([1, 1, 1], [334, 333, 333]),
        ([0.5], [1000]),
        ([2, 1, 1e-3 * 3], [666, 333, 1]),
        ([999, 1], [999, 1]),
    ],
)
def test_shares_are_the_largest_remainders(weights: list[float], expected: list[int]) -> None:
    assert shares(weights).tolist() == expected


def test_every_window_holds_exactly_the_shares_in_another_order() -> None:
    mixture = Mixture([7, 3], seed=5)
    sources = [mixture.samples(WINDOW * window, WINDOW)[0] for window in range(4)]
    assert [np.bincount(of_window).tolist() for of_window in sources] == [[700, 300]] * 4
    assert len({of_window.tobytes() for of_window in sources}) == 4
    runs = np.diff(np.flatnonzero(np.diff(sources[0])))
    assert runs.max() < 30, "shuffled, and not one source after the other"


def test_numbers_within_a_source_count_up_without_gaps() -> None:
    sources, numbers = Mixture([5, 3, 2], seed=0).samples(0, 3 * WINDOW + 77)
    for source in range(3):
        assert numbers[sources == source].tolist() == list(range((sources == source).sum()))


def test_order_is_a_pure_function_of_the_sample_index() -> None:
    counts, weights = (40, 1700), (1.0, 2.0)
    whole = BlockOrder(counts, 3, weights).blocks(0, 2500)
    for first in (0, 7, 990, 1000, 1999, 2300):
        np.testing.assert_array_equal(BlockOrder(counts, 3, weights).blocks(first, 64), whole[first : first + 64])
    assert whole.tolist() != BlockOrder(counts, 4, weights).blocks(0, 2500).tolist()


def test_each_source_has_its_own_epochs() -> None:
    blocks = BlockOrder((40, 900), 0, (1.0, 3.0)).blocks(0, 4 * WINDOW)
    small, large = blocks[blocks < 40], blocks[blocks >= 40]
    assert (len(small), len(large)) == (1000, 3000)
    epochs = small.reshape(25, 40)
    assert [sorted(epoch) for epoch in epochs] == [list(range(40))] * 25
    assert len({epoch.tobytes() for epoch in epochs}) == 25
    assert [sorted(epoch) for epoch in large[:2700].reshape(3, 900)] == [list(range(40, 940))] * 3


def test_known_order() -> None:
    """A change of these numbers would break the resume of every run that was started before."""
    assert BlockOrder((8, 100), 0, (7.0, 3.0)).blocks(998, 8).tolist() == [0, 7, 6, 4, 11, 5, 3, 6]


def test_validation_is_a_fair_mixture_from_the_start_to_the_end() -> None:
    numbers = interleaved((1000, 60), (7.0, 3.0))
    assert len(set(numbers.tolist())) == len(numbers) == 200
    for length in (10, 50, 100, 200):
        assert (numbers[:length] >= 1000).sum() == 0.3 * length
    assert numbers[numbers < 1000].tolist() == list(range(140))
    assert numbers[numbers >= 1000].tolist() == list(range(1000, 1060))
