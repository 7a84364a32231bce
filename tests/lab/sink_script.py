"""Tracks a made-up run in a process of its own: `python -m tests.lab.sink_script RUN_DIR MODE [anything]`."""

import json
import sys
import time
from pathlib import Path

from est_cli.config import TrackingConfig, WandbMode
from est_cli.tracking import MetricsFile, Tracker, WandbSink
from tests.lab.fake_run import fake_metrics

CONFIG = {
    "model": {"name": "gpt2_tiny", "hub_token": "CANARY-config"},
    "dataset": "https://user:CANARY-url@example.org/corpus",
    "wandb_api_key": "CANARY-key",
}


def main() -> None:
    run_dir, mode = Path(sys.argv[1]), WandbMode(sys.argv[2])
    begin = time.monotonic()
    sink = WandbSink(TrackingConfig(wandb=mode), run_dir, "a run", "abcd1234", CONFIG)
    seconds, reached = time.monotonic() - begin, sink.mode.value
    tracker = Tracker(MetricsFile(run_dir / "metrics.jsonl"), sink)
    for record in fake_metrics(steps=40, until=(10, 20), eval_every=10):
        write = (
            tracker.train if "loss" in record else tracker.validation if "val_loss" in record else tracker.transition
        )
        write(record)
    tracker.close({"final_val_loss": 3.0, "git_commit": "abc"})
    print(json.dumps({"init_s": seconds, "mode": reached, "imported": "wandb" in sys.modules}))


if __name__ == "__main__":
    main()
