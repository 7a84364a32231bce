"""What compare.py makes of the measured seconds: speeds, ratios with their spread, gates, and the tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from contenders.rounds import Measured
from measure import RATES, Case, paired_ratio
from rich import box
from rich.console import Console
from rich.table import Table

from est_cli.est import training_flops
from est_cli.est.sizes import DEFAULTS, sample_sizes
from est_cli.families import spec_of
from est_cli.models import hf_config

DENSE = "ours-dense"
STAGES = {"ours-stage1": "stage 1", "ours-stage2": "stage 2", "ours-stage3": "full"}
"""Our stages and what stage_time calls their rates."""


@dataclass(frozen=True)
class Speed:
    """How fast a contender is: the median over the rounds and its 95 % interval."""

    name: str
    tokens_per_s: float
    low: float
    high: float
    mfu: float | None
    """Share (0-1) of the device's peak; None where that is not known."""
    peak_memory_gb: float | None
    startup_s: float


@dataclass(frozen=True)
class Ratio:
    """A median of ratios inside rounds, its 95 % interval, and whether the gate holds (None: there is none)."""

    name: str
    ratio: float
    low: float
    high: float
    ideal: float
    limit: float | None
    passed: bool | None


def step_flops(case: Case) -> dict[str, int]:
    """Total FLOPs of an optimizer step: of each of our stages, and under DENSE of the complete model."""
    spec = spec_of(hf_config(case.model))
    sizes = {stage: sample_sizes(spec, rates, DEFAULTS) for stage, rates in RATES.items()}
    flops = {stage: training_flops(spec, sizes[stage], *case.shape).total for stage in RATES}
    return {DENSE: flops["full"], **{name: flops[stage] for name, stage in STAGES.items()}}


def speeds(case: Case, measured: dict[str, Measured], peak: float | None) -> list[Speed]:
    """One line per contender; `peak` in FLOP/s."""
    flops, lines = step_flops(case), []
    for name, of in measured.items():
        middle, low, high = paired_ratio([float(case.tokens)] * len(of.seconds), of.seconds)
        mfu = None if peak is None else flops.get(name, flops[DENSE]) * middle / case.tokens / peak
        lines.append(Speed(name, middle, low, high, mfu, of.peak_memory_gb, min(of.starts_s)))
    return lines


def rivals(measured: dict[str, Measured], gated: set[str]) -> list[Ratio]:
    """Our dense tokens/s over each rival's; a gate holds if the interval reaches 1.00."""
    lines = []
    for name, of in measured.items():
        if DENSE in measured and name != DENSE and name not in STAGES:
            ratio, low, high = paired_ratio(of.seconds, measured[DENSE].seconds)
            limit, passed = (1.0, high >= 1.0) if name in gated else (None, None)
            lines.append(Ratio(name, ratio, low, high, 1.0, limit, passed))
    return lines


def stages(case: Case, measured: dict[str, Measured]) -> list[Ratio]:
    """Time of each of our stages over our dense step, against the ratio of their FLOPs."""
    flops, lines = step_flops(case), []
    for name, stage in STAGES.items():
        if DENSE in measured and name in measured:
            ratio, low, high = paired_ratio(measured[name].seconds, measured[DENSE].seconds)
            ideal = flops[name] / flops[DENSE]
            limit = None if stage == "full" else case.limit
            lines.append(Ratio(name, ratio, low, high, ideal, limit, None if limit is None else ratio / ideal <= limit))
    return lines


def as_json(measured: dict[str, Measured], lines: list[Speed]) -> dict[str, Any]:
    """name -> everything known of that contender."""
    return {line.name: {**asdict(line), **asdict(measured[line.name])} for line in lines}


def show(console: Console, lines: list[Speed], against: list[Ratio], ours: list[Ratio]) -> None:
    """Two tables, each narrower than 80 columns."""
    ratio_of = {ratio.name: ratio for ratio in against}
    table = _table("", "tokens/s", "MFU", "GB", "start s", "dense/it", "95 % interval", "gate")
    for line in lines:
        of = ratio_of.get(line.name)
        told = ("", "", "") if of is None else (f"{of.ratio:.3f}", _interval(of), _verdict(of))
        memory = "-" if line.peak_memory_gb is None else f"{line.peak_memory_gb:.2f}"
        mfu = "-" if line.mfu is None else f"{100 * line.mfu:.1f} %"
        table.add_row(line.name, f"{line.tokens_per_s:,.0f}", mfu, memory, f"{line.startup_s:.1f}", *told)
    console.print(table)
    if ours:
        table = _table("", "time/dense", "95 % interval", "ideal", "/ ideal", "gate")
        for of in ours:
            numbers = (f"{of.ratio:.3f}", _interval(of), f"{of.ideal:.3f}", f"{of.ratio / of.ideal:.3f}")
            table.add_row(of.name, *numbers, _verdict(of))
        console.print(table)


def failed(ratios: list[Ratio]) -> Iterator[str]:
    return (ratio.name for ratio in ratios if ratio.passed is False)


def _table(*columns: str) -> Table:
    return Table(*columns, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)


def _interval(ratio: Ratio) -> str:
    return f"{ratio.low:.3f} - {ratio.high:.3f}"


def _verdict(ratio: Ratio) -> str:
    if ratio.passed is None:
        return "none"
    return "holds" if ratio.passed else "[bold red]FAILS"
