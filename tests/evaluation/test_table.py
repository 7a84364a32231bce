import io
from dataclasses import replace

import pytest
from rich.console import Console

from est_cli.evaluation.outcomes import Constant, Record, differences_of
from est_cli.evaluation.score_table import cells, markdown, notes, print_results
from tests.lab.glue_files import nine, record


def pair(count: int) -> list[Record]:
    """0.8 against 0.7, the difference spread by 0.01."""
    seeds = range(count)
    model = [record("m", "mrpc", seed, 0.9, 0.7 + 0.02 * seed) for seed in seeds]
    return [*model, *(record("b", "mrpc", seed, 0.8, 0.6) for seed in seeds)]


def test_one_checkpoint() -> None:
    headings, rows = cells([record("m", "mnli", 0, 0.5, 0.7), record("m", "cola", 0, -0.1)], None)
    assert headings == ["task", "metrics", "train", "dev", "seeds", "m"]
    assert rows == [
        ["cola", "mcc", "2000", "100", "1", "-10.0"],
        ["mnli", "matched / mismatched", "2000", "100 / 100", "1", "60.0 (50.0 / 70.0)"],
        ["average over the tasks present", "", "", "", "1", "25.0"],
    ]


def test_a_comparison() -> None:
    """Differences 0.10, 0.11 and 0.12: 0.11 +- 4.302653 * 0.01 / sqrt(3)."""
    records = pair(3)
    headings, (row,) = cells(records, differences_of(records, "m", "b"))
    assert headings[5:] == ["m", "b", "difference", "95 % interval", "significant", "pairs"]
    assert row[1] == "f1 / accuracy"
    assert row[4:] == [
        *("3", "81.0 ± 1.0 (90.0 / 72.0)", "70.0 ± 0.0 (80.0 / 60.0)"),
        *("+11.0", "+8.5 .. +13.5", "yes", "3"),
    ]


def test_one_pair_claims_nothing() -> None:
    records = pair(1)
    _, (row,) = cells(records, differences_of(records, "m", "b"))
    assert row[-4:] == ["+10.0", "-", "n=1", "1"]


def test_a_baseline_that_is_not_there_yet() -> None:
    """While an evaluation runs: no average is shown beside one of more tasks."""
    records = [record("m", "cola", 0, 0.5), record("m", "rte", 0, 0.5), record("b", "cola", 0, 0.5)]
    _, (cola, rte, average) = cells(records, differences_of(records, "m", "b"))
    assert cola[5:] == ["50.0", "50.0", "+0.0", "-", "n=1", "1"]
    assert rte[5:] == ["50.0", "-", "-", "-", "no pair", "0"]
    assert average[5:7] == ["50.0", "-"]


def test_the_official_average_has_its_name() -> None:
    records = nine("m", [0])
    assert cells(records, None)[1][-1][0] == "GLUE average"
    assert cells(records[1:], None)[1][-1][0] == "average over the tasks present"


def test_notes_say_what_is_not_as_it_should_be() -> None:
    told = notes([record("m", "mnli", 0, 0.5), record("m", "qnli", 0, 0.5)], None)
    assert told[1:] == [
        "mnli: dev_matched alone, so this is not the official score",
        "m, qnli: 4 examples too long and truncated",
    ]
    assert len(notes([record("m", "mnli", 0, 0.5, 0.5)], None)) == 1


def test_markdown() -> None:
    lines = markdown([record("m|n", "rte", 0, 0.5), record("m|n", "rte", 1, 0.6)], None).splitlines()
    assert lines[2:5] == [
        "| task | metrics | train | dev | seeds | m\\|n |",
        "| --- | --- | --- | --- | --- | --- |",
        "| rte | accuracy | 2000 | 100 | 2 | 55.0 ± 7.1 |",
    ]
    assert lines[6].startswith("- dev scores x 100: mean ± standard deviation")


def collapsed(seed: int) -> Record:
    return replace(record("m", "mrpc", seed, 0.8122, 0.6838), constant={"dev": Constant("equivalent", 0.6838)})


def test_a_single_class_is_told() -> None:
    told = notes([collapsed(0), record("m", "mrpc", 1, 0.9, 0.7), collapsed(2)], None)
    assert told[1:] == [
        "m, mrpc, seeds 0, 2: every example of dev was called equivalent, as 68.4 % are: "
        "the scores of one class for all"
    ]


def test_names_of_models_take_no_room() -> None:
    file, names = io.StringIO(), [f"outputs/{'long-' * 20}{end}/model" for end in "ab"]
    records = [record(name, "mrpc", seed, 0.9, 0.7) for name in names for seed in range(3)]
    console = Console(file=file, width=80, force_terminal=True, color_system=None)
    print_results(records, names[0], names[1], console)
    table, _, below = file.getvalue().partition("checkpoint:\n")
    assert max(map(len, table.splitlines())) <= 80
    assert below.split()[:3] == [names[0], "baseline:", names[1]]


@pytest.mark.parametrize(("width", "metrics"), [(80, False), (300, True)])
def test_a_narrow_terminal_sees_less(width: int, metrics: bool) -> None:
    file = io.StringIO()
    records = [
        *(record("outputs/gpt2-three_stage/model", "mrpc", seed, 0.9, 0.7) for seed in range(3)),
        *(record("outputs/gpt2-dense/model", "mrpc", seed, 0.8, 0.6) for seed in range(3)),
    ]
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    print_results(records, "outputs/gpt2-three_stage/model", "outputs/gpt2-dense/model", console)
    assert ("f1 / accuracy" in file.getvalue()) == metrics
    assert "80.0 ± 0.0" in file.getvalue() and "yes" in file.getvalue()
