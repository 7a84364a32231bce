"""Every number that a run of est-train records, told once: what it is, its unit, its name in trackers, its form.

From here come the order of the keys in metrics.jsonl and summary.json, the names in W&B, the table at the end of a run,
the columns of a sweep, the rows of est-report, what a reader refuses, and docs/metrics.md. A new number is a `Field`
here and a value where it is computed (training/step_record.py of a step, training/evaluation.py of the complete model,
training/finish.py of the summary).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from est_cli.common.counts import hours_minutes

Record = dict[str, Any]
"""One JSON object: a line of metrics.jsonl, or summary.json."""


class In(StrEnum):
    """The records; of an event the value is its name."""

    step = "step"
    validation = "validation"
    transition = "stage_transition"
    not_finite = "not_finite"
    skipped = "skipped"
    rewind = "rewind"
    sample = "sample"
    layers = "layers"
    tasks = "tasks"
    summary = "summary"
    report = "report"


EVENTS = (In.transition, In.not_finite, In.skipped, In.rewind, In.sample, In.tasks)
TOTALS = (In.step, In.summary, In.report)
"""Of a number that is known after each step and at the end."""


@dataclass(frozen=True)
class Cell:
    """How a table shows a number: below or beside a heading, by a format specification (`clock`: 1:02:03)."""

    heading: str
    form: str
    text: str = "{}"
    """What stands around it. In the table at the end of a run the cells of one heading stand in one row."""

    def show(self, value: Any) -> str:
        if self.form == "clock":
            return self.text.format(hours_minutes(value))
        return self.text.format("-" if value is None else format(value, self.form))


@dataclass(frozen=True)
class Field:
    name: str
    meaning: str
    where: Sequence[In]
    unit: str = ""
    null: str = ""
    """When it is null; empty where it never is."""
    wandb: str = "perf"
    """Its group in trackers (names.py); empty: an axis there, without a group. Never change it: old runs have it."""
    extreme: str = ""
    """`min` or `max`: what trackers show of the whole run beside the last value."""
    kind: type = float
    above: float | None = None
    """What it is more than."""
    below: float | None = None
    checked: Sequence[In] = ()
    """Where a reader refuses a value that it cannot have, beside everything that est-report shows."""
    end: Cell | None = None
    sweep: Cell | None = None
    report: Cell | None = None
    best: Callable[[list[float]], float] | None = None
    """`min` or `max` where a sweep marks the best."""


def _health(name: str, meaning: str, null: str) -> list[Field]:
    """One for each kind of parameters of a layer, and one for those outside of all layers."""
    of_layers = [
        Field(f"{name}_{kind}", f"of each layer's {what}, the {meaning}", (In.layers,), null=null, wandb="layers",
              kind=list)
        for kind, what in (
            ("heads", "parameters that hold heads"),
            ("columns", "parameters that hold MLP columns"),
            ("rest", "other parameters"),
        )
    ]  # fmt: skip
    outside = f"the same of all parameters outside of the layers: embeddings, last norm, LM head ({name})"
    return [*of_layers, Field(f"{name}_outside", outside, (In.layers,), null="not finite", wandb="layers")]


FIELDS = (
    Field("event", "which one", EVENTS, kind=str, wandb="est"),
    Field(
        "step",
        "optimizer steps done",
        (In.step, In.validation, *EVENTS, In.layers),
        wandb="",
        checked=(In.step, In.validation, In.summary),
    ),
    Field("steps", "optimizer steps done", (In.summary,), checked=(In.summary,), end=Cell("steps", ",d"),
          sweep=Cell("steps", ",d")),
    Field("tokens", "tokens of these steps", (In.step, In.validation, In.tasks, In.summary, In.layers),
          wandb="", end=Cell("tokens", ",d")),
    Field("stage", "the stage of the step, from 1", (In.step, In.layers), wandb="est", checked=(In.step,)),
    Field("p_h", "realised sampling rate of heads in the step", (In.step,), "0-1", wandb="est", checked=(In.step,)),
    Field("p_m", "the same of MLP columns", (In.step,), "0-1", wandb="est", checked=(In.step,)),
    Field("p_l", "the same of layers", (In.step,), "0-1", wandb="est", checked=(In.step,)),
    Field("p_t", "realised share of its predictions that the loss of the step is the mean of; in runs with a "
          "`stage.p_t` alone", (In.step,), "0-1", wandb="est"),
    Field("loss", "training loss of the step, of the subnetwork that ran: the mean over all its tokens, or over the "
          "drawn ones where `p_t` is below 1, an estimate with noise of its own", (In.step,),
          "nats per token", extreme="min", null="not finite", wandb="train", checked=(In.step,)),
    Field("lr", "learning rate of the step", (In.step,), wandb="train"),
    Field("grad_norm", "norm of the whole gradient before clipping", (In.step,), null="not finite", extreme="max",
          wandb="train"),
    Field("val_loss", "validation loss of the complete model", (In.validation,), "nats per token", null="not finite",
          extreme="min", wandb="val", checked=(In.validation,)),
    Field("final_val_loss", "validation loss after the last step", (In.summary, In.report), "nats per token",
          null="not finite", end=Cell("final validation loss", ".4f"), sweep=Cell("val loss", ".4f"),
          report=Cell("final validation loss", ".4f"), best=min),
    Field("perplexity", "exp of the validation loss", (In.validation, In.summary), null="it would overflow",
          extreme="min", wandb="val", end=Cell("perplexity", ".2f"), sweep=Cell("perplexity", ".2f")),
    Field("bits_per_byte", "the validation loss in bits, per byte of the text that its tokens stand for, in UTF-8",
          (In.validation, In.summary), "bits per byte", null="a token does not tell its bytes: a tokenizer that is not "
          "byte-level, or a corpus of token files", extreme="min", wandb="val", end=Cell("bits per byte", ".4f")),
    Field("tasks", "what the complete model reached in `train.eval_tasks`, by `TASK/METRIC`; of the summary after the "
          "last step", (In.tasks, In.summary), wandb="eval", kind=dict),
    Field("draw_spread", "where subnetworks are trained: standard deviation of the loss over `train.spread_draws` "
          "draws at the rates of the step before, of the same `train.spread_tokens` validation tokens",
          (In.validation,), "nats per token", null="a draw's loss was not finite", wandb="est",
          checked=(In.validation,)),
    Field("draw_range", "the largest of these losses less the smallest", (In.validation,), "nats per token",
          null="a draw's loss was not finite", wandb="est", checked=(In.validation,)),
    *_health("grad_norm", "norm of the gradient before clipping, over all micro-batches and processes", "the layer did "
             "not run in the step, or not finite"),
    *_health("update_norm", "norm of what the step added", "not finite"),
    *_health("weight_norm", "norm of the weights before the step", "not finite"),
    Field("activation_rms", "root mean square of what each layer gives (the residual stream behind it)", (In.layers,),
          null="the layer did not run in the step, or not finite", wandb="layers", kind=list),
    Field("trained_layers", "share of the steps since the record before in which each layer was trained", (In.layers,),
          "0-1", wandb="layers", kind=list),
    Field("trained_heads", "the same of each head: a list for each layer", (In.layers,), "0-1", wandb="layers",
          kind=list),
    Field("trained_columns", "the same of MLP columns: for each layer the least, the mean and the most of a column",
          (In.layers,), "0-1", wandb="layers", kind=list),
    Field("not_finite", "which of training loss, validation loss and weights was not finite after the last step; where "
          "any was, the run is lost and has no model/", (In.summary,), kind=list),
    Field("flops", "training FLOPs used so far, convention total: three times the forward pass of what really ran",
          (In.step, In.validation, In.summary), wandb="flops", above=0, checked=(In.step,),
          end=Cell("FLOPs (total)", ".3e")),
    Field("flops_dense", "FLOPs (total) of dense training of as many steps", (In.step, In.summary), wandb="flops",
          checked=(In.summary,), end=Cell("FLOPs (total)", ".3e", " of {} dense")),
    Field("flops_blocks", "training FLOPs used so far, convention blocks", (In.summary,), checked=(In.summary,)),
    Field("flops_total", "as `flops`, from the records of the steps", (In.report,), null="not recorded",
          report=Cell("FLOPs (total)", ".3e")),
    Field("flops_dense_total", "as `flops_dense` of summary.json", (In.report,), null="the run is not finished"),
    Field("flops_saved_pct_blocks", "FLOPs saved so far against dense training of as many steps, convention blocks",
          TOTALS, "%", wandb="flops", below=100, checked=(In.step,), end=Cell("FLOPs saved", ".2f", "{} % blocks"),
          sweep=Cell("FLOPs saved: blocks %", ".2f"), report=Cell("saved, blocks %", ".2f")),
    Field("flops_saved_pct_total", "the same, convention total", TOTALS, "%", wandb="flops", below=100,
          checked=(In.step,), end=Cell("FLOPs saved", ".2f", ", {} % total"), sweep=Cell("total %", ".2f"),
          report=Cell("saved, total %", ".2f")),
    Field("tokens_per_s", "speed of the steps since the last record, of all processes", (In.step,), "tokens/s",
          extreme="max"),
    Field("step_s", "mean time of these steps; evaluation and saving do not count", (In.step,), "s", above=0,
          checked=(In.step,), extreme="min"),
    Field("text_wait_s", "with `dataset.tokenize=ahead`: time since the last record that the run waited for text to be "
          "tokenised, which is in no step's time", (In.step,), "s"),
    Field("mfu", "FLOPs (total) per second in these steps over the peak of all devices at this precision", (In.step,),
          "0-1", extreme="max", null="the device's peak is not known"),
    Field("mem_gb", "most memory used so far, of the device, or on a CPU of the process", (In.step,), "1e9 bytes",
          extreme="max"),
    Field("mem_reserved_gb", "on a GPU: most memory that torch has taken so far, gaps between what is used included",
          (In.step,), "1e9 bytes"),
    Field("alloc_retries", "on a GPU: how often so far torch gave memory back to the device to get a larger piece; a "
          "number that grows means gaps, and slower steps", (In.step,)),
    Field("time_s", "wall-clock time of the whole run, evaluation and saving included", (In.summary,), "s",
          end=Cell("time", "clock"), sweep=Cell("time s", ".1f")),
    Field("train_s", "time of the training steps alone: the sum of `step_s`", (In.report,), "s", null="not recorded",
          report=Cell("time s", ",.1f")),
    Field("time_saved_pct", "step time saved against the same steps at the full stage's median step time",
          (In.summary, In.report), "%", null="no full stage ran, or records are lost",
          end=Cell("time saved", ".2f", "{} % of the step time"), sweep=Cell("saved %", ".2f"),
          report=Cell("time saved %", ".1f")),
    Field("from_stage", "the stage before", (In.transition,), wandb="est"),
    Field("to_stage", "the stage that begins with this step", (In.transition,), wandb="est"),
    Field("loss_before", "training loss of the step before", (In.transition,), "nats per token", null="not known",
          wandb="est"),
    Field("loss_after", "training loss of this step", (In.transition,), "nats per token", null="not finite",
          wandb="est"),
    Field("from_step", "the step, counted from 1, that was a spike", (In.rewind,), wandb="train"),
    Field("times", "how often the run has gone back there", (In.rewind,), wandb="train"),
    Field("first_sample", "number of the step's first sequence; of a rewind of the first that is passed over",
          (In.not_finite, In.skipped, In.rewind)),
    Field("samples", "sequences of the step; of a rewind those that are passed over, each time that it went back there",
          (In.not_finite, In.skipped, In.rewind)),
    Field("spike_loss", "training loss of the spike", (In.skipped, In.rewind), "nats per token", wandb="train"),
    Field("spike_norm", "its gradient norm before clipping", (In.skipped, In.rewind), wandb="train"),
    Field("loss_limit", "what its loss was above", (In.skipped, In.rewind), "nats per token", wandb="train"),
    Field("norm_limit", "what its gradient norm was above", (In.skipped, In.rewind), wandb="train"),
    Field("skipped_steps", "with `train.on_spike=skip`: steps whose update was left out", (In.summary,)),
    Field("rewinds", "with `train.on_spike=rewind`: how often the run went back to a checkpoint", (In.summary,)),
    Field("passed_samples", "with `train.on_spike=rewind`: sequences that were passed over so far",
          (In.step, In.summary), wandb="train"),
    Field("flops_passed_over", "with `train.on_spike=rewind`: of `flops`, those of steps that were undone",
          (In.summary,)),
    Field("prompt", "`train.sample_prompt`", (In.sample,), kind=str, wandb="est"),
    Field("text", "the prompt and what the complete model drew after it", (In.sample,), kind=str, wandb="est"),
    Field("stages", "of each stage its steps, rates, median step time and last losses", (In.summary,), kind=list),
    Field("transitions", "of each transition the losses around it and the steps until the loss was back",
          (In.summary,), kind=list),
    Field("coverage", "share of the steps in which each layer was trained, and the spread over heads and columns",
          (In.summary,), "0-1", kind=dict),
    Field("diagnoses", "what looks wrong, a line each (docs/schedulers.md)", (In.summary,), kind=list),
    Field("data_hash", "digest of the text", (In.summary,), kind=str, checked=(In.summary,)),
    Field("tokenizer_hash", "digest of the tokenizer", (In.summary,), kind=str, checked=(In.summary,)),
    Field("revisions", "the commits of data sets (a list), model and tokenizer; null of what is not from the hub",
          (In.summary,), kind=dict),
    Field("hardware", "what it was trained on", (In.summary,), kind=str, checked=(In.summary,)),
    Field("git_commit", "the commit of est", (In.summary,), null="no checkout", kind=str, checked=(In.summary,)),
    Field("versions", "of Python and of the packages", (In.summary,), kind=dict, checked=(In.summary,)),
)  # fmt: skip
"""In the order in which they stand in the files."""


def fields_of(record: In) -> list[Field]:
    return [field for field in FIELDS if record in field.where]


def record_of(record: In, values: Mapping[str, Any]) -> Record:
    """`values` as the files have them: in the order of the declaration, and nothing that is not declared."""
    found = {field.name: values[field.name] for field in fields_of(record) if field.name in values}
    assert len(found) == len(values), f"{sorted(set(values) - set(found))} in no Field of {record.value}"
    return found


def flat(record: Record) -> Record:
    """A record of layers as a tracker has it: `layers/KEY/03`; lists of lists are left out."""
    found: Record = {}
    for key, value in record.items():
        if isinstance(value, list):
            numbers = {f"layers/{key}/{n:02d}": one for n, one in enumerate(value) if not isinstance(one, list)}
            found |= numbers
        else:
            found[key] = value
    return found
