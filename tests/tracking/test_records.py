"""The declaration of what is recorded: the files keep their keys, W&B its names, and the page says what stands here."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from est_cli.tracking.names import NAMES_OF_BEFORE, tracker_name
from est_cli.tracking.records import FIELDS, TOTALS, Cell, Field, In, fields_of, flat, record_of

ROOT = Path(__file__).parents[2]
KEPT = {
    In.step: "step tokens est/stage est/p_h est/p_m est/p_l est/p_t train/loss train/lr train/grad_norm "
    "flops/flops "
    "flops/flops_dense flops/flops_saved_pct_blocks flops/flops_saved_pct_total perf/tokens_per_s perf/step_s "
    "perf/text_wait_s perf/mfu perf/mem_gb perf/mem_reserved_gb "
    "perf/alloc_retries train/passed_samples",
    In.validation: "step tokens val/val_loss val/perplexity val/bits_per_byte est/draw_spread est/draw_range "
    "flops/flops",
    In.transition: "est/event step est/from_stage est/to_stage est/loss_before est/loss_after",
    In.not_finite: "est/event step perf/first_sample perf/samples",
    In.skipped: "est/event step perf/first_sample perf/samples train/spike_loss train/spike_norm train/loss_limit "
    "train/norm_limit",
    In.rewind: "est/event step train/from_step train/times perf/first_sample perf/samples train/spike_loss "
    "train/spike_norm train/loss_limit train/norm_limit",
    In.sample: "est/event step est/prompt est/text",
}
"""In the order of the files, under the names that runs of before have in W&B."""
SUMMARY = (
    "steps tokens final_val_loss perplexity bits_per_byte tasks not_finite flops flops_dense flops_blocks "
    "flops_saved_pct_blocks flops_saved_pct_total time_s time_saved_pct skipped_steps rewinds passed_samples "
    "flops_passed_over stages transitions coverage diagnoses data_hash tokenizer_hash revisions hardware "
    "git_commit versions"
)
REPORT = (
    "final_val_loss flops_total flops_dense_total flops_saved_pct_blocks flops_saved_pct_total train_s time_saved_pct"
)


@pytest.mark.parametrize("record", KEPT, ids=lambda record: record.value)
def test_the_lines_of_metrics_jsonl_keep_their_keys_and_wandb_its_names(record: In) -> None:
    assert [tracker_name(field.name, NAMES_OF_BEFORE) for field in fields_of(record)] == KEPT[record].split()


def test_the_other_files_keep_their_keys() -> None:
    assert [field.name for field in fields_of(In.summary)] == SUMMARY.split()
    assert [field.name for field in fields_of(In.report)] == REPORT.split()


def test_a_name_is_declared_once_and_stands_where_a_table_looks_for_it() -> None:
    assert len({field.name for field in FIELDS}) == len(FIELDS)
    for field in FIELDS:
        assert In.summary in field.where or not (field.end or field.sweep), field.name
        assert In.report in field.where or not field.report, field.name
    assert any(tuple(field.where) == TOTALS for field in FIELDS)


def test_the_writer_has_the_order_of_the_declaration_and_nothing_else() -> None:
    assert list(record_of(In.validation, {"val_loss": 1.0, "tokens": 2, "step": 1})) == ["step", "tokens", "val_loss"]
    with pytest.raises(AssertionError, match="vall_loss"):
        record_of(In.validation, {"step": 1, "vall_loss": 1.0})


def test_a_cell_shows_what_is_not_known() -> None:
    assert Cell("", ".2f", "{} %").show(1) == "1.00 %" and Cell("", ".2f", "{} %").show(None) == "- %"
    assert (Cell("", "clock").show(3723.0), Cell("", "clock").show(None)) == ("1:02:03", "--:--")


def test_every_field_says_what_it_is() -> None:
    assert all(field.meaning and "|" not in field.meaning and not field.meaning.endswith(".") for field in FIELDS)
    assert all(isinstance(field, Field) and field.where for field in FIELDS)


def test_the_page_is_made_of_it() -> None:
    made = "\n".join(runpy.run_path(str(ROOT / "docs" / "metrics_page.py"))["page"]())
    told = "python docs/metrics_page.py > docs/metrics.md makes it anew"
    assert (ROOT / "docs" / "metrics.md").read_text() == made, told


def test_lists_are_flat_for_trackers() -> None:
    """An entry for each layer; lists of lists are too much for a tracker."""
    record = {"step": 3, "grad_norm_rest": [1.0, None], "trained_heads": [[1.0], [0.5]], "weight_norm_outside": 2.0}
    assert flat(record) == {
        "step": 3, "layers/grad_norm_rest/00": 1.0, "layers/grad_norm_rest/01": None, "weight_norm_outside": 2.0
    }  # fmt: skip
