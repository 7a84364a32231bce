"""What est-eval and est-analyze have left in a run's folder and beside it, as tables: files that may be anybody's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from est_cli.reporting.records import LARGEST
from est_cli.storage import strict_json

GLUE, ZERO_SHOT, ANALYSIS = "results.json", "zero_shot.json", "analysis.json"
MAX_BYTES = 1 << 26
MAX_ROWS, MAX_DEPTH = 60, 6
Rows = list[list[str]]


def scores_of(folder: Path) -> tuple[list[str], Rows] | None:
    """Headings and rows of what est-eval has kept in a run's folder; None where there is nothing."""
    glue, zero_shot = (_records(folder / name) for name in (GLUE, ZERO_SHOT))
    rows = [*_fine_tuned(glue), *(row for record in zero_shot for row in _zero_shot(record))]
    return (["task", "metric", "value", "of"], rows) if rows else None


def _records(path: Path) -> list[Mapping[str, Any]]:
    """Those that are objects; a file that is none of est-eval's (a sweep's has the same name) has none."""
    try:
        found = strict_json.read_file(path, MAX_BYTES).get("records")
    except (OSError, ValueError):
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _fine_tuned(records: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Of a task that was done with several settings, or models, each stands in a row of its own."""
    scores: dict[tuple[str, str, str], list[float]] = {}
    for record in records:
        if is_number(record.get("score")):
            key = str(record.get("task")), str(record.get("checkpoint")), str(record.get("settings_digest"))
            scores.setdefault(key, []).append(record["score"])
    for (task, checkpoint, _), values in scores.items():
        sd = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
        yield [task, "score", f"{fmean(values):.4f}{sd}", f"{checkpoint}, fine-tuned, n={len(values)}"]


def _zero_shot(record: Mapping[str, Any]) -> Iterator[list[str]]:
    numbers = record.get("results", {key: record.get(key) for key in ("perplexity", "bits_per_byte")})
    for metric, value in numbers.items() if isinstance(numbers, dict) else ():
        if is_number(value) and not str(metric).endswith("_stderr"):
            yield [str(record.get("task")), str(metric), f"{value:.4f}", f"{record.get('checkpoint')}, zero-shot"]


def analyses_of(folder: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Folder and content of each analysis of this run's models, of those that lie beside it."""
    return [(path.parent.name, content) for path, content in _analyses_in(folder.parent) if _is_of(content, folder)]


def forget_analyses() -> None:
    """They are looked for anew."""
    _analyses_in.cache_clear()


@lru_cache(maxsize=256)
def _analyses_in(outputs: Path) -> list[tuple[Path, Mapping[str, Any]]]:
    found: list[tuple[Path, Mapping[str, Any]]] = []
    for path in sorted(outputs.glob(f"*/{ANALYSIS}")):
        try:
            found.append((path, strict_json.read_file(path, MAX_BYTES)))
        except (OSError, ValueError):
            continue  # of a tool that is writing it, or of another one
    return found


def _is_of(content: Mapping[str, Any], folder: Path) -> bool:
    settings = content.get("settings")
    name = settings.get("checkpoint") if isinstance(settings, dict) else None
    if not isinstance(name, str):
        return False
    place = Path(name)
    place = place.parent if place.name == "model" else place
    place = place.parent.parent if place.parent.name == "checkpoints" else place
    return place.name == folder.name


def analysis_rows(result: Any, name: str = "", depth: int = MAX_DEPTH) -> Rows:
    """Every number of an analysis with its name, without its lists of numbers and what is nested deeper."""
    if is_number(result):
        return [[name, f"{result:.5g}"]]
    if isinstance(result, dict) and is_number(result.get("mean")):
        error = result.get("standard_error")
        return [[name, f"{result['mean']:.5g}" + (f" ± {error:.2g}" if is_number(error) else "")]]
    if isinstance(result, list):
        result = {_called(one, number): one for number, one in enumerate(result) if isinstance(one, dict)}
    parts = list(result.items())[:MAX_ROWS] if isinstance(result, dict) and depth else []
    return [row for key, value in parts for row in analysis_rows(value, f"{name} {key}".strip(), depth - 1)][:MAX_ROWS]


def _called(one: Mapping[str, Any], number: int) -> str:
    return next((f"{key} {one[key]}" for key in ("kind", "step") if key in one), str(number + 1))


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST
