"""Files of prices as est-analyze writes them, with prices that are made up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from est_cli.config import RunConfig
from est_cli.config.prices import settings_of_prices

Rates = tuple[float, float, float]


def price_content(
    config: RunConfig, moments: Mapping[int, Mapping[Rates, float]], gain: float = 0.001, error: float = 0.0
) -> dict[str, Any]:
    """`moments`: by step the complete steps that a step at (p_h, p_m, p_l) loses."""
    return {
        "analysis": "prices",
        "result": {
            "settings": settings_of_prices(config, config.sampling),
            "run_steps": 100,
            "moments": [
                {
                    "step": step,
                    "gain": {"mean": gain, "standard_error": 0.0},
                    "offers": [
                        {"p_h": h, "p_m": m, "p_l": n, "p_t": 1.0, "lost": {"mean": lost, "standard_error": error}}
                        for (h, m, n), lost in offers.items()
                    ],
                }
                for step, offers in moments.items()
            ],
        },
    }


def write_prices(folder: Path, content: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "analysis.json").write_text(json.dumps(content))
    return folder
