"""Loss spikes and fragile draws: made-up losses whose spikes are known, healthy ones that have none, what is told."""

from __future__ import annotations

import random
from typing import Any

import pytest

from est_cli.reporting.figures import MAX_NUMBERS, loss_figure
from est_cli.reporting.spikes import SHOWN, instabilities, largest, loss_spikes
from est_cli.tracking.metrics import Record
from tests.lab.fake_run import fake_metrics

NOISE = 0.1


def falling(*ups: tuple[int, float], steps: int = 200, stages: tuple[int, ...] = (60,), seed: int = 0) -> list[Record]:
    """From 9 down to 5 with noise and a drop or rise of 0.2 where a stage begins; `ups`: (step, added to its loss)."""
    rng, added = random.Random(seed), dict(ups)
    made: list[Record] = []
    for step in range(1, steps + 1):
        stage = 1 + sum(step > end for end in stages)
        loss = 5 + 4 * 0.97**step + 0.2 * (-1) ** stage + rng.gauss(0, NOISE) + added.get(step, 0.0)
        made.append({"step": step, "stage": stage, "loss": loss, "grad_norm": 1.0 + 10 * added.get(step, 0.0)})
    return made


def steps_of(metrics: list[Record]) -> list[int]:
    return [spike.step for spike in loss_spikes(metrics)]


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_has_none(seed: int) -> None:
    assert steps_of(falling(seed=seed)) == [] and instabilities(falling(seed=seed)) == []
    assert steps_of([record for record in fake_metrics(300, seed=seed) if "loss" in record]) == []
    assert steps_of([record for record in falling(seed=seed) if record["step"] % 10 == 0]) == []


def test_a_rise_at_a_transition_is_none() -> None:
    rises = [record | {"loss": record["loss"] + 2.0 * (record["stage"] == 2)} for record in falling()]
    assert steps_of(rises) == []


def test_a_step_that_ran_fewer_layers_is_none() -> None:
    """Where the number of layers is drawn."""
    made = falling()
    for record in made:
        few = record["step"] % 11 == 0
        record |= {"p_l": 0.25 if few else 0.5, "loss": record["loss"] + 2.0 * few}
    assert steps_of(made) == []
    made[131]["loss"] += 2.0
    made[131]["grad_norm"] = 20.0
    assert made[131]["p_l"] == 0.25 and steps_of(made) == [132]


def test_a_batch_of_odd_text_is_none() -> None:
    """Its loss is high and its gradient as usual."""
    made = falling((90, 2.0))
    assert steps_of(made) == [90]
    made[89]["grad_norm"] = 2.0
    assert steps_of(made) == []


def test_a_step_that_stands_out_is_one_and_knows_what_was_usual() -> None:
    [spike] = loss_spikes(falling((90, 1.5)))
    assert (spike.step, spike.grad_norm) == (90, 16.0)
    assert spike.usual == pytest.approx(5.5, abs=0.2) and spike.height == pytest.approx(1.5, abs=0.4)


def test_a_spike_soon_after_a_transition_is_seen() -> None:
    assert steps_of(falling((65, 3.0))) == [65]


def test_high_losses_close_to_each_other_are_one_spike_named_by_its_highest() -> None:
    assert steps_of(falling((90, 1.0), (92, 3.0), (94, 1.0), (120, 2.0))) == [92, 120]


def test_a_loss_that_stays_up_is_told_once() -> None:
    assert len(steps_of(falling(*((step, 3.0) for step in range(150, 201))))) == 1


@pytest.mark.parametrize("loss", [None, 5.0])
def test_losses_that_are_unknown_or_all_the_same_are_none(loss: Any) -> None:
    assert steps_of([record | {"loss": loss} for record in falling()]) == []


def test_the_line_names_the_largest_in_order() -> None:
    [line] = instabilities(falling((80, 2.0), (100, 1.0), (120, 3.0), (140, 4.0)))
    assert line.startswith(f"loss spikes: 4, the largest {SHOWN} at step 80 (7.") and "step 100" not in line
    assert line.index("step 80") < line.index("step 120") < line.index("step 140 (9.")
    assert "gradient norm 41.0" in line and "step 100" not in line
    [line] = instabilities(falling((80, 2.0)))
    assert line.startswith("loss spikes: 1 at step 80 (7.")


def evaluation(step: int, spread: float | None, reach: float | None) -> Record:
    return {"step": step, "val_loss": 6.0, "draw_spread": spread, "draw_range": reach}


def test_fragile_draws_are_told_with_the_worst_evaluation() -> None:
    healthy = [evaluation(20, 0.05, 0.2), evaluation(30, None, None), {"step": 40, "val_loss": 6.0}]
    assert instabilities(falling() + healthy) == []
    [line] = instabilities([*falling(), *healthy, evaluation(50, 0.56, 2.5), evaluation(60, 0.4, 1.5)])
    assert line.startswith(
        "fragile draws: at 2 of 3 evaluations, most at step 50, where the losses of the draws differ by up to 2.50 "
        "(standard deviation 0.56); "
    )


def test_the_picture_marks_spikes_and_says_how_high_those_are_that_lie_beyond_it() -> None:
    more = {"p_h": 0.5, "p_m": 0.5, "p_l": 0.5}
    metrics = [record | more for record in falling((80, 0.9), (100, 40.0))]
    [axes] = loss_figure(metrics, "a run").axes
    inside, beyond = (
        next(line for line in axes.lines if line.get_label() == label)
        for label in ("loss spike", "loss spike, beyond the picture")
    )
    assert list(inside.get_xdata()) == [80] and list(beyond.get_xdata()) == [100]
    top = axes.get_ylim()[1]
    assert inside.get_ydata()[0] == metrics[79]["loss"] and beyond.get_ydata()[0] == top < 30
    assert {text.get_text() for text in axes.texts} >= {f"{metrics[step - 1]['loss']:.1f}" for step in (80, 100)}


def test_beside_many_spikes_only_the_largest_have_their_losses() -> None:
    metrics = falling(*((step, step / 20) for step in range(80, 200, 10)))
    assert len(steps_of(metrics)) == 12
    assert [spike.step for spike in largest(loss_spikes(metrics), MAX_NUMBERS)] == [150, 160, 170, 180, 190]


def test_the_picture_shows_the_spread_over_draws_below_the_loss() -> None:
    metrics = fake_metrics(100, until=(40, 80), eval_every=10)
    for record in metrics:
        if "val_loss" in record and record["step"] <= 80:
            record |= {"draw_spread": record["step"] / 100, "draw_range": record["step"] / 25}
    above, below = loss_figure(metrics, "a run").axes
    curves = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in below.lines}
    steps = list(range(10, 90, 10))
    assert curves["draws: standard deviation"] == (steps, [step / 100 for step in steps])
    assert curves["draws: largest less smallest loss"] == (steps, [step / 25 for step in steps])
    assert above.get_xlim() == below.get_xlim()
