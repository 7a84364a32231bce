import json
import os
import sys
import time
import types

import pytest

from est_cli.config import TrackingConfig, WandbMode
from est_cli.storage.run_dir import RunDir
from est_cli.tracking import Ending, Job, MetricsFile, Tracker, WandbSink, new_run_id, read_metrics, wandb_sink
from est_cli.tracking.names import named
from est_cli.tracking.wandb_mirror import Phase
from est_cli.tracking.wandb_sink import clean_config
from tests.lab import wandb_file
from tests.lab.sink_process import mirrored, track


@pytest.mark.slow
def test_the_offline_file_holds_what_metrics_jsonl_holds(tmp_path):
    run_dir, told, done = track(tmp_path, {"tracking": {"wandb": "auto"}})
    assert told["mode"] == "offline" and done.stderr == ""
    path, rows = mirrored(run_dir)
    expected = {}
    for record in read_metrics(run_dir / "metrics.jsonl"):
        if record.get("event") != "sample":
            expected.setdefault(record["step"], {}).update(named(record))
    assert len(expected) == 40
    assert {row["step"]: numbers_of(row) for row in rows} == expected
    assert wandb_file.config(path)["model"] == {"name": "gpt2_tiny"}
    sent = wandb_file.records(path)
    axes = {record.metric.glob_name: record.metric.step_metric for record in sent}
    assert axes | dict.fromkeys(("train/*", "val/*", "est/*", "flops/*", "perf/*"), "step") == axes
    extremes = {
        record.metric.name: record.metric.summary for record in sent if record.WhichOneof("record_type") == "metric"
    }
    assert {"step", "tokens", "flops/used"} <= extremes.keys()
    assert extremes["val/loss"].min and extremes["val/loss"].last and not extremes["val/loss"].max
    assert extremes["perf/tokens_per_s"].max and extremes["perf/tokens_per_s"].last


def numbers_of(row):
    """Without what W&B adds, tables and pictures."""
    return {key: value for key, value in row.items() if not key.startswith("_") and "." not in key}


@pytest.mark.slow
def test_no_server_and_no_secrets(tmp_path):
    """An unreachable server costs little and no line but one; no planted secret comes out anywhere."""
    run_dir, told, done = track(
        tmp_path, {"tracking": {"wandb": "online"}}, "--password=CANARY-argv",
        WANDB_API_KEY="c" * 40, WANDB_BASE_URL="http://user:CANARY-base@127.0.0.1:1", MY_SECRET="CANARY-env",
    )  # fmt: skip
    assert told["mode"] == "offline" and told["init_s"] < 1 and told["finish_s"] < 12
    assert done.stderr.startswith("W&B: the server cannot be reached") and done.stderr.count("\n") == 1
    assert len(mirrored(run_dir)[1]) == 40
    files = [path for path in (tmp_path / "work").rglob("*") if path.is_file() and ".git" not in path.parts]
    assert len(files) >= 4
    output = [(str(path), path.read_bytes()) for path in files]
    output += [("stdout", done.stdout.encode()), ("stderr", done.stderr.encode())]
    assert [name for name, content in output if b"CANARY" in content or b"c" * 40 in content] == []


@pytest.mark.slow
def test_the_offline_file_tells_no_place_and_nobody(tmp_path):
    run_dir, _, _ = track(tmp_path, {"tracking": {"wandb": "offline"}}, "--argument-of-mine", MY_VARIABLE="of-mine")
    sent = mirrored(run_dir)[0].read_bytes()
    for told in (
        str(tmp_path),
        "argument-of-mine",
        "of-mine",
        os.uname().nodename + ".",
        sys.executable,
        "example.org/x.git",
    ):
        assert told.encode() not in sent, told
    kinds = {record.WhichOneof("record_type") for record in wandb_file.records(mirrored(run_dir)[0])}
    assert "environment" not in kinds and "stats" in kinds


@pytest.mark.slow
@pytest.mark.parametrize("on", [True, False])
def test_what_is_collected_can_be_switched(tmp_path, on):
    keys = ("system", "console", "commit", "requirements", "alerts")
    run_dir, _, _ = track(tmp_path, {"tracking": {"wandb": "offline", **dict.fromkeys(keys, on)}})
    path, _ = mirrored(run_dir)
    records = wandb_file.records(path)
    kinds = {record.WhichOneof("record_type") for record in records}
    assert {"stats", "output_logger", "alert"} & kinds == ({"stats", "output_logger", "alert"} if on else set())
    assert (path.parent / "files" / "requirements.txt").exists() is on
    commits = {record.run.git.commit for record in records if record.WhichOneof("record_type") == "run"} - {""}
    assert len(commits) == int(on)
    if on:
        lines = [record.output_logger.line for record in records if record.WhichOneof("record_type") == "output_logger"]
        assert lines == ["run       run reads <path>, token=<secret>\n"]
        titles = [record.alert.title for record in records if record.WhichOneof("record_type") == "alert"]
        assert titles == ["Stage 2 from step 10", "Not finite", "Stage 3 from step 20", "What looks wrong"]


