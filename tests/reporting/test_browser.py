"""The page in a browser: what it draws, what it answers to mouse and keyboard, what it does not do.

`make test-browser` runs it: it needs Chromium on the PATH, and playwright (without a browser of its own).
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from est_cli.reporting import watch as watching
from est_cli.reporting.report import make_report
from est_cli.reporting.watch import Watch
from tests.lab.made_runs import make_run, make_seeds, train_record, val_loss
from tests.reporting.test_layers import record as layers_record

if os.environ.get("EST_BROWSER") != "1":
    pytest.skip("a browser is started by make test-browser", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH"),
]
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
NASTY = "<img src=x onerror=window.hit=1>&quot;'"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@dataclass
class Seen:
    """A page and what came of it beside its picture."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def values(self, group: int) -> tuple[str, str]:
        """The losses that the table below the curves shows of a group."""
        row = self.page.locator(f"tr:has([data-group='{group}'])")
        return row.locator("[data-value=train]").inner_text(), row.locator("[data-value=val]").inner_text()

    def curves(self) -> int:
        """How many curves have a point under the line, in both pictures."""
        return int(self.page.locator(".u-cursor-pt:not(.u-off)").count())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Groups 0: dense, 2: three_stage, both of 3 seeds, and 1: of a strange name, with all that a run can have."""
    root = tmp_path_factory.mktemp("browser")
    make_seeds(root / "runs", "three_stage", [0.3, 0.25, 0.41])
    make_seeds(root / "runs", "dense", [0.0, 0.1, 0.05])
    folder = make_run(root / "runs" / NASTY.replace("/", "|"), tokenizer=NASTY, summary={"diagnoses": [NASTY]})
    (folder / "layers.jsonl").write_text("".join(json.dumps(layers_record(step)) + "\n" for step in (10, 20, 30)))
    with (folder / "metrics.jsonl").open("a") as file:
        for step in (20, 40, 60):
            line = {"step": step, "val_loss": val_loss(step), "draw_spread": 0.1, "draw_range": 0.3, "tokens": 1}
            file.write(json.dumps(line) + "\n")
        file.write(json.dumps({"event": "sample", "step": 60, "prompt": "x", "text": f"{NASTY}</script>"}) + "\n")
    return make_report([root / "runs"], root / "out", f"A {NASTY}").page.as_uri()


def opened(browser: Any, address: str, size: dict[str, int] = WIDE, theme: str = "light") -> Seen:
    seen = Seen(browser.new_page(viewport=size, color_scheme=theme))
    seen.page.on("console", lambda message: seen.said.append(message.text))
    seen.page.on("pageerror", lambda error: seen.said.append(str(error)))
    seen.page.on("request", lambda request: seen.asked.append(request.url))
    seen.page.goto(address)
    seen.page.wait_for_selector("#plot-val canvas")
    return seen


@pytest.fixture
def seen(browser: Any, address: str) -> Iterator[Seen]:
    found = opened(browser, address)
    yield found
    assert found.said == [] and found.asked == [address], "no error, and no request but for the page itself"
    found.page.close()


def at(seen: Seen, plot: str, share: float) -> None:
    """The mouse stands over a picture, at this share of its width."""
    box = seen.page.locator(f"{plot} .u-over").bounding_box()
    seen.page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)


def test_the_values_under_the_line_are_those_of_the_records(seen: Seen) -> None:
    seen.page.locator("#plot-train").scroll_into_view_if_needed()
    assert seen.values(0)[1] == f"{val_loss(100, 0.05):.4f}" and seen.page.locator("#at").inner_text() == "at the end"
    at(seen, "#plot-val", 0.502)
    assert seen.page.locator("#at").inner_text() == "at step 50"
    assert seen.values(0)[1] == f"{val_loss(50, 0.05):.4f}" and seen.values(2)[1] == f"{val_loss(50, 0.32):.4f}"
    at(seen, "#plot-train", 0.231)
    assert seen.values(0)[0] == f"{10.5 - 0.23 + 0.05:.4f}", "both pictures are read at once"
    assert seen.values(0)[1] == f"{val_loss(20, 0.05):.4f}", "the nearest evaluation"


def test_a_group_is_switched_off_and_on(seen: Seen) -> None:
    seen.page.locator("#plot-train").scroll_into_view_if_needed()
    at(seen, "#plot-val", 0.5)
    before = seen.curves()
    button = seen.page.locator("[data-group='1']")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    at(seen, "#plot-val", 0.4)
    assert seen.curves() < before
    button.press("Enter")
    at(seen, "#plot-val", 0.5)
    assert button.get_attribute("aria-pressed") == "true" and seen.curves() == before


def test_axes_and_logarithms(seen: Seen) -> None:
    shown = {}
    seen.page.locator("#plot-train").scroll_into_view_if_needed()
    for axis in ("steps", "tokens", "flops_total", "seconds"):
        seen.page.check(f"input[value={axis}]")
        for box in ("#logx", "#logy", "#smooth"):
            seen.page.click(box)
        at(seen, "#plot-val", 0.9)
        shown[axis] = seen.page.locator("#at").inner_text()
    assert shown["steps"].startswith("at step ") and shown["seconds"].endswith(" s")
    assert shown["tokens"].endswith("thousands") and shown["flops_total"].endswith("FLOP")


def test_both_pictures_zoom_and_come_back(seen: Seen) -> None:
    seen.page.locator("#plot-train").scroll_into_view_if_needed()
    reset = seen.page.locator("#reset")
    assert reset.is_disabled()
    at(seen, "#plot-train", 0.25)
    seen.page.mouse.down()
    at(seen, "#plot-train", 0.75)
    seen.page.mouse.up()
    assert reset.is_enabled()
    at(seen, "#plot-val", 0.5)
    assert seen.page.locator("#at").inner_text() in ("at step 49", "at step 50", "at step 51")
    at(seen, "#plot-val", 0.0)
    assert seen.page.locator("#at").inner_text() in ("at step 24", "at step 25", "at step 26")
    reset.click()
    at(seen, "#plot-val", 0.25)
    assert reset.is_disabled() and seen.page.locator("#at").inner_text() == "at step 25"


def test_the_keyboard_does_what_the_mouse_does(seen: Seen) -> None:
    page = seen.page
    page.locator("[name=axis]").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("input[value=tokens]").is_checked()
    page.keyboard.press("ArrowLeft")
    page.locator("#plot-val").focus()
    page.keyboard.press("End")
    assert page.locator("#at").inner_text() == "at step 100"
    page.keyboard.press("Home")
    page.keyboard.press("Shift+ArrowRight")
    assert 0 < int(page.locator("#at").inner_text().split()[-1]) < 20
    page.keyboard.press("+")
    assert page.locator("#reset").is_enabled()
    page.keyboard.press("0")
    assert page.locator("#reset").is_disabled()
    order = [page.evaluate("document.activeElement.id || document.activeElement.dataset.group")]
    for _ in range(3):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.dataset.group"))
    assert order == ["plot-val", "0", "1", "2"]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "whoever goes by Tab sees where"


def test_inside_of_a_run(seen: Seen) -> None:
    run = seen.page.locator("details.run", has_text="onerror").first
    run.locator("summary").click()
    run.locator("[data-line] canvas").wait_for()
    grid = run.locator("canvas[data-grid='0']")
    grid.focus()
    seen.page.keyboard.press("ArrowUp")
    said = grid.locator("xpath=../output")
    assert said.inner_text() == "layer 1, step 30: not run, or not finite"
    seen.page.keyboard.press("ArrowUp")
    assert said.inner_text() == "layer 0, step 30: 5", "the norm of 3 and 4"
    assert run.locator("[data-line] canvas").count() == 1 and "</script>" in run.locator(".sample").inner_text()


def test_names_do_nothing_and_no_other_script_runs(seen: Seen) -> None:
    page = seen.page
    for details in page.query_selector_all("details"):
        details.evaluate("it => { it.open = true; }")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hit") is None and page.locator("img").count() == 0
    assert NASTY in page.locator("h1").inner_text()
    page.evaluate("setTimeout('window.hit = 3')")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'hit = 2'}))")
    page.wait_for_timeout(100)
    assert page.evaluate("window.hit") is None
    assert len(seen.said) == 2 and all("Content Security Policy" in line for line in seen.said)
    seen.said.clear()  # the browser has told of both


CONTRAST = """() => {
  const rgb = (text) => { const c = document.createElement('canvas').getContext('2d', { colorSpace: 'srgb' });
    c.fillStyle = text; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (rgb(c)[3] === 255) return c; } return 'white'; };
  const found = [];
  const walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || e.closest('script, svg, :disabled') || !e.getClientRects().length) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(rgb(behind(e)))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push([walk.currentNode.data.trim().slice(0, 40), ratio]);
  }
  for (const line of document.querySelectorAll('.legend line, .saved, .whisker')) {
    const style = getComputedStyle(line);
    const a = light(rgb(style.stroke === 'none' ? style.fill : style.stroke));
    const b = light(rgb(behind(line.closest('button, div'))));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 3 && !line.matches('.look-rest')) found.push([line.getAttribute('class'), ratio]);
  }
  return found;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_a_phone_and_the_dark(browser: Any, address: str, size: dict[str, int], theme: str) -> None:
    """WCAG AA: 4.5 of text, 3 of lines; nothing wider than the screen."""
    seen = opened(browser, address, size, theme)
    for details in seen.page.query_selector_all("details.run"):
        details.evaluate("it => { it.open = true; }")
    assert seen.page.evaluate(CONTRAST) == []
    assert seen.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    before = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    seen.page.click("#theme")
    assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert seen.page.evaluate(CONTRAST) == [] and seen.said == []
    seen.page.close()


