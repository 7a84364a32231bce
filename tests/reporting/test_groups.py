from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from est_cli.reporting.groups import group_runs, training_curve, validation_curve
from est_cli.reporting.runs import Axis, read_run
from tests.lab.made_runs import groups_in, make_run, make_seeds, val_loss


def test_runs_that_differ_in_the_seed_alone_form_a_group(tmp_path: Path) -> None:
    make_seeds(tmp_path / "a", "three_stage", [0.0, 0.1, 0.2])
    make_seeds(tmp_path / "b", "dense", [0.0, 0.1])
    groups = groups_in(tmp_path)
    assert {label: group.seeds for label, group in groups.items()} == {"dense": [0, 1], "three_stage": [0, 1, 2]}
    assert next(iter(groups)) == "dense", "the baseline comes first"


def test_settings_that_change_nothing_do_not_divide(tmp_path: Path) -> None:
    free = {"train__micro_batch": 2, "train__log_every": 1, "tracking__project": "other", "train__keep_last": 5}
    make_run(tmp_path / "a", seed=0)
    make_run(tmp_path / "b", seed=1, **free)
    (group,) = groups_in(tmp_path).values()
    assert group.seeds == [0, 1]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"optim__lr": 2e-3}, "lr=0.002"),
        ({"train__eval_tokens": 1024}, "eval_tokens=1024"),
        ({"steps": 90}, "steps=90"),
        ({"stage__t1": 0.3, "stage__p_l": 0.25}, "t1=0.3, p_l=0.25"),
        ({"stage__t1": 1}, "t1=1"),
        ({"dataset__files": ["/a/very/long/path/to/some/text.jsonl"]}, "files=['/a/very/long/path/to/…"),
    ],
)
def test_what_divides_is_in_the_labels(tmp_path: Path, settings: dict[str, object], told: str) -> None:
    make_run(tmp_path / "a", stage__t2=0.5)
    make_run(tmp_path / "b", **settings)
    assert f"three_stage, {told}" in groups_in(tmp_path) and len(groups_in(tmp_path)) == 2


def test_labels_tell_only_what_is_needed(tmp_path: Path) -> None:
    """The dense runs differ in length alone, and the two models in many numbers that their names stand for."""
    make_run(tmp_path / "a", "dense", model__hidden_size=64)
    make_run(tmp_path / "b", "dense", steps=50, model__hidden_size=64)
    make_run(tmp_path / "c", "three_stage", model__hidden_size=64)
    assert list(groups_in(tmp_path)) == ["dense, steps=100", "dense, steps=50", "three_stage"]
    make_run(tmp_path / "d", "three_stage", model__name="gpt2", model__hidden_size=768)
    name = "gpt2_tiny"
    expected = [f"{name}, dense, steps=100", f"{name}, dense, steps=50", f"{name}, three_stage", "gpt2, three_stage"]
    assert list(groups_in(tmp_path)) == expected


def test_labels_tell_three_settings_unless_more_are_needed(tmp_path: Path) -> None:
    sizes = ("model__hidden_size", "model__num_layers", "model__num_heads", "model__mlp_size")
    for index in (1, 2):
        make_run(tmp_path / str(index), **dict.fromkeys(sizes, index))
    told = "hidden_size={0}, num_layers={0}, num_heads={0}"
    assert list(groups_in(tmp_path)) == [f"three_stage, {told.format(1)}", f"three_stage, {told.format(2)}"]
    make_run(tmp_path / "3", **dict.fromkeys(sizes, 2), seed=3, stage__t1=0.3)
    longer = [f"three_stage, {told.format(n)}, mlp_size={n}, t1={t1}" for n, t1 in ((1, 0.25), (2, 0.25), (2, 0.3))]
    assert list(groups_in(tmp_path)) == longer


def test_one_and_one_point_nought_are_two_boundaries(tmp_path: Path) -> None:
    """A step and the end of the run."""
    make_run(tmp_path / "a", stage__t2=1)
    make_run(tmp_path / "b", stage__t2=1.0)
    assert list(groups_in(tmp_path)) == ["three_stage, t2=1 #1", "three_stage, t2=1 #2"]


def test_data_count_by_their_hash_where_it_is_known(tmp_path: Path) -> None:
    make_run(tmp_path / "a", seed=0, dataset__files=["a/x.txt"], summary={"data_hash": "d"})
    make_run(tmp_path / "b", seed=1, dataset__files=["b/x.txt"], summary={"data_hash": "d"})
    assert [group.seeds for group in groups_in(tmp_path).values()] == [[0, 1]]
    make_run(tmp_path / "c", seed=2, dataset__files=["b/x.txt"], summary={"data_hash": "e"})
    assert [group.seeds for group in groups_in(tmp_path).values()] == [[0, 1], [2]]


