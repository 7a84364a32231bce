"""How long est-report takes for many runs, and how long their page takes in a browser.

    python benchmarks/report_time.py                    # 200 runs of 1,000 steps in 20 groups, a minute
    python benchmarks/report_time.py --json FILE        # Chromium on the PATH and playwright, or the page is not opened

Reported are seconds of reading the runs, of making the page of what was read (without the pictures for papers), the
page's size, and in Chromium the seconds until both pictures are drawn, until the axis is switched, and until all groups
are switched on: the median of `--rounds`. Aim: a page of 200 runs is drawn within 2 s.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from est_cli.reporting.claim import claims_of
from est_cli.reporting.groups import group_runs
from est_cli.reporting.heat_map import heat_maps
from est_cli.reporting.numbers import all_numbers
from est_cli.reporting.page import page
from est_cli.reporting.report import drawn_on_page, notes
from est_cli.reporting.runs import find_runs, read_run
from tests.lab.made_runs import make_run

AIM_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("groups", 20), ("seeds", 10), ("steps", 1000), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(arguments, Path(folder))
    print("\n".join(f"{name:<12}{value:,.2f}" for name, value in found.items()))
    if "drawn_s" in found:
        print(f"drawn within {AIM_S:g} s: {'yes' if found['drawn_s'] <= AIM_S else 'NO'}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1))


def measured(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    make_runs(arguments, folder / "runs")
    runs, read_s = timed(lambda: [read_run(run) for run in find_runs([folder / "runs"])])
    text, page_s = timed(lambda: page_of(runs))
    (folder / "report.html").write_text(text)
    found = {"runs": len(runs), "read_s": read_s, "page_s": page_s, "page_mb": len(text) / 1e6}
    return found | in_browser((folder / "report.html").as_uri(), arguments.rounds)


def make_runs(arguments: argparse.Namespace, root: Path) -> None:
    for group in range(arguments.groups):
        settings = {"stage__t1": 0.4 * group / arguments.groups} if group else {}
        for seed in range(arguments.seeds):
            scheduler = "three_stage" if group else "dense"
            shift = 0.01 * (group + seed)
            make_run(root / f"{group}-{seed}", scheduler, seed, arguments.steps, shift, **settings)


def page_of(runs: list[Any]) -> str:
    groups = group_runs(runs)
    maps = heat_maps(groups)
    numbers = all_numbers("many runs", "now", groups, claims_of(groups), maps)
    return page(numbers, [], notes(numbers, groups), drawn_on_page(groups, maps))


def in_browser(address: str, rounds: int) -> dict[str, float]:
    """Medians of `rounds` new pages; empty without a browser."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return {}
    if chromium is None:
        return {}
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        times = [opened(browser, address) for _ in range(rounds)]
        browser.close()
    return {name: median(one[name] for one in times) for name in times[0]}


def opened(browser: Any, address: str) -> dict[str, float]:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    _, drawn_s = timed(lambda: (tab.goto(address), tab.wait_for_selector("#plot-val canvas")))
    _, axis_s = timed(lambda: tab.check("input[value=seconds]"))
    press = "document.querySelectorAll('[data-group][aria-pressed=false]').forEach((button) => button.click())"
    _, all_s = timed(lambda: tab.evaluate(press))
    tab.close()
    return {"drawn_s": drawn_s, "axis_s": axis_s, "all_on_s": all_s}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    return work(), time.perf_counter() - begin


if __name__ == "__main__":
    main()