def test_an_open_page_follows_a_run_and_keeps_its_view(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = pytest.importorskip("waitress.server", reason="waitress is not installed")
    monkeypatch.setattr(watching, "EVERY_MS", 150)
    run = make_run(tmp_path / "a", done=30)
    make_run(tmp_path / "b", "dense")
    app = Watch([tmp_path], "It goes on")
    serving = server.create_server(app, host="127.0.0.1", port=0)
    threading.Thread(target=serving.run, daemon=True).start()
    try:
        start = f"http://127.0.0.1:{serving.effective_port}/"
        seen = opened(browser, f"{start}{app.token}/")
        page = seen.page
        page.check("input[value=tokens]")
        page.click("[data-group='0']")
        page.click("details.run summary >> nth=0")
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(train_record(31, 1, 50, 0.0)) + "\n")
        page.wait_for_selector("text=31 of 100 >> visible=true")
        assert page.locator("input[value=tokens]").is_checked()
        assert page.locator("[data-group='0']").get_attribute("aria-pressed") == "false"
        assert page.locator("details.run").first.get_attribute("open") is not None
        page.wait_for_selector("text=Refreshed while runs go on")
        serving.close()
        page.wait_for_selector("text=does not answer")
        assert all(url.startswith(start) for url in seen.asked)
        assert all("Failed to load resource" in line for line in seen.said), "of a server that has gone"
        page.close()
    finally:
        serving.close()
