from pathlib import Path

import pytest
from scipy import stats

from est_cli.reporting.claim import Claim, Comparison, Difference, claims_of, difference_of
from est_cli.reporting.runs import Axis
from tests.lab.made_runs import groups_in, make_run, make_seeds, val_loss

MINE, OTHERS = [9.30, 9.25, 9.41], [9.0, 9.1, 9.05]


def claim_in(root: Path) -> Claim:
    (claim,) = claims_of(list(groups_in(root).values()))
    return claim


def lines(claim: Claim) -> dict[tuple[str, str], Comparison]:
    return {(line.measure, line.against): line for line in claim.comparisons}


def test_paired_differences_are_scipys() -> None:
    found = difference_of(dict(enumerate(MINE)), dict(enumerate(OTHERS)))
    expected = stats.ttest_rel(MINE, OTHERS).confidence_interval(0.95)
    assert found is not None and found.interval is not None and found.paired
    assert found.interval == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert (found.mean, found.n) == (pytest.approx(0.27), 3)


def test_only_common_seeds_are_paired() -> None:
    found = difference_of({0: 9.0, 1: 9.1, 7: 99.0}, {1: 9.0, 0: 8.8, 3: 1.0})
    assert found is not None and found.mean == pytest.approx(0.15) and found.n == 2


def test_without_a_common_seed_welch_with_whole_degrees_of_freedom() -> None:
    others = [9.0, 9.1, 9.05, 8.7]
    found = difference_of(dict(enumerate(MINE)), dict(enumerate(others, start=10)))
    test = stats.ttest_ind(MINE, others, equal_var=False)
    error = (test.confidence_interval(0.95).high - found.mean) / stats.t.ppf(0.975, test.df)
    half = stats.t.ppf(0.975, int(test.df)) * error
    assert not found.paired and found.n == 3 and 4 < test.df < 5
    assert found.interval == pytest.approx((found.mean - half, found.mean + half), rel=1e-9)


def test_one_seed_against_others_has_no_interval() -> None:
    found = difference_of({0: 9.0}, {1: 8.0, 2: 8.5})
    assert found is not None and (found.mean, found.interval, found.paired) == (0.75, None, False)


@pytest.mark.parametrize(
    ("mean", "interval", "n", "verdict"),
    [
        (0.12, (0.1, 0.14), 3, "higher by 0.1200 (+0.1000 to +0.1400)"),
        (-0.12, (-0.14, -0.1), 3, "lower by 0.1200 (-0.1400 to -0.1000)"),
        (0.02, (-0.01, 0.05), 3, "no difference shown at n=3 (-0.0100 to +0.0500)"),
        (-0.02, (-0.05, 0.0), 4, "no difference shown at n=4 (-0.0500 to +0.0000)"),
        (-0.5, None, 1, "-0.5000 with one seed shows nothing"),
    ],
)
def test_verdicts(mean: float, interval: tuple[float, float] | None, n: int, verdict: str) -> None:
    assert Difference(mean, interval, n, True).verdict == verdict


def test_the_twin_and_what_was_saved(tmp_path: Path) -> None:
    """7,000 of 10,000 FLOPs, 62.5 of 100 dense steps, 75 of 100 seconds."""
    make_seeds(tmp_path, "three_stage", [0.3, 0.25, 0.41])
    make_seeds(tmp_path, "dense", [0.0, 0.1, 0.05])
    claim = claim_in(tmp_path)
    assert claim.twin is not None and claim.twin.label == "dense" and claim.cautions == []
    line = lines(claim)["equal steps", "dense twin, its end"]
    assert line.difference == difference_of(*({s: val_loss(100, x) for s, x in enumerate(xs)} for xs in SHIFTS))
    assert (line.loss, line.dense_loss) == pytest.approx((9.32, 9.05))
    saved = {axis: found.mean for axis, found in claim.saved.items()}
    assert saved == pytest.approx({Axis.flops_total: 30.0, Axis.dense_steps: 37.5, Axis.seconds: 25.0})


SHIFTS = [0.3, 0.25, 0.41], [0.0, 0.1, 0.05]


@pytest.mark.parametrize(
    ("measure", "step"), [("equal FLOPs (total)", 70), ("equal FLOPs (blocks)", 62.5), ("equal time", 75)]
)
def test_the_twin_read_on_its_way(tmp_path: Path, measure: str, step: float) -> None:
    """The dense loss is a straight line, so reading it between evaluations is exact."""
    make_seeds(tmp_path, "three_stage", [0.3, 0.5])
    make_seeds(tmp_path, "dense", [0.0, 0.1])
    line = lines(claim_in(tmp_path))[measure, "dense twin, read on its way"]
    assert line.dense_loss == pytest.approx(val_loss(step) + 0.05) and line.loss == pytest.approx(9.4)
    assert line.difference is not None and line.difference.mean == pytest.approx(9.4 - val_loss(step) - 0.05)
    assert (
        line.note
        == f"at step {step:,.0f} of 100; its learning rate was not fully annealed there, which tends to flatter EST"
    )


