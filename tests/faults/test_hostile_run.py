"""E2: a stopped run whose state or configuration somebody has edited: data, and never more than that."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from est_cli.storage import content
from tests.faults.conftest import Tally
from tests.faults.refused import check_ended, unchanged
from tests.faults.size import either
from tests.faults.victims import copied
from tests.lab.lab import Lab
from tests.storage.test_content import reseal

pytestmark = pytest.mark.row("E2")


@pytest.fixture
def run(stopped: Lab, tmp_path: Path) -> Lab:
    """A stopped run of one's own."""
    return copied(stopped, tmp_path)


VALUES: dict[str, Any] = {
    "step": ["5", -1, 5.0, None, True, [5], 10**9, 4],
    "last_loss": ["2", [1], 1e400],
    "rejected_in_a_row": [-1, "0"],
    "time_s": ["1", -1.0, None],
    "flops_blocks": [-1, 1.5],
    "micro_batches": [[], {"1": 0}, {"1": "2"}, 3],
    "wandb_run_id": ["../../evil", "/tmp/evil", 3, "x" * 1000, "a\nb"],
    "data_hash": ["", "0" * 64, None],
    "tokenizer_hash": ["0" * 64],
    "more": [1],
}
PAIRS = [(key, value) for key, values in VALUES.items() for value in values]


@pytest.mark.parametrize(("key", "value"), either(PAIRS, PAIRS[:1]))
def test_a_state_with_wrong_values(run: Lab, tally: Tally, key: str, value: Any) -> None:
    for folder in (run.at("x") / "checkpoints").iterdir():
        state = json.loads((folder / content.STATE).read_bytes()) | {key: value}
        reseal(folder, state=json.dumps(state).replace("Infinity", "1e999").encode())
    with unchanged(run.at("x")):
        check_ended(run.train("resume=outputs/x"), 4)
    tally(inputs=1)


def test_a_checkpoint_of_a_step_that_the_run_does_not_have(run: Lab, tally: Tally) -> None:
    """As its name and its state agree on, or the name alone: never a run that is done without a step."""
    folder = run.at("x") / "checkpoints"
    late = (folder / "step-000005").rename(folder / "step-000999")
    with unchanged(run.at("x")):
        check_ended(run.train("resume=outputs/x"), 4, "step-000999", "of step 5")
    reseal(late, state=json.dumps(json.loads((late / content.STATE).read_bytes()) | {"step": 999}).encode())
    with unchanged(run.at("x")):
        check_ended(run.train("resume=outputs/x"), 4, "step-000999", "of step 999; the run has 6")
    tally(inputs=2)


ODD_RECORDS = [('"stage"', '"stagf"'), ('"loss": ', '"loss": 1e999, "l": ')]


@pytest.mark.parametrize(("old", "new"), either(ODD_RECORDS, ODD_RECORDS[:1]))
def test_records_that_are_damaged_are_told_at_the_end(run: Lab, tally: Tally, old: str, new: str) -> None:
    """The model is there by then; with the records mended, the run is finished."""
    path = run.at("x") / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace(old, new, 1))
    check_ended(run.train("resume=outputs/x"), 6, "outputs/x/metrics.jsonl: the record of step 1 has no number as")
    path.write_text(path.read_text().replace(new, old, 1))
    assert run.train("resume=outputs/x").code == 0
    assert path.read_text().startswith(whole)
    tally(inputs=1)


SECRET = "canary-of-the-environment"
CONFIGS = {
    "object": "seed: !!python/object/apply:os.mkdir [canary]\n",
    "name": "seed: !!python/name:os.mkdir\n",
    "new object": "seed: !!python/object/new:os.mkdir [canary]\n",
    "bomb": "b0: &b0 [x,x]\n" + "".join(f"b{n}: &b{n} [*b{n - 1},*b{n - 1}]\n" for n in range(1, 30)),
    "nested": "a: " + "[" * 5000,
    "2 MB": "a: '" + "x" * (2 << 20) + "'\n",
    "target": "_target_: os.mkdir\npath: canary\n",
    "target within": "model: {_target_: os.mkdir, path: canary}\n",
    "partial": "model: {_partial_: true, _target_: os.mkdir}\n",
    "environment": "run_name: ${oc.env:SECRET}\n",
    "decoded": "run_name: ${oc.decode:'${oc.env:SECRET}'}\n",
    "created": "model: ${oc.create:{a: 1}}\n",
    "unknown resolver": "seed: ${eval:1+1}\n",
    "defaults": "defaults: [/model: gpt2]\n",
    "hydra": "hydra: {run: {dir: canary}, searchpath: [/]}\n",
    "pickle": pickle.dumps({"seed": 1}, 0).decode("latin-1"),
    "empty": "",
    "binary": "\x00\x01\x02",
    "a list": "- 1\n",
    "null key": "null: 1\n",
    "number key": "1: 1\nseed: 2\n",
    "folder": "run_name: ../../canary\ndataset: {files: 3}\n",
}


@pytest.mark.parametrize("case", either(list(CONFIGS), ["object"]))
def test_a_stored_configuration_that_is_more_than_data(run: Lab, tally: Tally, case: str) -> None:
    (run.at("x") / "config.yaml").write_text(CONFIGS[case])
    with unchanged(run.folder / "outputs"):
        pid = run.start("resume=outputs/x", environment={"SECRET": SECRET})
        ended = run.ended(pid)
        line = check_ended(ended, 4, "outputs/x/config.yaml")
    assert SECRET not in line and not list(run.folder.rglob("canary"))
    tally(inputs=1)
