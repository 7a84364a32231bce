"""Tracks a made-up run in a process of its own: `python -m tests.lab.sink_script RUN_DIR JSON [anything]`.

JSON: `tracking` (settings), `until` (its last step; 40), `first_step` (done before; 0), `wait_for` (a file
without which it does not go on after half of its steps), `stopped` (it does not come to its end), `job` (what
Job takes), `retry_s`, `poll_s` (of looks for a server, and for a stop on the page).
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from est_cli.config import TrackingConfig
from est_cli.config.schema import typed
from est_cli.storage.run_dir import RunDir
from est_cli.tracking import Ending, Job, MetricsFile, Tracker, WandbSink, record_of, wandb_api, wandb_mirror
from est_cli.tracking.records import In
from tests.lab.fake_run import fake_metrics

CONFIG = {
    "model": {"name": "gpt2_tiny", "hub_token": "CANARY-config"},
    "dataset": "https://user:CANARY-url@example.org/corpus",
    "wandb_api_key": "CANARY-key",
}
RUN_ID = "abcd1234"


def main() -> None:
    run_dir, asked = Path(sys.argv[1]), json.loads(sys.argv[2])
    tracking, first_step = typed(asked.get("tracking", {}), TrackingConfig), asked.get("first_step", 0)
    names = {"run_name": "a run", "run_id": RUN_ID, "sweep": None, "job_type": "train"} | asked.get("job", {})
    job = Job(run_dir=run_dir, **names)
    wandb_mirror.RETRY_S = asked.get("retry_s", wandb_mirror.RETRY_S)
    if "poll_s" in asked:
        from wandb.sdk.lib import run_stopping

        run_stopping._POLL_INTERVAL = asked["poll_s"]
        wandb_api.QUIET["x_file_stream_transmit_interval"] = asked["poll_s"]
    begin = time.monotonic()
    sink = WandbSink(tracking, job, CONFIG, RunDir(run_dir), first_step=first_step)
    init_s = time.monotonic() - begin
    sink.line(f"run       {run_dir.resolve()} reads /home/CANARY-user/x, token=CANARY-line")
    write_records(Tracker(MetricsFile(run_dir / "metrics.jsonl"), sink), asked)
    begin = time.monotonic()
    summary = {"final_val_loss": 3.0, "git_commit": "abc", "diagnoses": ["stage 2 came too early"]}
    images = {f"plots/{path.stem}": path for path in run_dir.glob("*.png")}
    model = run_dir / "model" if tracking.log_model else None
    preempted = asked.get("stopped") == "preempted"
    sink.finish(Ending(preempted=preempted) if asked.get("stopped") else Ending(summary, images, model))
    told = {"init_s": init_s, "finish_s": time.monotonic() - begin, "mode": sink.mode.value, "page": sink.page}
    print(json.dumps(told | {"imported": "wandb" in sys.modules}))


def write_records(tracker: Tracker, asked: dict[str, Any]) -> None:
    """Those of the steps that are not done yet, with a sample and a step that was not finite in the middle."""
    until, first_step = asked.get("until", 40), asked.get("first_step", 0)
    wait_for, half = asked.get("wait_for"), (first_step + until) // 2
    for record in fake_metrics(steps=40, until=(10, 20), eval_every=10):
        if not first_step < record["step"] <= until:
            continue
        kind = In.step if "loss" in record else In.validation if "val_loss" in record else In.transition
        tracker._write(record_of(kind, record))
        if record["step"] == 12 and "loss" in record:
            tracker.event(In.sample, {"step": 12, "prompt": "def", "text": "def main():"})
            tracker.event(In.not_finite, {"step": 12, "first_sample": 48, "samples": 4})
        while wait_for and record["step"] >= half and not Path(wait_for).exists():
            time.sleep(0.05)


if __name__ == "__main__":
    main()
