"""The page of a whole report: nothing from elsewhere, the numbers of report.json, strange names shown as they are."""

from __future__ import annotations

import base64
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from est_cli.common.errors import ConfigError
from est_cli.reporting import assets
from est_cli.reporting.assets import FOLDER, UPLOT, page_json
from est_cli.reporting.numbers import all_numbers, config_hash
from est_cli.reporting.page import page as page_text
from est_cli.reporting.report import Report, make_report, notes
from tests.lab.commands import tree
from tests.lab.made_runs import groups_in, make_run, make_seeds

NASTY = "<script>alert(1)</script>&\"'"


class Page(HTMLParser):
    """Tags, attributes, visible text and the cells of each table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.tables: list[list[list[str]]] = []
        self._cell: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.tables[-1][-1].append("".join(self._cell))
            self._cell = None

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._cell is not None:
            self._cell.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    root = tmp_path_factory.mktemp("report")
    make_seeds(root / "runs", "three_stage", [0.3, 0.2, 0.4, 0.3], summary={"data_hash": "d" * 64})
    make_seeds(root / "runs", "dense", [0.05, 0.0, 0.1, 0.05], summary={"data_hash": "d" * 64})
    make_run(root / "runs" / NASTY.replace("/", "|"), seed=7, done=20, summary={})
    make_run(root / "runs" / "nasty", tokenizer=NASTY)
    for index in range(3):
        make_run(root / "runs" / f"sweep-{index}", stage__t1=0.1 * (index + 1), optim__lr=0.5)
    before = tree(root / "runs")
    made = make_report([root / "runs"], root / "out", f"A {NASTY} title")
    assert tree(root / "runs") == before
    return made


@pytest.fixture(scope="module")
def page(report: Report) -> Page:
    return Page(report.page.read_text())


def element(text: str, start: str, end: str) -> str:
    """What stands between the only `start` and the next `end`."""
    _, found, rest = text.partition(start)
    assert found and start not in rest
    return rest.partition(end)[0]


def sha256(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@pytest.mark.slow
def test_nothing_comes_from_elsewhere(report: Report, page: Page) -> None:
    names = {tag for tag, _ in page.tags}
    assert not names & {
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "a",
        "form",
        "img",
        "image",
        "use",
        "foreignobject",
    }
    for tag, attributes in page.tags:
        for name in attributes:
            assert name not in ("src", "href", "srcset", "style", "xlink:href") and not name.startswith("on"), tag
    text = report.page.read_text()
    without_library = text.replace((FOLDER / "uPlot.iife.min.js").read_text(), "")
    assert len(without_library) < len(text) and "http:" not in without_library and "https:" not in without_library
    style = element(text, "<style>", "</style>")
    assert "url(" not in style and "@import" not in style and len(text) < 1_200_000


def test_only_our_own_scripts_and_style_may_run(report: Report, page: Page) -> None:
    text = report.page.read_text()
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    library, script = (part.partition("</script>")[0] for part in text.split("<script>")[1:])
    style = sha256(element(text, "<style>", "</style>"))
    assert policy == (
        f"default-src 'none'; script-src {sha256(library)} {sha256(script)}; style-src {style}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    assert "eval(" not in library + script and "new Function" not in library + script and "innerHTML" not in script
    assert [a for tag, a in page.tags if tag == "script"] == [{"type": "application/json", "id": "data"}, {}, {}]


def test_the_library_is_the_one_that_was_published() -> None:
    for name, digest in UPLOT.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name
    assert "v1.6.32" in (FOLDER / "uPlot.iife.min.js").read_text()[:80] and "1.6.32" in (assets.__doc__ or "")


def test_names_are_data_and_no_markup(report: Report) -> None:
    content = element(report.page.read_text(), '<script type="application/json" id=data>', "</script>")
    assert not set("<>&") & set(content)
    data = json.loads(content)
    assert any("<script>" in group["label"] for group in data["groups"])
    assert page_json({"x": "</script><!--&"}) == '{"x":"\\u003c/script\\u003e\\u003c!--\\u0026"}'


def test_strange_names_are_shown_and_do_nothing(page: Page) -> None:
    assert f"A {NASTY} title" in page.text
    cells = {cell for table in page.tables for row in table for cell in row}
    assert any(cell.endswith(NASTY.replace("/", "|")) for cell in cells)


def test_pictures_for_papers_stand_beside_the_page(report: Report, page: Page) -> None:
    pngs = sorted(path.name for path in report.page.parent.glob("*.png"))
    assert pngs == ["heat-map-1.png", "loss-flops-total.png", "loss-seconds.png", "loss-steps.png", "loss-tokens.png"]
    assert all(name in page.text for name in pngs)
    image = imread(report.page.parent / "loss-steps.png")
    assert image.shape[1] >= 2000, "good enough for print"


def test_report_json_is_what_was_computed(report: Report) -> None:
    found = json.loads((report.page.parent / "report.json").read_text())
    assert found == json.loads(json.dumps(report.numbers))
    groups = {group["group"]: group for group in found["groups"]}
    assert groups["dense"]["final_val_loss"] == pytest.approx(9.05)
    assert groups["dense"]["final_val_loss_sd"] == pytest.approx(0.005**0.5 / 3**0.5)
    three = next(group for name, group in groups.items() if name.startswith("three_stage") and group["n"] == 4)
    assert (three["flops_total"], three["train_s"], three["tokens"]) == (7000, 75, 409600)
    assert (three["flops_saved_pct_blocks"], three["time_saved_pct"]) == (37.5, 25.0)


def table_of(page: Page, *headings: str) -> list[list[str]]:
    """The first table whose headings begin so."""
    return next(table for table in page.tables if table[0][: len(headings)] == list(headings))


def row_of(table: list[list[str]], first: str) -> dict[str, str]:
    headings, *rows = table
    (row,) = [row for row in rows if row[0] == first]
    return dict(zip(headings, row, strict=True))


def test_the_tables_have_the_numbers_of_report_json(report: Report, page: Page) -> None:
    groups, runs = table_of(page, "group", "n"), table_of(page, "run", "group")
    for group in report.numbers["groups"]:
        row = row_of(groups, group["group"])
        assert row["n"] == str(group["n"]) and row["steps"] == f"{group['steps']:,}"
        mean, _, sd = row["final validation loss"].partition(" ± ")
        assert mean == ("-" if group["final_val_loss"] is None else f"{group['final_val_loss']:.4f}")
        assert sd == ("" if group["final_val_loss_sd"] is None else f"{group['final_val_loss_sd']:.4f}")
    assert row_of(groups, "dense")["FLOPs (total)"] == "1.000·10⁴"
    assert len(runs) - 1 == len(report.numbers["runs"]) == 13
    for run in report.numbers["runs"]:
        row = row_of(runs, run["run"])
        assert row["status"] == run["status"] and row["seed"] == str(run["seed"])
        shown = "-" if run["final_val_loss"] is None else f"{run['final_val_loss']:.4f}"
        assert row["final validation loss"] == shown
    unfinished = next(run["run"] for run in report.numbers["runs"] if run["status"] == "unfinished")
    assert row_of(runs, unfinished)["steps"] == "20 of 100"


def test_the_card_has_the_numbers_of_report_json(report: Report, page: Page) -> None:
    card = next(card for card in report.numbers["claims"] if card["dense"] == "dense")
    first, read = card["comparisons"][:2]
    assert first["difference"]["mean"] == pytest.approx(0.25) and first["difference"]["n"] == 4
    table = next(table for table in page.tables if any(row[-1] == first["verdict"] for row in table))
    shown = dict(zip(table[0], table[1], strict=True))
    assert shown["difference"] == "+0.2500" and shown["n"] == "4"
    interval = f"({first['difference']['low']:+.4f} to {first['difference']['high']:+.4f})"
    assert shown["verdict (95 % interval)"] == first["verdict"] and interval in first["verdict"]
    assert first["verdict"].startswith("higher by 0.2500 (")
    assert "learning rate was not fully annealed" in read["note"] and table[2][0].endswith(read["note"])
    measured = [row for row in card["comparisons"] if row["difference"] is not None]
    assert len(table) - 1 == len(measured) < len(card["comparisons"]), "no row without a number"
    wanted = "equal FLOPs (total) (dense run of that length): needs a dense run of about 70 steps."
    assert f"Not measured: {wanted}" in page.text


def test_columns_without_a_number_are_left_out(tmp_path: Path) -> None:
    make_run(tmp_path / "a", done=20)
    numbers = all_numbers("x", "now", list(groups_in(tmp_path).values()), [], [])
    assert table_of(Page(page_text(numbers, [], [])), "run")[0] == [
        "run", "group", "status", "seed", "steps", "FLOPs (total)", "time s"
    ]  # fmt: skip


def test_the_card_tells_what_was_run(report: Report, page: Page) -> None:
    card = next(card for card in report.numbers["claims"] if card["dense"] == "dense")
    found: dict[str, Any] = card["provenance"]
    assert found["commit"] == ["a" * 40] and found["data"] == ["d" * 64] and found["torch"] == ["2.13.0"]
    assert found["hardware"] == [] and found["tokenizer"] == []
    assert "a" * 12 in page.text and "not recorded" in page.text
    configs = {text.split()[0] for text in found["config"]}
    assert len(configs) == 2 and all(len(name) == 12 for name in configs)


def test_the_hash_of_the_configuration_knows_no_seed_name_or_path(tmp_path: Path) -> None:
    def hash_of(name: str, **settings: Any) -> str:
        make_run(tmp_path / name / "a", **settings)
        (group,) = groups_in(tmp_path / name).values()
        return config_hash(group)

    first = hash_of("one")
    assert hash_of("two", seed=5, dataset__files=["x"], summary={"data_hash": "d"}) == first
    assert hash_of("three", optim__lr=0.5) != first


def test_what_is_left_out_is_told(report: Report, page: Page, tmp_path: Path) -> None:
    assert any(text.startswith("Not finished, so in no mean and no claim: ") for text in page.text)
    assert any("such intervals about 1 in 20 excludes 0 by chance" in text for text in page.text)
    for name in ("a", "b"):
        make_run(tmp_path / "runs" / name)
    groups = list(groups_in(tmp_path / "runs").values())
    numbers = all_numbers("x", "now", groups, [], [])
    assert [run["status"] for run in numbers["runs"]] == ["finished", "repeats a seed"]
    assert any(note.endswith(f"left out: {tmp_path / 'runs' / 'b'}.") for note in notes(numbers, groups))


def test_nothing_is_overwritten(report: Report, tmp_path: Path) -> None:
    before = tree(report.page.parent)
    make_run(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"--out: .* is there already and is never overwritten"):
        make_report([tmp_path / "a"], report.page.parent, "x")
    assert tree(report.page.parent) == before


def test_runs_without_a_record_are_no_report(tmp_path: Path) -> None:
    make_run(tmp_path / "a", done=0)
    with pytest.raises(ConfigError, match="no run has recorded anything yet"):
        make_report([tmp_path / "a"], tmp_path / "out", "x")
    assert not (tmp_path / "out").exists()
