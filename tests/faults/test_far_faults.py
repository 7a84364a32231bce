"""D2: a corpus on a web server whose transfers break, which is gone, or which changes, under whole runs."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from est_cli.data.text.far import reader, web
from tests.faults.conftest import Tally
from tests.faults.refused import check_ended
from tests.faults.size import either
from tests.lab.lab import Lab, outcome, train_records
from tests.lab.web import Site, serving
from tests.training.test_start import SHORT

pytestmark = pytest.mark.row("D2")

FAULTS = ("cut", "cut", "drop", 500, 429, *[None] * 5)
IMPATIENT = (f"{__name__}.impatient",)
BLOCK = 2000


def impatient() -> None:
    """Blocks of little, and waits of milliseconds."""
    reader.FIRST_WAIT_S, reader.BLOCK, web.TIMEOUT_S = 0.001, BLOCK, 5.0


@pytest.fixture
def far(shared: Lab, tmp_path: Path) -> Iterator[tuple[Lab, Site]]:
    """A lab whose corpus lies on a server, without any tokens of it."""
    with serving(Site({"corpus.jsonl": shared.corpus.read_bytes()})) as site:
        yield Lab(shared.server, tmp_path, site.url("corpus.jsonl")), site  # type: ignore[arg-type]


def same_run(lab: Lab, shared: Lab) -> bool:
    """Whether the weights and losses are those of the run that read the same bytes here."""
    found, golden = outcome(lab.at("x")), shared.golden(*SHORT)
    model = [name for name in golden["sha256"] if name.endswith(".safetensors")]
    losses = [[record["loss"] for record in records["records"] if "loss" in record] for records in (found, golden)]
    return bool(model) and losses[0] == losses[1] and all(found["sha256"][k] == golden["sha256"][k] for k in model)


@pytest.mark.parametrize("seed", range(either(8, 1)))
@pytest.mark.parametrize("ranges", either([True, False], [True]))
def test_transfers_that_break(far: tuple[Lab, Site], shared: Lab, tally: Tally, ranges: bool, seed: int) -> None:
    lab, site = far
    drawn = random.Random(seed)
    site.ranges = ranges
    site.before = lambda site: site.faults.append(drawn.choice(FAULTS))
    ended = lab.tiny("x", *SHORT, plants=[IMPATIENT])
    assert ended.code == 0, ended.err
    assert "again in" in ended.err
    assert same_run(lab, shared)
    tally(inputs=len(site.asked))


def test_a_server_that_is_gone_and_comes_back(far: tuple[Lab, Site], shared: Lab, tally: Tally) -> None:
    lab, site = far
    site.before = lambda site: site.faults.extend([503] if len(site.asked) > 3 else [])
    check_ended(lab.tiny("x", *SHORT, plants=[IMPATIENT]), 3, "corpus.jsonl: the server answers 503; tried 7 times in")
    site.before = lambda site: None
    site.faults.clear()
    assert lab.tiny("x", *SHORT, plants=[IMPATIENT]).code == 0
    assert same_run(lab, shared)
    tally(inputs=1)


def test_a_corpus_that_changes_between_two_blocks(far: tuple[Lab, Site], tally: Tally) -> None:
    lab, site = far
    site.before = lambda site: setattr(site, "tag", '"1"' if len(site.asked) < 5 else '"2"')
    ended = lab.tiny("x", *SHORT, plants=[IMPATIENT])
    check_ended(ended, 3, "corpus.jsonl: has changed while it was read; start again")
    assert not list((lab.folder / "data").glob("*/tokens.bin"))
    tally(inputs=1)


def test_killed_while_the_server_is_silent(far: tuple[Lab, Site], shared: Lab, tally: Tally) -> None:
    lab, site = far
    site.before = lambda site: time.sleep(0 if len(site.asked) < 4 else 60)
    assert lab.kill_after(either(6.0, 4.0), "x")
    site.before = lambda site: None
    assert lab.tiny("x", *SHORT, plants=[IMPATIENT]).code == 0
    assert same_run(lab, shared) and train_records(lab.at("x"))
    tally(kills=1)
