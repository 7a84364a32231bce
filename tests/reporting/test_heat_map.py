from pathlib import Path

import numpy as np
import pytest

from est_cli.reporting.heat_map import Noise, heat_map_figure, heat_maps, page_panels
from tests.lab.made_runs import groups_in, make_run, val_loss


def make_sweep(root: Path) -> None:
    """Two seeds at (0.1, 0.5), one at (0.2, 0.5) and (0.1, step 70); nothing at (0.2, step 70)."""
    make_run(root / "a", seed=0, shift=0.1, stage__t1=0.1, stage__t2=0.5)
    make_run(root / "b", seed=1, shift=0.3, stage__t1=0.1, stage__t2=0.5)
    make_run(root / "c", shift=0.5, stage__t1=0.2, stage__t2=0.5, summary={"flops_saved_pct_blocks": 41.0})
    make_run(root / "d", shift=0.7, stage__t1=0.1, stage__t2=70)
    make_run(root / "e", stage__t1=0.2, stage__t2=70, done=50)
    make_run(root / "f", "dense")


def test_the_grid_by_hand(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    (found,) = heat_maps(list(groups_in(tmp_path).values()))
    assert (found.t1s, found.t2s, found.steps) == ([0.1, 0.2], [0.5, 70], 100)
    loss = [[val_loss(100, 0.2), val_loss(100, 0.5)], [val_loss(100, 0.7), np.nan]]
    assert found.grid("loss") == pytest.approx(np.array(loss), nan_ok=True)
    assert found.grid("saved_pct_blocks") == pytest.approx(np.array([[37.5, 41.0], [37.5, np.nan]]), nan_ok=True)
    assert found.grid("n") == pytest.approx(np.array([[2, 1], [1, np.nan]]), nan_ok=True)


def test_every_cell_holds_its_number(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    (found,) = heat_maps(list(groups_in(tmp_path).values()))
    left, right = heat_map_figure(found).axes[:2]
    told = {(text.get_position(), text.get_text()) for text in left.texts}
    assert told == {((0, 0), "9.200"), ((1, 0), "9.500"), ((0, 1), "9.700"), ((1, 1), "-")}
    assert {text.get_text() for text in right.texts} == {"37.5", "41.0", "-"}
    assert [label.get_text() for label in left.get_xticklabels()] == ["0.1", "0.2"]
    assert [label.get_text() for label in left.get_yticklabels()] == ["0.5", "step 70"]


def test_boundaries_stand_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for index, t2 in enumerate((70, 0.9, 0.5, 60)):
        make_run(tmp_path / str(index), stage__t2=t2)
    (found,) = heat_maps(list(groups_in(tmp_path).values()))
    assert found.t2s == [0.5, 60, 70, 0.9]


def test_two_sweeps_are_two_maps_and_two_points_none(tmp_path: Path) -> None:
    for t1 in (0.1, 0.2, 0.3):
        make_run(tmp_path / f"a{t1}", stage__t1=t1)
        make_run(tmp_path / f"b{t1}", stage__t1=t1, optim__lr=0.5)
    assert [len(found.cells) for found in heat_maps(list(groups_in(tmp_path).values()))] == [3, 3]
    few = tmp_path / "few"
    make_run(few / "a", stage__t1=0.1)
    make_run(few / "b", stage__t1=0.2)
    assert heat_maps(list(groups_in(few).values())) == []


def test_numbers_can_be_read_on_their_colours(tmp_path: Path) -> None:
    for index, t1 in enumerate((0.1, 0.2, 0.3, 0.4, 0.5)):
        make_run(tmp_path / str(index), shift=0.2 * index, stage__t1=t1, stage__t2=0.6)
    (found,) = heat_maps(list(groups_in(tmp_path).values()))
    axes = heat_map_figure(found).axes[0]
    for text, color in zip(axes.texts, axes.images[0].to_rgba(found.grid("loss"))[0], strict=True):
        brightness = color[:3] @ [0.299, 0.587, 0.114]
        assert abs(brightness - (1.0 if text.get_color() == "white" else 0.0)) > 0.45


def sweep_of(root: Path, shifts: list[list[float]]) -> None:
    """A cell for each list, a seed for each shift in it."""
    for index, of_cell in enumerate(shifts):
        for seed, shift in enumerate(of_cell):
            make_run(root / f"{index}-{seed}", seed=seed, shift=shift, stage__t1=0.1 * (index + 1), stage__t2=0.5)


def test_colours_cover_at_least_what_seeds_differ_by(tmp_path: Path) -> None:
    """Means 9.000, 9.002, 9.004; the pooled standard deviation is that of two seeds 0.06 apart."""
    sweep_of(tmp_path, [[-0.03, 0.03], [-0.028, 0.032], [-0.026, 0.034]])
    (found,) = heat_maps(list(groups_in(tmp_path).values()))
    sd = 0.06 / 2**0.5
    assert found.noise == Noise(pytest.approx(sd), 3, True)
    low, high = found.limits
    assert high - low == pytest.approx(4 * sd / 2**0.5) and (low + high) / 2 == pytest.approx(9.002)
    assert found.told_apart is False and "within seed noise" in found.in_words() and "0.0424" in found.in_words()
    image = heat_map_figure(found).axes[0].images[0]
    assert image.get_clim() == pytest.approx((low, high))
    fills = [cell["fill"] for cell in page_panels(found)[0]["rows"][0]]
    apart = [abs(int(fills[0][i : i + 2], 16) - int(fills[2][i : i + 2], 16)) for i in (1, 3, 5)]
    assert max(apart) <= 12, "0.004 nats of 0.12 are no other colour"


def test_cells_that_differ_by_more_than_seeds_have_all_colours(tmp_path: Path) -> None:
    sweep_of(tmp_path, [[0.0, 0.01], [0.5, 0.51], [1.0, 1.01]])
    (found,) = heat_maps(list(groups_in(tmp_path).values()))
    assert found.limits == pytest.approx((9.005, 10.005)) and found.told_apart


def test_of_one_seed_each_the_noise_is_that_of_other_groups_or_not_known(tmp_path: Path) -> None:
    sweep_of(tmp_path, [[0.0], [0.002], [0.004]])
    (found,) = heat_maps(list(groups_in(tmp_path).values()))
    low, high = found.limits
    assert found.noise is None and high - low == pytest.approx(0.01 * 9.002) and "not known" in found.in_words()
    for seed, shift in enumerate((0.0, 0.2)):
        make_run(tmp_path / f"dense-{seed}", "dense", seed=seed, shift=shift)
    (found,) = heat_maps(list(groups_in(tmp_path).values()))
    assert found.noise == Noise(pytest.approx(0.2 / 2**0.5), 1, False) and found.told_apart is False
