"""est-train under W&B's agent: a run has the folder of its id, and comes back with all that W&B knows as arguments."""

from __future__ import annotations

import json

import pytest
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from est_cli.cli.agent import agent_arguments
from est_cli.config.schema import leaves_of, plain, tracked_settings
from tests.lab.commands import typed_in

AGENT = {"WANDB_SWEEP_ID": "swp1", "WANDB_RUN_ID": "run-1x"}
NAMED = ["sweep='swp1'", "run_name='run-1x'", "resume=auto"]


def test_without_an_agent_the_line_stays() -> None:
    line = ["est-train", "optim.lr=1e-3", "est=1", "train.max_tokens=None"]
    assert agent_arguments(line, {}) == line and agent_arguments(line, {"WANDB_SWEEP_ID": "s"}) == line
    assert agent_arguments([*line, "-m"], AGENT) == [*line, "-m"]


@pytest.mark.parametrize("name", ["run_name=x", "+sweep=mine", "resume=outputs/x"])
def test_a_name_of_ones_own_counts(name: str) -> None:
    assert agent_arguments(["est-train", name], AGENT) == ["est-train", name]


def test_the_folder_is_that_of_the_id() -> None:
    assert agent_arguments(["est-train", "optim.lr=1e-3"], AGENT) == ["est-train", "optim.lr=1e-3", *NAMED]


@pytest.mark.parametrize("words", [(), ("scheduler=dense",), ("model=llama_tiny", "train.micro_batch=[2, 4, 8]")])
def test_all_that_wandb_knows_of_a_run_is_the_run_again(words: tuple[str, ...]) -> None:
    begun, _ = typed_in("train", *words)
    told = tracked_settings(begun) | {"_wandb": {"t": [1, "a=b"]}, "est": {"hub": {"model": None}, "x": "it's"}}
    from_server = json.loads(json.dumps({key: {"value": value} for key, value in told.items()}))
    given = create_sweep_command_args({"args": from_server})["args_no_hyphens"]
    again, _ = typed_in("train", *words, *agent_arguments(["est-train", *given], AGENT)[1:])
    assert (again.sweep, again.run_name, again.resume) == ("swp1", "run-1x", "auto")
    again.sweep = again.run_name = again.resume = None
    assert repr(leaves_of(plain(again))) == repr(leaves_of(plain(begun)))
