import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from est_cli.config import TrackingConfig, WandbMode
from est_cli.tracking import MetricsFile, Tracker, WandbSink, new_run_id, read_metrics, wandb_sink
from est_cli.tracking.wandb_sink import choose_mode, clean_config, prefixed, requested_mode
from tests.lab import wandb_file

ROOT = Path(__file__).parents[2]


def track(tmp_path, mode, *argv, **environ):
    """Run sink_script below `tmp_path`/work, a git repository with a secret in its remote; HOME is there too."""
    work, run_dir = tmp_path / "work", tmp_path / "work" / "run"
    run_dir.mkdir(parents=True)
    for folder in ("objects", "refs"):
        (work / ".git" / folder).mkdir(parents=True)
    (work / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (work / ".git" / "config").write_text('[remote "origin"]\nurl = https://user:CANARY-git@example.org/x.git\n')
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    clean |= {"HOME": str(work), "NETRC": str(tmp_path / "netrc"), "PYTHONPATH": str(ROOT), **environ}
    command = [sys.executable, "-m", "tests.lab.sink_script", str(run_dir), mode, *argv]
    done = subprocess.run(
        command, cwd=work, env=clean, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return run_dir, json.loads(done.stdout.splitlines()[-1]), done


def mirrored(run_dir):
    """The rows of the one offline run below `run_dir`."""
    (path,) = run_dir.glob("wandb/offline-run-*/run-abcd1234.wandb")
    return path, wandb_file.history(path)


@pytest.mark.slow
def test_the_offline_file_holds_what_metrics_jsonl_holds(tmp_path):
    run_dir, told, done = track(tmp_path, "auto")
    assert told["mode"] == "offline" and done.stderr == ""
    path, rows = mirrored(run_dir)
    expected = {}
    for record in read_metrics(run_dir / "metrics.jsonl"):
        expected.setdefault(record["step"], {}).update(prefixed(record))
    assert len(expected) == 40
    got = {row["step"]: {key: value for key, value in row.items() if not key.startswith("_")} for row in rows}
    assert got == expected
    assert wandb_file.config(path)["model"] == {"name": "gpt2_tiny"}
    axes = {record.metric.glob_name: record.metric.step_metric for record in wandb_file.records(path)}
    assert axes | dict.fromkeys(("train/*", "val/*", "est/*", "flops/*", "perf/*"), "step") == axes


@pytest.mark.slow
def test_no_server_and_no_secrets(tmp_path):
    """An unreachable server costs little and no line but one; no planted secret comes out anywhere."""
    run_dir, told, done = track(
        tmp_path, "online", "--password=CANARY-argv",
        WANDB_API_KEY="c" * 40, WANDB_BASE_URL="http://user:CANARY-base@127.0.0.1:1", MY_SECRET="CANARY-env",
    )  # fmt: skip
    assert told["mode"] == "offline" and told["init_s"] < 10
    assert done.stderr.startswith("W&B: the server cannot be reached") and done.stderr.count("\n") == 1
    assert len(mirrored(run_dir)[1]) == 40
    files = [path for path in (tmp_path / "work").rglob("*") if path.is_file() and ".git" not in path.parts]
    assert len(files) >= 4
    output = [(str(path), path.read_bytes()) for path in files]
    output += [("stdout", done.stdout.encode()), ("stderr", done.stderr.encode())]
    assert [name for name, content in output if b"CANARY" in content or b"c" * 40 in content] == []


def test_off_imports_nothing(tmp_path):
    run_dir, told, done = track(tmp_path, "off")
    assert told == {"init_s": told["init_s"], "mode": "off", "imported": False} and done.stderr == ""
    assert os.listdir(run_dir) == ["metrics.jsonl"]


@pytest.mark.parametrize(
    ("setting", "environment", "expected"),
    [
        ("auto", None, "auto"), ("auto", "", "auto"), ("auto", "offline", "offline"), ("auto", "disabled", "off"),
        ("auto", "Online", "online"), ("auto", "dryrun", "offline"), ("off", "online", "off"),
        ("online", "offline", "online"), ("offline", "disabled", "offline"),
    ],
)  # fmt: skip
def test_wandb_mode_counts_where_nothing_is_set(setting, environment, expected):
    assert requested_mode(WandbMode(setting), environment) is WandbMode(expected)


@pytest.mark.parametrize(
    ("wanted", "key", "answers", "expected", "told"),
    [
        ("auto", False, True, "offline", False), ("online", False, True, "offline", True),
        ("auto", True, True, "online", False), ("auto", True, False, "offline", True),
        ("offline", True, True, "offline", False),
    ],
)  # fmt: skip
def test_online_needs_a_key_and_a_server(monkeypatch, wanted, key, answers, expected, told):
    monkeypatch.setattr(wandb_sink, "key_configured", lambda url, environ: key)
    monkeypatch.setattr(wandb_sink, "reachable", lambda url: answers)
    mode, reason = choose_mode(WandbMode(wanted), "https://api.wandb.ai")
    assert mode is WandbMode(expected) and bool(reason) is told


def test_prefixes():
    record = {"step": 1, "tokens": 2, "stage": 1, "p_h": 0.5, "loss": 3.0, "lr": 0.1, "flops_dense": 4, "mfu": None,
              "step_s": 0.5, "val_loss": 2.0, "loss_before": 1.0}  # fmt: skip
    assert prefixed(record) == {
        "step": 1, "tokens": 2, "est/stage": 1, "est/p_h": 0.5, "train/loss": 3.0, "train/lr": 0.1,
        "flops/flops_dense": 4, "perf/step_s": 0.5, "val/val_loss": 2.0, "est/loss_before": 1.0,
    }  # fmt: skip


def test_config_is_cleaned_but_tokenizer_and_tokens_stay():
    config = {"hub_token": "x", "api_key": "x", "PASSWORD": "x", "tokenizer": "bpe", "max_tokens": 5,
              "token_dtype": "u", "files": ["https://user:pw@host/a", "C:/a@b"]}  # fmt: skip
    assert clean_config(config) == {
        "tokenizer": "bpe", "max_tokens": 5, "token_dtype": "u", "files": ["https://host/a", "C:/a@b"],
    }  # fmt: skip


def test_run_ids_differ_and_suit_wandb():
    first, second = new_run_id(), new_run_id()
    assert first != second and first.isalnum() and len(first) == 8


class FakeRun:
    """A W&B run that fails or hangs where it is told to."""

    def __init__(self, fail_at_log=0, hang=False):
        self.summary, self.rows, self.exit_code = {}, [], None
        self.fail_at_log, self.hang = fail_at_log, hang

    def define_metric(self, *args, **kwargs):
        pass

    def log(self, row, step):
        self.rows.append(row)
        if len(self.rows) == self.fail_at_log:
            raise RuntimeError("CANARY in the text of an exception")

    def finish(self, exit_code):
        self.exit_code = exit_code
        time.sleep(30 if self.hang else 0)


def fake_sink(monkeypatch, tmp_path, run):
    """A sink on a stand-in for the wandb module, and the list of its warnings."""
    settings = types.SimpleNamespace(settings=types.SimpleNamespace(base_url="http://127.0.0.1:1"))
    fake = types.SimpleNamespace(Settings=dict, setup=lambda _: settings, init=lambda **_: run, teardown=lambda: None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    warnings = []
    sink = WandbSink(TrackingConfig(wandb=WandbMode.offline), tmp_path, "a", "abcd1234", {}, warn=warnings.append)
    return sink, warnings


def test_a_failing_log_turns_the_mirror_off_and_the_record_goes_on(monkeypatch, tmp_path):
    run = FakeRun(fail_at_log=3)
    sink, warnings = fake_sink(monkeypatch, tmp_path, run)
    tracker = Tracker(MetricsFile(tmp_path / "metrics.jsonl"), sink)
    for step in range(1, 6):
        tracker.train({"step": step, "loss": 1.0})
    tracker.close({"time_s": 1.0})
    assert len(run.rows) == 3 and sink.mode is WandbMode.off
    assert len(warnings) == 1 and "log failed (RuntimeError)" in warnings[0] and "CANARY" not in warnings[0]
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_a_hanging_finish_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(wandb_sink, "FINISH_TIMEOUT_S", 0.2)
    sink, warnings = fake_sink(monkeypatch, tmp_path, FakeRun(hang=True))
    begin = time.monotonic()
    sink.finish({})
    assert time.monotonic() - begin < 2 and len(warnings) == 1


@pytest.mark.parametrize(("summary", "exit_code"), [({"time_s": 1.5, "git_commit": "x", "none": None}, 0), (None, 1)])
def test_the_end_tells_whether_the_run_was_whole(monkeypatch, tmp_path, summary, exit_code):
    run = FakeRun()
    sink, _ = fake_sink(monkeypatch, tmp_path, run)
    sink.finish(summary)
    assert run.exit_code == exit_code and run.summary == ({"time_s": 1.5} if summary else {})


def test_a_failing_init_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    warnings = []
    sink = WandbSink(TrackingConfig(wandb=WandbMode.auto), tmp_path, "a", "abcd1234", {}, warn=warnings.append)
    sink.log({"step": 1})
    sink.finish(None)
    assert sink.mode is WandbMode.off and "init failed" in warnings[0]
