"""The page of studies/draws.py: docs/results/draws.md and .png, from docs/results/data/draws/.

What the numbers say is written by hand in studies/readings/draws.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.ticker import NullFormatter

from est_cli.reporting.drawing import (
    AMBER,
    BLUE,
    DPI,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    labelled,
    legend_below,
    new_figure,
    tidy,
)
from est_cli.storage.strict_json import read_file

PAGES = Path("docs/results")
DATA = PAGES / "data" / "draws"
READING = Path(__file__).parent / "readings" / "draws.md"
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, AMBER, GREY)
HEADINGS = (
    *("schedule", "width", "heads", "learning rate", "steps", "draws x tokens", "median spread by stage"),
    *("largest spread", "loss spikes, the largest", "final loss minus dense"),
)
MARKERS = {"constant": "o", "three_stage": "s", "raptr": "^"}
FRAGILE = 0.1
LONG = 1000
"""Runs of so many steps have a picture of their own."""
COMMANDS = """```sh
EST_DATA=DIR OMP_NUM_THREADS=1 python studies/study.py v --size w64
EST_DATA=DIR OMP_NUM_THREADS=1 python studies/draws.py
python studies/draws.py --take outputs/study/v-w64-*
```"""

INTRO = """When in training do the losses of subnetworks lie far apart, with how many heads and at which width, and
does it tell how a run will end? `draw_spread` ([metrics](../metrics.md)) is the standard deviation (nats) over some
draws of the stage, all on the same validation text, measured beside each evaluation."""
BEGINNINGS = f"""Three seeds, the draws (rate 0.5 of heads, columns and layers) compared every second step. *Fragile*
is a spread above {FRAGILE:g} nats. Seed 0 has the bits of the first 50 steps of the whole run below."""
BEGINNING_HEADINGS = (
    *("width", "heads", "seed", "fragile evaluations", "first at step", "largest spread", "at step"),
    "loss spikes, the largest",
)
LOOKS = """`est-analyze analysis=draws` of checkpoints of these runs. *Excess* is the loss of a subnetwork minus that of
the complete model (nats). By kind of sampling, each alone at a rate of 0.5: the median and the largest excess of 32
draws. Then the unit of each kind whose absence costs most, with a standard error over sequences; layers are counted
from 0."""
LOOK_HEADINGS = (
    *("run", "step", "complete model", "heads", "columns", "layers", "all"),
    *("costliest head", "costliest column", "costliest layer"),
)

Run = dict[str, Any]


def found() -> tuple[list[Run], list[Run]]:
    """The runs that are kept, by heads and learning rate, and the looks at checkpoints."""
    all_kept = [read_file(path) for path in sorted(DATA.glob("*.json"))]
    runs = [kept for kept in all_kept if "evaluations" in kept]
    looks = [kept for kept in all_kept if "distributions" in kept]
    return (
        sorted(
            runs, key=lambda run: (_steps(run), run["width"], run["heads"], run["scheduler"], run["lr"], run["seed"])
        ),
        sorted(looks, key=lambda look: (look["run"], look["step"])),
    )


def drawn(run: Run) -> list[dict[str, Any]]:
    """Its evaluations that compared draws which could differ: RaPTr's first stage has a single subnetwork."""
    return [one for one in run["evaluations"] if one["draw_spread"]]


def begins(run: Run) -> bool:
    """Whether it is one of the runs that trains subnetworks of one rate and ends early."""
    return bool(run["scheduler"] == "constant")


def gap(run: Run, runs: Sequence[Run]) -> float | None:
    """Its final validation loss minus that of the dense run that is otherwise the same; None where there is none."""
    same = ("width", "heads", "lr", "seed")
    for other in runs:
        if other["scheduler"] == "dense" and _steps(other) == _steps(run) and all(other[k] == run[k] for k in same):
            return float(run["summary"]["final_val_loss"] - other["summary"]["final_val_loss"])
    return None


def spread_by_stage(run: Run) -> dict[int, float]:
    """The median spread (nats) over the evaluations of each stage that has draws."""
    stages = sorted({one["stage"] for one in drawn(run)})
    return {stage: median(one["draw_spread"] for one in drawn(run) if one["stage"] == stage) for stage in stages}


def page() -> str:
    runs, looks = found()
    sampled = [run for run in runs if drawn(run)]
    text = ["# When are draws fragile?", "", INTRO, "", COMMANDS, "", *_about(runs), ""]
    text += ["## The first 50 steps", "", BEGINNINGS, "", *_beginnings(sampled), ""]
    sampled = [run for run in sampled if not begins(run)]
    text += ["## Whole runs", "", *_table(sampled, runs), "", "![spread of draws](draws.png)", ""]
    text += ["## Inside of checkpoints", "", *_looks(looks), ""]
    return "\n".join([*text, "## What this says, and what not", "", READING.read_text().strip(), ""])


