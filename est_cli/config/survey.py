"""What est-data is asked beside what a run is: samples, a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from est_cli.config.run import RunConfig
from est_cli.config.setting import at_least, setting

MOST_SAMPLES = 1000


@dataclass
class SurveyConfig(RunConfig):
    samples: int = setting(
        3,
        "Documents to train on whose beginnings are shown; seed decides which.",
        within=at_least(0, most=MOST_SAMPLES),
    )
    json: str | None = setting(None, "A new file for all numbers and samples, as JSON.")


def survey_problems(config: SurveyConfig) -> Iterator[str]:
    if config.resume is not None:
        yield "resume: est-data looks at the text of a new run; leave it null"
    if config.dataset.is_ahead:
        yield "dataset.tokenize: est-data tokenises all of the text; use first"
    if config.json is not None:
        path = Path(config.json)
        if config.json in ("", ".", "..") or path.exists():
            yield f"json: {path} is there already; give another name"
        elif not path.parent.is_dir():
            yield f"json: there is no folder {path.parent}; mkdir -p {path.parent}"