def test_a_constant_learning_rate_flatters_nobody(tmp_path: Path) -> None:
    make_run(tmp_path / "a", optim__schedule="constant")
    make_run(tmp_path / "b", "dense", optim__schedule="constant")
    assert lines(claim_in(tmp_path))["equal time", "dense twin, read on its way"].note == "at step 75 of 100"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("measure", "steps", "near"),
    [
        ("equal FLOPs (total)", 70, True),
        ("equal FLOPs (total)", 71, False),  # 1.4 % more
        ("equal FLOPs (blocks)", 62, True),  # 0.8 % less
        ("equal FLOPs (blocks)", 64, False),
        ("equal time", 78, True),  # 4 % more
        ("equal time", 80, False),
    ],
)
def test_a_dense_run_of_that_length(tmp_path: Path, measure: str, steps: int, near: bool) -> None:
    make_seeds(tmp_path, "three_stage", [0.3, 0.5])
    make_seeds(tmp_path, "dense", [0.0, 0.1])
    make_seeds(tmp_path, "dense", [-0.2, -0.3], steps=steps)
    (claim,) = claims_of(list(groups_in(tmp_path).values()))
    line = lines(claim)[measure, "dense run of that length"]
    assert (line.difference is not None) == near
    if near:
        assert line.dense_loss == pytest.approx(val_loss(steps) - 0.25)
        assert line.note.startswith(f"{steps} steps, ")
    else:
        wanted = {"equal FLOPs (total)": 70, "equal FLOPs (blocks)": 62, "equal time": 75}[measure]
        assert line.note == f"needs a dense run of about {wanted} steps"
    assert claim.twin is not None and claim.twin.steps == 100


def test_equal_flops_without_a_twin_of_equal_steps(tmp_path: Path) -> None:
    make_seeds(tmp_path, "three_stage", [0.3, 0.5])
    make_seeds(tmp_path, "dense", [0.0, 0.1], steps=70)
    claim = claim_in(tmp_path)
    assert claim.twin is None and claim.saved == {}
    assert claim.cautions == ["No dense twin of as many steps among the folders."]
    found = lines(claim)
    assert found["equal steps", "dense twin"].note == "needs a dense run of 100 steps"
    assert found["equal FLOPs (total)", "dense run of that length"].difference is not None


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"optim__lr": 0.5}, "optim.lr"),
        ({"model__num_layers": 7}, "model.num_layers"),
        ({"train__tokens_per_step": 8192}, "train.tokens_per_step"),
        ({"train__eval_tokens": 5}, "train.eval_tokens"),
        ({"summary": {"data_hash": "e"}}, "data_hash"),
    ],
)
def test_what_differs_is_no_twin(tmp_path: Path, settings: dict[str, object], key: str) -> None:
    make_run(tmp_path / "a", summary={"data_hash": "d"})
    make_run(tmp_path / "b", "dense", **({"summary": {"data_hash": "d"}} | settings))
    claim = claim_in(tmp_path)
    assert claim.twin is None
    assert claim.cautions == [f"No dense twin among the folders: dense differs in {key}."]
    assert all(line.difference is None for line in claim.comparisons)


def test_what_means_nothing_to_dense_runs_keeps_no_twin_away(tmp_path: Path) -> None:
    settings = {"sampling__redraw": "forward", "optim__skipped_layers": "zero_grad", "optim__unsampled_rows": "frozen"}
    make_run(tmp_path / "a", **settings)
    make_run(tmp_path / "b", "dense")
    assert claim_in(tmp_path).twin is not None


def test_unfinished_runs_are_in_no_claim(tmp_path: Path) -> None:
    make_run(tmp_path / "a", seed=0)
    make_run(tmp_path / "b", "dense", seed=0, done=90)
    assert claim_in(tmp_path).twin is None
    make_run(tmp_path / "c", "dense", seed=1)
    line = lines(claim_in(tmp_path))["equal steps", "dense twin, its end"]
    assert line.difference is not None and not line.difference.paired and "no seed in common" in line.note
    make_run(tmp_path / "x" / "d", done=50)
    assert claims_of(list(groups_in(tmp_path / "x").values())) == []


