"""est-analyze from the command line to its folder: four analyses, any checkpoint, any number of processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from matplotlib.figure import Figure
from transformers import AutoModelForCausalLM, GPTBigCodeConfig, GPTBigCodeForCausalLM

from est_cli.analysis import run_analysis
from est_cli.analyze import main
from est_cli.cli.entry import enter
from est_cli.common.errors import StoppedBySignal
from est_cli.config.schema import to_yaml
from est_cli.reporting.drawing import new_figure
from tests.lab.commands import composed, tree, typed_in
from tests.lab.small_models import POSITIONS, byte_tokenizer, save

pytestmark = pytest.mark.processes

SMALL = ["analyze.seq_len=16", "analyze.tokens=64", "analyze.batch=2", "analyze.probes=3", "dataset=text"]
CURVES = ["analyze.seq_len=16", "analyze.tokens=64", "analyze.batch=2", "analyze.points=5", "dataset=text"]
TEXTS = ["".join(chr(97 + (i * i + 7 * n) % 26) for i in range(90)) for n in range(40)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text and three models: two alike and one with other sizes; nothing else is ever written there."""
    root = tmp_path_factory.mktemp("place")
    (root / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    save(root / "first", seed=0)
    save(root / "second", seed=1)
    save(root / "other", "llama")
    return root


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


def est_analyze(place: Path, *args: str, code: int = 0) -> None:
    assert enter("est-analyze", main, ["est-analyze", f"checkpoint={place / 'first'}", *text_of(place), *args]) == code


def text_of(place: Path) -> list[str]:
    return [f"dataset.files={place / 'text.jsonl'}", "dataset.validation_fraction=0.3"]


def result(folder: str) -> dict[str, Any]:
    return json.loads(Path("outputs", folder, "analysis.json").read_text())


def test_the_trace_twice_is_the_same_in_another_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    est_analyze(place, *SMALL)
    est_analyze(place, *SMALL)
    one, two = result("analyze-first-hessian_trace"), result("analyze-first-hessian_trace-2")
    assert one["result"] == two["result"] and one["text"] == two["text"]
    assert one["text"]["sequences"] == 4 and one["text"]["predicted_tokens"] == 60
    found = one["result"]
    model = AutoModelForCausalLM.from_pretrained(place / "first")
    assert found["weights"] == sum(weight.numel() for weight in model.parameters())
    assert found["weights"] == sum(group["weights"] for group in found["groups"].values())
    assert found["trace"]["n"] == 3 == len(found["draws"]) and found["trace"]["standard_error"] > 0
    parts = sum(group["mean"] for group in found["groups"].values())
    assert found["trace"]["mean"] == pytest.approx(parts) == pytest.approx(sum(found["draws"]) / 3)
    rest = found["trace"]["mean"] - found["groups"]["embeddings"]["mean"]
    assert found["without_embeddings"]["mean"] == pytest.approx(rest)
    out, err = capsys.readouterr()
    assert "without embeddings and LM head" in out and f"{found['trace']['mean']:.5g}" in out
    assert "results: outputs/analyze-first-hessian_trace-2" in out and "left" in err
    est_analyze(place, *SMALL, "seed=1", "run_name=x")
    assert result("x")["result"]["draws"] != found["draws"] and result("x")["result"]["loss"] == found["loss"]


def test_the_text_is_what_was_asked_for(place: Path) -> None:
    """The loss is that of the plain model on the first tokens of evenly spaced blocks."""
    est_analyze(place, *SMALL, "analyze.probes=1", "analyze.parameters=norms", "run_name=a")
    est_analyze(place, *SMALL, "analyze.probes=1", "analyze.parameters=norms", "analyze.part=training", "run_name=b")
    one, two = result("a")["result"], result("b")["result"]
    assert one["loss"] != two["loss"] and one["trace"]["standard_error"] is None
    assert one["groups"].keys() == {"norms"} and "without_embeddings" not in one
    est_analyze(place, *SMALL, "analyze.seq_len=400", "analyze.probes=1", "run_name=c")
    assert result("c")["text"]["seq_len"] == POSITIONS


def test_the_numbers_can_be_made_again_from_what_is_said_of_the_text(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = place / "text.jsonl"
    data = [f"dataset.files={text}", f"dataset.validation_files={text}", "dataset=text"]
    line = ["est-analyze", f"checkpoint={place / 'first'}", *data, *SMALL[:3], "analyze.probes=1", "run_name=a"]
    assert enter("est-analyze", main, line) == 0
    ids = torch.from_numpy(np.load("outputs/a/tokens.npy", allow_pickle=False)).long()
    model = AutoModelForCausalLM.from_pretrained(place / "first").eval()
    loss = model(input_ids=ids, labels=ids).loss.item()
    assert loss == pytest.approx(result("a")["result"]["loss"], rel=1e-6)
    told = result("a")["text"]
    stream = [token for one in TEXTS for token in [*byte_tokenizer()(one)["input_ids"], told["document_end"]]]
    assert ids.tolist() == [stream[16 * number : 16 * number + 16] for number in told["blocks"]]
    assert told["num_blocks"] == len(stream) // 16 and len(set(told["blocks"])) == 4
    assert f"blocks {', '.join(map(str, told['blocks']))} of its {told['num_blocks']}" in capsys.readouterr().out


def test_every_checkpoint_that_a_run_kept(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "outputs" / "r"
    for step in (4, 14, 30):
        save(folder / "checkpoints" / f"step-{step:06}", seed=step)
    save(folder / "model", seed=30)
    (folder / "config.yaml").write_text(to_yaml(composed("train.max_steps=30", "stage.t1=4", "stage.t2=14")[0]))
    est_analyze(place, "checkpoint=outputs/r", "analyze.transitions=true", *SMALL)
    made = Path("outputs/analyze-r-hessian_trace")
    found = result(made.name)["result"]["checkpoints"]
    assert [(one["step"], one["stage"]) for one in found] == [(4, 1), (14, 2), (30, 3)]
    assert len({one["trace"]["mean"] for one in found}) == 3
    assert (made / "transitions.png").read_bytes()[:4] == b"\x89PNG"
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[2:5]] == [
        ["4", "1"],
        ["14", "2"],
        ["30", "3"],
    ]
    est_analyze(place, "checkpoint=outputs/r", *SMALL)
    est_analyze(place, "checkpoint=outputs/r/checkpoints/step-000030", *SMALL, "run_name=last")
    assert result("analyze-r-hessian_trace-2")["result"]["draws"] == result("last")["result"]["draws"]
    assert result("last")["result"]["draws"] == found[-1]["draws"]


def test_flatness(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    est_analyze(place, "analysis=flatness", *CURVES, "analyze.directions=2")
    found = result("analyze-first-flatness")["result"]
    assert found["places"] == [-1.0, -0.5, 0.0, 0.5, 1.0] and len(found["losses"]) == 2
    assert [row[2] for row in found["losses"]] == [found["loss"]] * 2
    assert found["mean"] == pytest.approx([sum(column) / 2 for column in zip(*found["losses"], strict=True)])
    ends = [(row[0] + row[-1]) / 2 - found["loss"] for row in found["losses"]]
    assert found["rise_at_radius"]["mean"] == pytest.approx(sum(ends) / 2)
    assert (
        Path("outputs/analyze-first-flatness/flatness.png").exists() and "rise at the ends" in capsys.readouterr().out
    )


def test_two_checkpoints(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ["analysis=compare", f"baseline={place / 'second'}"]
    est_analyze(place, *both, *CURVES, "analyze.trace=true", "analyze.probes=2")
    found = result("analyze-first-compare")["result"]
    assert found["line"]["losses"][0] == pytest.approx(found["baseline_loss"])
    assert found["line"]["losses"][-1] == found["loss"] and found["line"]["barrier"] >= 0
    models = [AutoModelForCausalLM.from_pretrained(place / name).parameters() for name in ("first", "second")]
    expected = sum((a - b).square().sum().item() for a, b in zip(*models, strict=True)) ** 0.5
    assert found["distance"]["all"]["distance"] == pytest.approx(expected, rel=1e-5)
    difference = found["trace"]["trace"]["mean"] - found["baseline_trace"]["trace"]["mean"]
    assert found["trace_difference"]["mean"] == pytest.approx(difference)
    assert Path("outputs/analyze-first-compare/line.png").exists() and "barrier on the line" in capsys.readouterr().out
    est_analyze(place, "analysis=compare", f"baseline={place / 'other'}", *CURVES, "run_name=other")
    assert result("other")["result"]["line"] is None and "trace" not in result("other")["result"]
    assert "none: other names or shapes" in capsys.readouterr().out


def test_structural_dropout(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["analysis=structural_dropout", *SMALL[:3], "dataset=text", "analyze.draws=4"]
    est_analyze(place, *given, "stage.p_l=1.0")
    found = result("analyze-first-structural_dropout")["result"]
    assert [one["kind"] for one in found["regularisation"]] == ["heads", "columns", "all"]
    assert found["realised"] == {"p_h": 0.5, "p_m": 0.5, "p_l": 1.0}
    for one in found["regularisation"][:2]:
        assert abs(one["rest"]["mean"]) < 0.25 * abs(one["measured"]["mean"]), "an untrained model is close to linear"
    assert found["mean_output"].keys() == {"attn.c_proj", "mlp.c_proj"}
    assert "second order" in capsys.readouterr().out


def test_a_model_that_est_cannot_sample(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a family without a specification, without a tokenizer of its own: everything but sampling works."""
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 300}
    GPTBigCodeForCausalLM(GPTBigCodeConfig(**sizes, bos_token_id=1, eos_token_id=1)).save_pretrained(tmp_path / "m")
    byte_tokenizer().save_pretrained(tmp_path / "t")
    est_analyze(place, "checkpoint=m", *SMALL, code=4)
    assert "m: holds no tokenizer" in capsys.readouterr().err
    est_analyze(place, "checkpoint=m", "tokenizer=t", *SMALL)
    assert result("analyze-m-hessian_trace")["result"]["groups"].keys() == {"embeddings", "attention", "mlp", "norms"}
    est_analyze(place, "checkpoint=m", "tokenizer=t", "analysis=structural_dropout", *SMALL[:3], "dataset=text", code=2)
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(
        "est-analyze: error: checkpoint: the architecture 'gpt_bigcode' is not supported; supported are"
    )


@pytest.mark.parametrize(
    ("args", "code", "line"),
    [
        (["run_name=used"], 2, "run_name: outputs/used is there and is never overwritten; choose another one"),
        (["analyze.seq_len=48", "analyze.tokens=99999999", "dataset.files=tiny.txt"], 3, "more than the"),
        (["tokenizer=nowhere"], 3, "tokenizer: "),
        (["analysis=structural_dropout", "sampling.kv_groups=within"], 2, "sampling.kv_groups: `within` cannot sample"),
    ],
)
def test_errors(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    code: int,
    line: str,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("outputs/used").mkdir(parents=True)
    Path("outputs/used/own.txt").write_text("mine")
    Path("tiny.txt").write_text("a" * 30)
    est_analyze(place, *["analyze.seq_len=16", "analyze.tokens=64", "dataset=text"], *args, code=code)
    out, err = capsys.readouterr()
    assert out == "" and line in err.splitlines()[-1]
    assert tree(Path("outputs")) == {"outputs/used": None, "outputs/used/own.txt": b"mine"}


def test_what_is_stopped_or_fails_leaves_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*args: Any) -> Any:
        assert Path("outputs/analyze-first-hessian_trace").is_dir(), "the folder is taken at the start"
        raise StoppedBySignal(signal.SIGTERM, "by SIGTERM")

    monkeypatch.setitem(run_analysis.ANALYSES, run_analysis.Analysis.hessian_trace, stop)
    est_analyze(place, *SMALL, code=128 + 15)
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == "est-analyze: stopped: nothing was written; the same command begins anew"
    assert list(Path("outputs").iterdir()) == []

    def memory(*args: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(run_analysis.ANALYSES, run_analysis.Analysis.hessian_trace, memory)
    est_analyze(place, *SMALL, code=9)
    assert "analyze.batch: out of memory; use a smaller one" in capsys.readouterr().err


def test_weights_that_are_not_finite_are_told(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(place / "first")
    model.transformer.ln_f.weight.data[0] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    byte_tokenizer().save_pretrained(tmp_path / "broken")
    est_analyze(place, "checkpoint=broken", *SMALL, code=5)
    assert "broken: its loss on this text is nan" in capsys.readouterr().err
    assert list(Path("outputs").iterdir()) == []


ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


def started(place: Path, folder: Path, *launcher: str) -> dict[str, Any]:
    """What processes of their own find."""
    args = [sys.executable, *launcher, "-m", "est_cli.analyze", f"checkpoint={place / 'first'}", *text_of(place)]
    args += [*SMALL, "run_name=x"]
    folder.mkdir()
    ended = subprocess.run(args, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("results: ") == 1
    return json.loads((folder / "outputs" / "x" / "analysis.json").read_text())["result"]


@pytest.mark.long
def test_two_processes_find_what_one_finds(place: Path, tmp_path: Path) -> None:
    """To the last bit: every cell is one process's."""
    assert started(place, tmp_path / "two", *ACCELERATE) == started(place, tmp_path / "one")


@pytest.mark.long
def test_a_signal_ends_the_real_command_cleanly(place: Path, tmp_path: Path) -> None:
    args = [sys.executable, "-m", "est_cli.analyze", f"checkpoint={place / 'first'}", *text_of(place), *SMALL]
    args += ["analyze.probes=100000", "run_name=x"]
    with subprocess.Popen(args, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if (tmp_path / "outputs" / "x").exists():
                break
            time.sleep(0.1)
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + 15 and "Traceback" not in err
    assert err.splitlines()[-1] == "est-analyze: stopped: nothing was written; the same command begins anew"
    assert list((tmp_path / "outputs").iterdir()) == []


def test_numbers_are_kept_whatever_becomes_of_the_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Figure:
        raise ValueError("no font")

    run_analysis.draw(tmp_path, {"bad.png": fail, "good.png": lambda: new_figure(1, 1)})
    assert caplog.messages == [f"{tmp_path}/bad.png: not drawn (no font)"]
    assert [path.name for path in tmp_path.iterdir()] == ["good.png"]


def test_wandb_gets_numbers_and_pictures_if_it_is_asked_for(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    class Sink:
        def __init__(self, tracking: Any, job: Any, config: Any, warn: Any) -> None:
            told.extend([tracking.wandb.value, job.job_type, job.run_name, config["analysis"]])

        def finish(self, ending: Any) -> None:
            told.extend([dict(ending.summary), dict(ending.images)])

    monkeypatch.setattr(run_analysis, "WandbSink", Sink)
    config, _ = typed_in("analyze", f"checkpoint={place}", "tracking.wandb=offline")
    (tmp_path / "flatness.png").touch()
    pictures = [tmp_path / "flatness.png", tmp_path / "not drawn.png"]
    run_analysis.track(config, tmp_path, {"trace": {"mean": 1.5}, "seeds": [1]}, pictures)
    numbers, images = {"analysis/trace.mean": 1.5, "analysis/seeds": [1]}, {"plots/flatness": pictures[0]}
    assert told == ["offline", "analyze", tmp_path.name, "hessian_trace", numbers, images]
    assert typed_in("analyze", f"checkpoint={place}")[0].tracking.wandb.value == "off"
