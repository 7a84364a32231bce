"""studies/quickstart.py: its row is counted from runs whose spikes are known."""

from __future__ import annotations

from quickstart import row

from tests.lab.fake_run import fake_metrics


def test_a_row_counts_over_all_runs() -> None:
    runs = [fake_metrics(seed=seed) for seed in range(2)]
    records = {(n, r["step"]): r for n, metrics in enumerate(runs) for r in metrics if "grad_norm" in r}
    records[0, 100] |= {"loss": 9.5, "grad_norm": 40.0}
    records[1, 120] |= {"loss": 8.0, "grad_norm": 20.0}
    records[1, 5]["grad_norm"] = 90.0  # in the warm-up
    for metrics, shift in zip(runs, (0.0, 1.0), strict=True):
        next(r for r in reversed(metrics) if "val_loss" in r).update(draw_range=0.5 + shift, draw_spread=0.1)
        for step in range(291, 301):
            records[runs.index(metrics), step]["loss"] = 5.0 + shift
    assert row(runs) == ["2", "2", "9.50", "2 of 580", "40.0", "1.50", "5.500"]
    assert row([fake_metrics()])[1:3] == ["0", "-"]