def test_cautions(tmp_path: Path) -> None:
    make_run(tmp_path / "a", seed=0, train__micro_batch=4, summary={"hardware": "one"})
    make_run(tmp_path / "b", seed=1, train__micro_batch=4, summary={"hardware": "one"})
    make_run(tmp_path / "c", "dense", seed=1, summary={"git_commit": "b" * 40, "hardware": "two"})
    told = claim_in(tmp_path).cautions
    assert len(told) == 5 and told[0] == "The runs were made by different commits."
    assert "different hardware" in told[1] and "differ in train.micro_batch:" in told[2]
    assert told[3].endswith("left out: 0.") and told[4].startswith("Fewer than three seeds")


def test_more_time_than_the_twin_in_all(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text.replace('"step_s": 0.5', '"step_s": 9.0'))
    make_run(tmp_path / "b", "dense")
    claim = claim_in(tmp_path)
    assert (
        lines(claim)["equal time", "dense twin, read on its way"].note
        == "it used more than the dense twin in all (seed 0)"
    )
    assert claim.saved[Axis.seconds].mean == pytest.approx(100 * (1 - 500 / 100))
    make_run(tmp_path / "c", seed=1)
    make_run(tmp_path / "d", "dense", seed=1)
    line = lines(claim_in(tmp_path))["equal time", "dense twin, read on its way"]
    assert line.difference is None, "of two seeds the one that can be read would be the favourable one"


def slowed(folder: Path, full: float) -> None:
    """The run as a machine makes it that has other work too."""
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text.replace('"step_s": 1.0', f'"step_s": {full}'))


@pytest.mark.parametrize(("full", "compared"), [(1.0, True), (1.09, True), (0.92, True), (1.12, False), (0.3, False)])
def test_time_is_compared_where_the_same_work_took_the_same_time(tmp_path: Path, full: float, compared: bool) -> None:
    make_run(tmp_path / "a")
    slowed(make_run(tmp_path / "b", "dense"), full)
    claim = claim_in(tmp_path)
    notes = [line.note for line in claim.comparisons if line.measure == "equal time"]
    assert len(notes) == 2 and all("a step of the complete model took" in note for note in notes) != compared
    assert (Axis.seconds in claim.saved) == compared and Axis.flops_total in claim.saved
    assert any(told.startswith("Time is not compared: a step of the complete") for told in claim.cautions) != compared


def test_one_slow_run_among_several_seeds_is_enough(tmp_path: Path) -> None:
    make_seeds(tmp_path, "three_stage", [0.3, 0.5, 0.4])
    make_seeds(tmp_path, "dense", [0.0, 0.1, 0.2])
    assert Axis.seconds in claim_in(tmp_path).saved
    slowed(tmp_path / "dense-100-1", 2.5)
    (caution,) = claim_in(tmp_path).cautions
    assert "took 2.5 s in " in caution and "dense-100-1 and 1 s in " in caution and "over 10 % apart" in caution


def test_without_a_step_of_the_complete_model_time_is_not_compared(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    text = (folder / "metrics.jsonl").read_text().replace('"p_h": 1.0', '"p_h": 0.9')
    (folder / "metrics.jsonl").write_text(text)
    make_run(tmp_path / "b", "dense")
    claim = claim_in(tmp_path)
    assert Axis.seconds not in claim.saved
    assert "a has no step of the complete model" in lines(claim)["equal time", "dense run of that length"].note


def test_a_loss_that_was_never_finite(tmp_path: Path) -> None:
    make_run(tmp_path / "a", summary={"final_val_loss": None})
    make_run(tmp_path / "b", "dense")
    line = lines(claim_in(tmp_path))["equal steps", "dense twin, its end"]
    assert line.difference is None and line.note == "a run has no finite validation loss"


RAMP = {"train__tokens_per_step": [1024, 2048, 4096], "train__seq_len": [128, 256, 256]}
RATES = {"stage__p_m": 0.5, "stage__p_l": 0.5}


@pytest.mark.parametrize(("boundaries", "twin"), [([0.25, 0.5], True), ([25, 50], True), ([0.25, 0.7], False)])
def test_a_twin_of_batches_by_stage_has_the_same_ones(tmp_path: Path, boundaries: list[object], twin: bool) -> None:
    make_run(tmp_path / "a", **RATES, **RAMP)
    make_run(tmp_path / "b", "dense", stage__boundaries=boundaries, **RAMP)
    claim = claim_in(tmp_path)
    assert (claim.twin is not None) is twin
    assert twin or ("differs in" in claim.cautions[0] and "train.tokens_per_step" in claim.cautions[0])