def test_a_seed_counts_once_and_only_finished(tmp_path: Path) -> None:
    make_run(tmp_path / "a", seed=0, shift=0.5)
    make_run(tmp_path / "b", seed=0, shift=0.7)
    make_run(tmp_path / "c", seed=1, done=30)
    (group,) = groups_in(tmp_path).values()
    assert [run.name for run in group.counted] == [str(tmp_path / "a")] and len(group.runs) == 3
    assert group.drawn == group.counted


def test_while_nothing_is_finished_what_there_is_is_drawn(tmp_path: Path) -> None:
    make_run(tmp_path / "a", done=30)
    (group,) = groups_in(tmp_path).values()
    assert group.counted == [] and len(group.drawn) == 1
    curve = validation_curve(group, Axis.steps)
    assert curve is not None and curve.x.tolist() == [10, 20, 30]


def test_a_curve_is_the_mean_with_scipys_interval(tmp_path: Path) -> None:
    shifts = [0.0, 0.3, 0.4]
    make_seeds(tmp_path, "three_stage", shifts)
    (group,) = groups_in(tmp_path).values()
    curve = validation_curve(group, Axis.flops_total)
    expected = stats.ttest_1samp(shifts, 0.0).confidence_interval(0.95)
    assert curve is not None and curve.seeds == 3
    assert curve.x[[0, 4, -1]] == pytest.approx([400, 2000, 7000])
    assert curve.mean[-1] == pytest.approx(val_loss(100) + np.mean(shifts))
    assert (curve.low[-1], curve.high[-1]) == pytest.approx(
        (val_loss(100) + expected.low, val_loss(100) + expected.high)
    )


def test_the_band_of_two_seeds_is_their_range_and_of_one_nothing(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / str(seed), seed=seed, shift=shift)) for seed, shift in enumerate([0.0, 0.4])]
    for count, width in ((2, 0.4), (1, 0.0)):
        (group,) = group_runs(runs[:count])
        curve = validation_curve(group, Axis.steps)
        assert curve is not None and curve.high - curve.low == pytest.approx(width)


def test_seeds_meet_on_common_steps(tmp_path: Path) -> None:
    make_run(tmp_path / "a", seed=0, eval_every=10, log_every=2)
    make_run(tmp_path / "b", seed=1, eval_every=25, log_every=3)
    (group,) = groups_in(tmp_path).values()
    validation, training = validation_curve(group, Axis.steps), training_curve(group, Axis.steps)
    assert validation is not None and training is not None
    assert validation.x.tolist() == [50, 100]
    assert set(training.x) == {*range(6, 101, 6), 50, 51, 100}


def test_time_is_the_mean_of_the_seeds(tmp_path: Path) -> None:
    fast, slow = make_run(tmp_path / "a", seed=0), make_run(tmp_path / "b", seed=1)
    text = (slow / "metrics.jsonl").read_text()
    (slow / "metrics.jsonl").write_text(text.replace('"step_s": 1.0', '"step_s": 3.0'))
    (group,) = group_runs(map(read_run, (fast, slow)))
    curve = validation_curve(group, Axis.seconds)
    assert curve is not None and curve.x[-1] == pytest.approx((75 + 175) / 2)


def test_no_curve_of_no_records(tmp_path: Path) -> None:
    make_run(tmp_path / "a", done=5)
    (group,) = groups_in(tmp_path).values()
    assert validation_curve(group, Axis.steps) is None
    curve = validation_curve(
        groups_in(make_run(tmp_path / "x" / "b", done=20).parent)["three_stage"], Axis.flops_blocks
    )
    assert curve is not None and not len(curve.x)


def test_tokens_of_batches_by_stage(tmp_path: Path) -> None:
    ramp = {"train__tokens_per_step": [1024, 2048, 4096], "train__seq_len": 256, "stage__p_m": 0.5, "stage__p_l": 0.5}
    run = read_run(make_run(tmp_path / "a", **ramp))
    assert run.position(Axis.tokens, np.array([0, 25, 26, 50, 100])).tolist() == [
        *(0, 25 * 1024, 25 * 1024 + 2048, 25 * 3072, 25 * 3072 + 50 * 4096)
    ]