@pytest.mark.slow
def test_samples_and_transitions_are_tables(tmp_path):
    run_dir, _, _ = track(tmp_path, {"tracking": {"wandb": "offline"}})
    path, rows = mirrored(run_dir)
    tables = {key.removesuffix(".path"): value for key, value in rows[-1].items() if key.endswith(".path")}
    found = {key: json.loads((path.parent / "files" / place).read_text()) for key, place in tables.items()}
    assert found["est/samples"] == {"columns": ["step", "prompt", "text"], "data": [[12, "def", "def main():"]]}
    changes = [record for record in read_metrics(run_dir / "metrics.jsonl") if "from_stage" in record]
    columns = ["step", "from_stage", "to_stage", "loss_before", "loss_after"]
    assert found["est/transitions"] == {"columns": columns, "data": [[one[key] for key in columns] for one in changes]}


def test_off_imports_nothing(tmp_path):
    run_dir, told, done = track(tmp_path, {"tracking": {"wandb": "off"}})
    assert (told["mode"], told["imported"], done.stderr) == ("off", False, "")
    assert os.listdir(run_dir) == ["metrics.jsonl"]


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

    id = "abcd1234"

    def __init__(self, fail_at_log=0, hang=False):
        self.summary, self.rows, self.exit_code = {}, [], None
        self.fail_at_log, self.hang, self.preempting = fail_at_log, hang, False

    def define_metric(self, *args, **kwargs):
        pass

    def alert(self, **told):
        pass

    def mark_preempting(self):
        self.preempting = True

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
    fake = types.SimpleNamespace(
        Settings=lambda **kinds: kinds, setup=lambda _: settings, init=lambda **_: run, teardown=lambda: None
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return sink_of(tmp_path)


def sink_of(tmp_path, mode=WandbMode.offline):
    warnings = []
    job = Job("a", "abcd1234", tmp_path, None, "train")
    sink = WandbSink(TrackingConfig(wandb=mode), job, {}, RunDir(tmp_path), warn=warnings.append)
    return sink, warnings


def test_a_failing_log_turns_the_mirror_off_and_the_record_goes_on(monkeypatch, tmp_path):
    run = FakeRun(fail_at_log=3)
    sink, warnings = fake_sink(monkeypatch, tmp_path, run)
    tracker = Tracker(MetricsFile(tmp_path / "metrics.jsonl"), sink)
    for step in range(1, 6):
        tracker.train({"step": step, "loss": 1.0})
    tracker.close(Ending({"time_s": 1.0}))
    assert len(run.rows) == 3 and sink.mode is WandbMode.off
    assert len(warnings) == 1 and "failed (RuntimeError)" in warnings[0] and "CANARY" not in warnings[0]
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_a_hanging_finish_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setitem(wandb_sink.LIMITS_S, Phase.open, 0.2)
    sink, warnings = fake_sink(monkeypatch, tmp_path, FakeRun(hang=True))
    begin = time.monotonic()
    sink.finish(Ending({}))
    assert time.monotonic() - begin < 2 and len(warnings) == 1


@pytest.mark.parametrize(
    ("ending", "exit_code"),
    [(Ending({"time_s": 1.5, "git_commit": "x", "none": None}), 0), (Ending(), 1), (Ending(preempted=True), 1)],
)
def test_the_end_tells_whether_the_run_was_whole(monkeypatch, tmp_path, ending, exit_code):
    run = FakeRun()
    sink, _ = fake_sink(monkeypatch, tmp_path, run)
    sink.finish(ending)
    assert run.exit_code == exit_code and run.summary == ({"time_s": 1.5} if ending.summary else {})
    assert run.preempting is ending.preempted


def test_a_failing_init_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    sink, warnings = sink_of(tmp_path, WandbMode.auto)
    sink.log({"step": 1})
    sink.finish(Ending())
    assert sink.mode is WandbMode.off and len(warnings) == 1 and "it failed (ModuleNotFoundError)" in warnings[0]
