"""The end of a run: what was computed is kept whatever becomes of its pictures, and those can be had later."""

from __future__ import annotations

import json

from est_cli.reporting.card import is_edited
from est_cli.storage.run_dir import LAST_PLOT
from est_cli.storage.store import is_intact, verify_folder
from tests.lab.lab import Lab

SHORT = ("train.max_steps=6", "stage.t1=2", "stage.t2=4")


def test_pictures_that_could_not_be_drawn_are_drawn_by_the_next_start(lab: Lab) -> None:
    plant = ("at", "est_cli.training.finish.plot_run", 1, "before", "out of memory")
    ended = lab.tiny("x", *SHORT, plants=[plant])
    assert ended.code == 0, ended.err
    assert "outputs/x/plots: not drawn (CUDA out of memory." in ended.err
    assert "resume=outputs/x draws them" in ended.err
    assert json.loads((lab.at("x") / "summary.json").read_text())["steps"] == 6
    assert "stage  p_H  p_M  p_L" in ended.out, "the table is shown all the same"
    *_, sentence, following = ended.out.splitlines()
    assert sentence.startswith("outputs/x: saved ") and "no dense twin" in sentence
    assert following == "next      est-report outputs/x"
    assert not (lab.at("x") / "plots").exists()
    again = lab.tiny("x", *SHORT)
    more = "resume=outputs/x train.max_steps=12 makes it longer\n"
    assert again.code == 0
    assert again.out == f"outputs/x: this run is finished, nothing is left to do but its plots; {more}"
    assert (lab.at("x") / "plots" / LAST_PLOT).exists()
    assert lab.tiny("x", *SHORT).out == f"outputs/x: this run is finished, nothing is left to do; {more}"


def test_a_card_stands_beside_the_model(lab: Lab) -> None:
    """However the end was interrupted; it is none of the model's own files, so that anybody may edit it."""
    kill = ("at_fault_point", "write .tmp-README.md", "SIGKILL")
    assert lab.tiny("x", *SHORT, "license=mit", plants=[kill]).code == -9
    model = lab.at("x") / "model"
    assert is_intact(model) and not (model / "README.md").exists()
    assert not (lab.at("x") / "summary.json").exists()
    arguments = lab.arguments("run_name=x", "resume=auto", *SHORT, "license=mit")
    ended = lab.ended(lab.start(*arguments, plants=()))  # with its pictures
    assert ended.code == 0, ended.err
    card = (model / "README.md").read_text()
    summary = json.loads((lab.at("x") / "summary.json").read_text())
    assert not is_edited(card) and "license: mit" in card
    assert f"| {summary['flops_saved_pct_blocks']:.2f} % |" in card and str(lab.folder) not in card
    assert (model / "loss.png").read_bytes() == (lab.at("x") / "plots" / "loss.png").read_bytes()
    (model / "README.md").write_text("my own words")
    verify_folder(model)
    assert not list(lab.at("x").rglob(".tmp-*"))
