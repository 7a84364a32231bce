import io
from pathlib import Path

import pytest
from rich.console import Console

from est_cli.reporting.stages import stage_summaries, time_saved_pct
from est_cli.reporting.summary import print_summary
from tests.lab.fake_run import fake_metrics


def line(step, stage, step_s, rates=(0.5, 0.5, 1.0)):
    p_h, p_m, p_l = rates
    return {"step": step, "stage": stage, "step_s": step_s, "loss": float(step), "p_h": p_h, "p_m": p_m, "p_l": p_l}


FULL = (1.0, 1.0, 1.0)


def test_time_saved_by_hand():
    metrics = [line(1, 1, 9.0), line(2, 1, 1.0), line(3, 1, 1.0), line(4, 2, 2.0, FULL), {"step": 4, "val_loss": 1.0}]
    # 3 steps of 1 s (the median) and 1 of 2 s, against 4 of 2 s
    assert time_saved_pct(metrics) == pytest.approx(100 * (1 - 5 / 8))


def test_a_logged_line_stands_for_the_steps_since_the_one_before():
    metrics = [line(10, 1, 1.0), line(20, 1, 1.0), line(25, 2, 4.0, FULL)]
    assert [stage.steps for stage in stage_summaries(metrics)] == [20, 5]
    assert time_saved_pct(metrics) == pytest.approx(100 * (1 - 40 / 100))


def test_of_repeated_steps_the_last_counts():
    metrics = [line(1, 1, 7.0), line(2, 1, 7.0), line(1, 1, 1.0), line(2, 1, 1.0), line(3, 2, 2.0, FULL)]
    assert time_saved_pct(metrics) == pytest.approx(100 * (1 - 4 / 6))


def test_null_without_a_full_stage_and_zero_for_a_dense_run():
    assert time_saved_pct([line(1, 1, 1.0), line(2, 1, 1.0)]) is None
    assert time_saved_pct([]) is None
    assert time_saved_pct([line(1, 1, 1.0, FULL), line(2, 1, 3.0, FULL)]) == 0.0


def summary_text(terminal):
    metrics = fake_metrics()
    summary = {
        "steps": 300, "tokens": 1228800, "final_val_loss": 3.25, "perplexity": 25.79, "flops": 6.75e14,
        "flops_dense": 9e14, "flops_saved_pct_blocks": 31.25, "flops_saved_pct_total": 25.0, "time_s": 3723.0,
        "time_saved_pct": time_saved_pct(metrics), "transitions": [record for record in metrics if "event" in record],
    }  # fmt: skip
    out = io.StringIO()
    print_summary(summary, metrics, Path("outputs/run"), Console(file=out, force_terminal=terminal, width=80))
    return out.getvalue()


def test_the_plain_table_holds_everything_in_ascii():
    text = summary_text(terminal=False)
    assert text.isascii()
    for part in ("1,228,800", "3.2500", "25.79", "6.750e+14 of 9.000e+14 dense", "31.25 % blocks, 25.00 % total",
                 "1:02:03", "outputs/run/model", "outputs/run/plots", "1 to 2", "2 to 3"):  # fmt: skip
        assert part in text
    stage_rows = [row.split() for row in text.splitlines() if " ms " in row]
    assert [row[:5] for row in stage_rows] == [
        ["1", "0.5", "0.5", "0.5", "75"],
        ["2", "0.5", "0.5", "1", "75"],
        ["3", "1", "1", "1", "150"],
    ]


def test_missing_values_are_dashes():
    out = io.StringIO()
    print_summary({"steps": 5, "time_saved_pct": None}, [], Path("outputs/run"), Console(file=out))
    assert "- % blocks" in out.getvalue() and "--:--" in out.getvalue()


def test_a_terminal_gets_frames():
    assert not summary_text(terminal=True).isascii()