def _about(runs: Sequence[Run]) -> Iterator[str]:
    commits = sorted({str(run["summary"]["git_commit"])[:7] for run in runs})
    machines = sorted({run["summary"]["hardware"] for run in runs})
    torch = sorted({run["summary"]["versions"]["torch"] for run in runs})
    seeds = sorted({str(run["seed"]) for run in runs})
    yield f"Commit {', '.join(commits)}; {'; '.join(machines)}; torch {', '.join(torch)}; seed {', '.join(seeds)};"
    yield f"{len(runs)} runs, each a file in [data/draws](data/draws). 4 layers, a vocabulary of 1,024, English text:"
    yield "the recipe `conf/experiment/study_w64.yaml`. What tells runs from it stands in `studies/draws.py`, and of"
    yield "those of 1,920 steps in `studies/studies.py` (study v)."


def _beginnings(sampled: Sequence[Run]) -> Iterator[str]:
    yield from _head(BEGINNING_HEADINGS)
    for run in filter(begins, sampled):
        fragile = [one["step"] for one in drawn(run) if one["draw_spread"] > FRAGILE]
        largest = _largest(run)
        yield (
            f"| {run['width']} | {run['heads']} | {run['seed']} | {len(fragile)} of {len(drawn(run))} | "
            f"{fragile[0] if fragile else '-'} | {largest['draw_spread']:.4f} | {largest['step']} | {_spikes(run)} |"
        )


def _largest(run: Run) -> dict[str, Any]:
    return max(drawn(run), key=lambda one: float(one["draw_spread"]))


def _table(sampled: Sequence[Run], runs: Sequence[Run]) -> Iterator[str]:
    yield from _head(HEADINGS)
    for run in sampled:
        largest = _largest(run)
        by_stage = ", ".join(f"{stage}: {spread:.4f}" for stage, spread in spread_by_stage(run).items())
        minus = gap(run, runs)
        yield (
            f"| {run['scheduler']} | {run['width']} | {run['heads']} | {run['lr']:g} | {_steps(run):,} | "
            f"{run['spread_draws']} x {run['spread_tokens']:,} | {by_stage} | {largest['draw_spread']:.4f} "
            f"(step {largest['step']}) | {_spikes(run)} | {'-' if minus is None else f'{minus:+.4f}'} |"
        )


def _head(headings: Sequence[str]) -> tuple[str, str]:
    return f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"


def _spikes(run: Run) -> str:
    if not run["spikes"]:
        return "none"
    step, loss, usual = max(run["spikes"], key=lambda spike: spike[1] - spike[2])
    return f"{len(run['spikes'])}, {loss:.2f} after {usual:.2f} at step {step}"


def _looks(looks: Sequence[Run]) -> Iterator[str]:
    yield from (LOOKS, "", *_head(LOOK_HEADINGS))
    for look in looks:
        by_kind = {one["kind"]: f"{one['median']:+.3f}, {one['most']:+.3f}" for one in look["distributions"]}
        kinds = " | ".join(by_kind[kind] for kind in ("heads", "columns", "layers", "all"))
        costliest = " | ".join(_costliest(look, kind) for kind in ("head", "column", "layer"))
        yield f"| {look['run']} | {look['step']} | {look['loss']:.3f} | {kinds} | {costliest} |"


def _costliest(look: Run, kind: str) -> str:
    """Where it is (layers are counted from 0) and its excess with a standard error."""
    unit = next(unit for unit in look["units"] if unit["kind"] == kind)
    excess = unit["excess"]
    return f"layer {unit['layer']}: {excess['mean']:+.3f} +- {excess['standard_error']:.3f}"


def draw() -> None:
    """Spread against the step, of beginnings, short runs and long ones; the final gap against the largest spread."""
    runs, _ = found()
    figure = new_figure(10.0, 8.0)
    panels = figure.subplots(2, 2)
    beginnings, short, long, end = panels.flat
    looks: dict[str, dict[str, Any]] = {}
    for run in filter(drawn, runs):
        label = f"width {run['width']}, {run['heads']} heads"
        if _steps(run) > LONG:
            label = f"{run['scheduler']}, lr {run['lr']:g}"
        marker = MARKERS[run["scheduler"]]
        look = looks.setdefault(label, {"color": COLOURS[len(looks) % len(COLOURS)], "marker": marker, "label": label})
        steps, spreads = zip(*((one["step"], one["draw_spread"]) for one in drawn(run)), strict=True)
        axes = beginnings if begins(run) else long if _steps(run) > LONG else short
        axes.plot(steps, spreads, markersize=3, linewidth=1.0, **look)
        minus = gap(run, runs)
        if minus is not None:
            end.plot(max(spreads), minus, linestyle="none", **look)
    titles = ("the first 50 steps, three seeds", "runs of 400 steps", "width 64, 4 heads, 1,920 steps")
    for axes, title in zip((beginnings, short, long), titles, strict=True):
        axes.set(xlabel="optimizer step", ylabel="spread of the draws (nats)", yscale="log", title=title)
    end.set(xlabel="largest spread (nats)", ylabel="final validation loss minus dense", xscale="log", title="the end")
    end.xaxis.set_minor_formatter(NullFormatter())
    for axes in panels.flat:
        tidy(axes)
    legend_below(figure, labelled([*panels.flat]), columns=4)
    figure.savefig(PAGES / "draws.png", dpi=DPI)


def _steps(run: Run) -> int:
    return int(run["summary"]["steps"])


def write() -> None:
    (PAGES / "draws.md").write_text(page())
    draw()
