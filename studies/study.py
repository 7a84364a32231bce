"""Run the studies of docs/results/: every finished cell is a small JSON that is kept, and is not run again.

    EST_DATA=DIR python studies/study.py a b             # all that is missing of these studies, hours on one core
    EST_DATA=DIR python studies/study.py a --size m      # only the cells of one size; --seed: of one seed
    EST_DATA=DIR python studies/study.py a --part 1/2    # every second cell, beside a process with --part 2/2
    EST_DATA=DIR python studies/study.py a --minutes 8   # begin no cell after so long
    python studies/study.py a --list                     # which cells there are, and which are done

A cell is one run of est-train: an arm of a study (studies/studies.py) with one seed at one size (conf/experiment),
on $EST_DATA/corpus. Its JSON goes to docs/results/data/STUDY/ and is to be committed, its folder in outputs/study/ is
not. A run that is stopped continues where it was; one that another study has made already is not made again.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared_data import shared

from est_cli.config import PlanConfig
from est_cli.config.compose import composed
from est_cli.planning import make_plan
from est_cli.storage.strict_json import read_file
from est_cli.tracking import read_metrics
from studies import ON_GPU, STUDIES, Arm, Study

DATA = Path("docs/results/data")
FOLDER = "study"
KEPT = (
    *("steps", "tokens", "final_val_loss", "flops", "flops_dense", "flops_blocks", "flops_saved_pct_blocks"),
    *("flops_saved_pct_total", "time_s", "time_saved_pct", "stages", "transitions", "coverage", "diagnoses"),
    *("hardware", "git_commit", "versions", "data_hash"),
)


@dataclass(frozen=True)
class Cell:
    study: str
    size: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Of its file and its run."""
        words = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{self.study}-{self.size}-{self.arm}-{self.seed}")
        return words.strip("-")

    @property
    def result(self) -> Path:
        return DATA / self.study / f"{self.name}.json"


def cells_of(letter: str) -> Iterator[Cell]:
    """Seed by seed, so that what is there early compares all arms."""
    study = STUDIES[letter]
    for size in study.sizes:
        for seed in study.seeds:
            yield from (Cell(letter, size, arm, seed) for arm in study.arms)


def overrides_of(cell: Cell) -> list[str]:
    """Of est-train, without text and names."""
    study = STUDIES[cell.study]
    arm = study.arms[cell.arm]
    given = [f"experiment=study_{cell.size}", *arm.overrides, f"seed={cell.seed}", *_boundaries(arm, cell.size)]
    return given if arm.as_long_as is None else [*given, f"train.max_steps={_steps(study, arm, cell.size)}"]


def _boundaries(arm: Arm, size: str) -> list[str]:
    """Those that save the share of the block FLOPs that the arm is to save, if it says so."""
    if arm.saves is None:
        return []
    overrides = [f"experiment=study_{size}", *arm.overrides, f"target_saving={arm.saves}"]
    found = make_plan(composed("plan", PlanConfig, overrides, None)[0]).target
    assert found is not None
    return found.settings.split()


def _steps(study: Study, arm: Arm, size: str) -> int:
    """As many as use the FLOPs of the arm that this one is to be as long as."""
    assert arm.as_long_as is not None
    recipe = f"experiment=study_{size}"
    longest = study.arms[arm.as_long_as]
    overrides = [recipe, *longest.overrides, *_boundaries(longest, size)]
    flops = make_plan(composed("plan", PlanConfig, overrides, None)[0]).ledger.used.total
    target = ("train.max_steps=null", f"target_flops={flops}", "target_convention=total")
    return make_plan(composed("plan", PlanConfig, [recipe, *arm.overrides, *target], None)[0]).scheduler.max_steps


def run(cell: Cell, corpus: str) -> None:
    """Train it, or what is left of it, and keep its numbers."""
    overrides = overrides_of(cell)
    known = _same_run(overrides)
    if known is not None:
        _keep(cell, {**known, "study": cell.study, "arm": cell.arm})
        return
    part = "train-*" if cell.study in ON_GPU else "train-00000"
    text = ["dataset=text", f"dataset.files=[{corpus}/{part}.jsonl.xz]", "tracking.wandb=off"]
    text.append(f"dataset.validation_files=[{corpus}/validation.jsonl.xz]")
    place = (f"sweep={FOLDER}", f"run_name={cell.name}", "resume=auto")
    subprocess.run([sys.executable, "-m", "est_cli.train", *overrides, *text, *place], check=True)
    folder = kept_of(cell)
    summary = read_file(folder / "summary.json")
    records = read_metrics(folder / "metrics.jsonl")
    flops = {record["step"]: record["flops"] for record in records if "flops" in record}
    curve = [(r["step"], flops.get(r["step"]), r["val_loss"]) for r in records if "val_loss" in r]
    draws = [(r["step"], r["draw_spread"], r["draw_range"]) for r in records if "draw_spread" in r]
    told = {"study": cell.study, "size": cell.size, "arm": cell.arm, "seed": cell.seed, "overrides": overrides}
    _keep(cell, {**told, "summary": {key: summary[key] for key in KEPT}, "validation": curve, "draws": draws})


def kept_of(cell: Cell) -> Path:
    """The folder of its run; where another study has made it, the folder there."""
    runs = Path("outputs") / FOLDER
    if not (runs / cell.name).exists():
        overrides = overrides_of(cell)
        for path in sorted(DATA.glob("*/*.json")):
            if (runs / path.stem).exists() and read_file(path).get("overrides") == overrides:
                return runs / path.stem
    return runs / cell.name


def _same_run(overrides: Sequence[str]) -> dict[str, Any] | None:
    """The cell of any study that was run with these overrides; results of twins.py have none."""
    cells = (read_file(path) for path in sorted(DATA.glob("*/*.json")))
    return next((cell for cell in cells if cell.get("overrides") == list(overrides)), None)


def _keep(cell: Cell, content: dict[str, Any]) -> None:
    cell.result.parent.mkdir(parents=True, exist_ok=True)
    cell.result.write_text(json.dumps(content, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", metavar=f"{{{','.join(STUDIES)}}}")
    parser.add_argument("--part", default="1/1", metavar="I/N")
    parser.add_argument("--size", choices=sorted({size for study in STUDIES.values() for size in study.sizes}))
    parser.add_argument("--seed", type=int)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args(argv)
    part, parts = map(int, arguments.part.split("/"))
    unknown = sorted(set(arguments.studies) - set(STUDIES))
    if unknown:
        parser.error(f"{', '.join(unknown)}: no study of this name; there are {', '.join(STUDIES)}")
    cells = [cell for letter in arguments.studies or sorted(set(STUDIES) - set(ON_GPU)) for cell in cells_of(letter)]
    cells = [cell for cell in cells if arguments.size in (None, cell.size) and arguments.seed in (None, cell.seed)]
    if arguments.list:
        for cell in cells:
            print(f"{'done' if cell.result.exists() else '    '} {cell.name}")
        return
    begun = time.monotonic()
    for cell in cells[part - 1 :: parts]:
        if cell.result.exists():
            continue
        if time.monotonic() - begun > 60 * arguments.minutes:
            return
        run(cell, str(shared("corpus")))


if __name__ == "__main__":
    main()
