from pathlib import Path

import pytest

from est_cli.reporting.claim import claims_of
from est_cli.reporting.numbers import claim_card
from est_cli.reporting.page import MAX_CARDS, claim_cards
from tests.lab.made_runs import groups_in, make_run, make_seeds, val_loss


def cards_in(root: Path) -> list[str]:
    return claim_cards([claim_card(claim) for claim in claims_of(list(groups_in(root).values()))])


@pytest.mark.parametrize("groups", [MAX_CARDS, MAX_CARDS + 1])
def test_many_claims_are_a_table_and_cards_for_those_of_several_seeds(tmp_path: Path, groups: int) -> None:
    make_seeds(tmp_path, "dense", [0.0, 0.1, 0.05])
    make_seeds(tmp_path, "three_stage", [0.3, 0.25, 0.41], stage__t1=0.3)
    for index in range(1, groups):
        make_run(tmp_path / str(index), shift=0.5, stage__t1=0.01 * index)
    parts = cards_in(tmp_path)
    if groups == MAX_CARDS:
        assert len(parts) == MAX_CARDS and all(part.startswith("<section") for part in parts)
        return
    overview, card = parts
    assert card.startswith("<section") and "t1=0.3" in card
    assert overview.count("<tr>") == 1 + groups
    assert f"+{0.5:.4f}<small>one seed\ndense twin, its end</small>" in overview


def test_the_run_that_ended_there_counts_for_more(tmp_path: Path) -> None:
    make_run(tmp_path / "dense", "dense")
    make_run(tmp_path / "short", "dense", steps=70, shift=-0.2)
    for index in range(MAX_CARDS + 1):
        make_run(tmp_path / str(index), stage__t1=0.01 * (index + 1))
    (overview,) = cards_in(tmp_path)
    difference = val_loss(100) - val_loss(70, -0.2)
    assert f"{difference:+.4f}<small>one seed\ndense run of that length</small>" in overview
