"""Estimates are kept: the same numbers as before, without transformers, and anew for anything else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from est_cli import families
from est_cli.config import PlanConfig, Precision
from est_cli.config.resolve import resolve
from est_cli.planning import PlannedMemory, make_plan, memory, memory_cache, memory_of
from est_cli.training.memory_estimate import MemoryEstimate
from tests.lab.commands import accepted

pytestmark = pytest.mark.slow

TINY = ("model.hidden_size=32", "train.seq_len=32", "train.micro_batch=2", "train.max_steps=40")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(memory_cache.FOLDER_VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept" / "memory"


@pytest.fixture
def estimated(monkeypatch: pytest.MonkeyPatch) -> list[MemoryEstimate]:
    """What is really estimated."""
    made: list[MemoryEstimate] = []
    real = memory._estimated
    monkeypatch.setattr(memory, "_estimated", lambda *args: made.append(real(*args)) or made[-1])  # type: ignore[func-returns-value]
    return made


def planned(*args: str) -> PlannedMemory:
    return memory_of(make_plan(accepted(*TINY, *args, schema=PlanConfig)))


def test_the_second_plan_is_the_first(estimated: list[MemoryEstimate], folder: Path) -> None:
    first, second = planned(), planned("train.max_steps=80", "launch.num_processes=2", "gpus=[]")
    assert len(estimated) == 1 == len([*folder.iterdir()])
    assert first.estimate == estimated[0] == second.estimate


@pytest.mark.some(3)
@pytest.mark.parametrize(
    "other",
    ["stage.p_h=1.0", "model.num_layers=2", "train.precision=bf16", "train.seq_len=64", "optim=muon",
     "model=llama_tiny", "train.activation_checkpointing=true", "train.lm_loss=whole", "sampling.multiple_of=16"],
)  # fmt: skip
def test_what_changes_the_estimate_is_another_one(other: str, estimated: list[MemoryEstimate]) -> None:
    planned()
    planned(other)
    assert len(estimated) == 2


def test_another_version_of_est_estimates_anew(
    estimated: list[MemoryEstimate], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned()
    monkeypatch.setattr(memory_cache, "_own_files", lambda: ["other"])
    planned()
    assert len(estimated) == 2


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"parameters": 1}'])
def test_a_damaged_file_is_made_anew(content: str, estimated: list[MemoryEstimate], folder: Path) -> None:
    planned()
    (path,) = folder.iterdir()
    good = path.read_text()
    path.write_text(content)
    planned()
    assert len(estimated) == 2 and path.read_text() == good


@pytest.mark.parametrize("what", ["parameters", "layers", "activations"])
def test_numbers_that_are_none_are_not_believed(what: str, estimated: list[MemoryEstimate], folder: Path) -> None:
    planned()
    (path,) = folder.iterdir()
    found = json.loads(path.read_text())
    found[what] = {"parameters": "9", "layers": [[9]], "activations": [{"fixed": 9, "per_sequence": None}]}[what]
    path.write_text(json.dumps(found))
    assert planned().estimate == estimated[0] == estimated[1]


def test_of_a_family_of_others_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes one changes its files, and its version stays."""
    monkeypatch.setattr(families._others, "_loaded", {})
    families.register_family("mine", families.family_of("gpt2"))
    run = resolve(accepted(*TINY, schema=PlanConfig))
    assert memory_cache.file_of(run, [1], Precision.fp32, False) is not None
    run.config.model.family = "mine"
    assert memory_cache.file_of(run, [1], Precision.fp32, False) is None


def test_a_user_without_a_home_gets_a_plan(estimated: list[MemoryEstimate], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(memory_cache.FOLDER_VARIABLE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: Path("~nobody-of-this-name").expanduser())
    assert planned().estimate == estimated[0]


def test_where_nothing_can_be_kept_plans_are_made_all_the_same(estimated: list[MemoryEstimate], tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("no folder")
    planned()
    planned()
    assert len(estimated) == 2


def test_a_second_plan_loads_torch_and_nothing_else_that_is_large(tmp_path: Path) -> None:
    planned()
    code = (
        "import sys; from est_cli.plan import main; main(['est-plan', *sys.argv[1:]]); "
        "print(sorted({'torch', 'transformers', 'matplotlib', 'accelerate', 'scipy'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code, *TINY], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "['torch']"


def test_a_first_plan_is_printed_before_transformers_is_imported(tmp_path: Path) -> None:
    """The process ends where it asks for transformers: what it has printed by then needs no model."""
    code = (
        "import sys\nfrom est_cli.plan import main\n"
        "class Refused:\n"
        "    def find_spec(name, *rest):\n        if name == 'transformers': sys.exit(7)\n"
        "sys.meta_path.insert(0, Refused)\nmain(['est-plan', *sys.argv[1:]])"
    )
    args = (*TINY, "dataset.packing=document")
    ended = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 7, ended.stderr
    first = [line.split()[0] for line in ended.stdout.splitlines()]
    assert first.count("all") == 2 and "GPU" in first and "dataset.packing=document:" in first
    assert "memory" not in ended.stdout
