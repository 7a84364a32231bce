import warnings

import numpy as np
import pytest
from matplotlib.image import imread

from est_cli.reporting.figures import loss_figure, plot_run, saving_figure
from est_cli.reporting.records import running_mean, stage_spans
from tests.lab.fake_run import fake_metrics


def dense_metrics():
    full = {"stage": 1, "p_h": 1.0, "p_m": 1.0, "p_l": 1.0, "flops_saved_pct_blocks": 0.0, "flops_saved_pct_total": 0.0}
    return [record | full for record in fake_metrics(30) if "loss" in record]


@pytest.mark.slow
def test_two_pictures_with_something_in_them(tmp_path):
    paths = plot_run(fake_metrics(), tmp_path / "plots", "a run")
    assert [path.name for path in paths] == ["loss.png", "saving.png"]
    for path in paths:
        image = imread(path)
        assert path.read_bytes()[:4] == b"\x89PNG"
        assert min(image.shape[:2]) > 500 and len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 100


@pytest.mark.parametrize(
    "metrics",
    [
        dense_metrics(),
        fake_metrics(300, until=(15, 60)),
        fake_metrics(1),
        [record | {"loss": None} for record in fake_metrics(20) if "loss" in record],
        fake_metrics(10)[3:],
    ],
    ids=["dense", "narrow stages", "one step", "loss never finite", "first lines missing"],
)
def test_odd_runs_are_drawn_without_warnings(tmp_path, metrics):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # here and not by a mark, or what pytest says of its own folders counts too
        assert len(plot_run(metrics, tmp_path, "odd")) == 2


def test_nothing_is_drawn_from_nothing(tmp_path):
    assert plot_run([{"step": 0, "val_loss": 9.0}], tmp_path / "plots", "empty") == []
    assert not (tmp_path / "plots").exists()


def test_the_loss_picture_shows_the_curves_stages_and_transitions():
    figure = loss_figure(fake_metrics(300, until=(75, 150)), "a run")
    (axes,) = figure.axes
    assert [text.get_text().split("\n")[0] for text in axes.texts] == ["stage 1", "stage 2", "stage 3"]
    assert "full model" in axes.texts[2].get_text() and "0.5" in axes.texts[0].get_text()
    dashed = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed == [75, 150]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["training, as logged", "training, running mean", "validation (complete model)", "stage transition"]
    raw = next(line for line in axes.lines if line.get_label() == "training, as logged")
    metrics = fake_metrics(300, until=(75, 150))
    assert list(raw.get_ydata()) == [record["loss"] for record in metrics if "loss" in record]


def test_the_saving_picture_shows_both_conventions_and_the_dense_run():
    metrics = [record for record in fake_metrics() if "loss" in record]
    above, below = saving_figure(metrics, "a run").axes
    lines = {line.get_label(): list(line.get_ydata()) for line in (*above.lines, *below.lines)}
    assert lines["saved, blocks: 31.2 %"] == [record["flops_saved_pct_blocks"] for record in metrics]
    assert lines["saved, total: 25.0 %"] == [record["flops_saved_pct_total"] for record in metrics]
    assert lines["this run, total"] == [record["flops"] for record in metrics]
    assert lines["dense run, total"] == [record["flops_dense"] for record in metrics]


def test_a_resumed_run_is_drawn_once():
    metrics = [record for record in fake_metrics(20) if "loss" in record]
    (axes,) = loss_figure([*metrics, *metrics[10:]], "resumed").axes
    assert list(axes.lines[0].get_xdata()) == list(range(1, 21))


def test_stage_spans_have_no_gaps():
    spans = stage_spans([record for record in fake_metrics(300, until=(75, 150)) if "loss" in record])
    assert [(span.number, span.begin, span.end) for span in spans] == [(1, 0, 75), (2, 75, 150), (3, 150, 300)]


def test_running_mean_by_hand():
    values = np.array([1.0, 2.0, np.nan, 6.0])
    assert running_mean(values, 3).tolist() == [1.5, 1.5, 4.0, 6.0]
