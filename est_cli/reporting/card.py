"""The model card of a run: README.md beside the final model, in the form that the Hugging Face hub reads.

It is made from what the run has written. No path, and no name of a local file, is in it: it is meant to be shown.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

import est_cli
from est_cli.config import RunConfig
from est_cli.config.batch import describe_batch
from est_cli.config.model import HF
from est_cli.config.schedulers import scheduler_named
from est_cli.config.schedulers.shared.scheduler import DRAWN
from est_cli.reporting.card_head import Score, metadata
from est_cli.reporting.card_sources import base_model, data_in_words, plain, tokenizer_in_words, word
from est_cli.reporting.records import Record
from est_cli.reporting.runs import RunRecord
from est_cli.storage import disk, strict_json
from est_cli.storage.manifest import CARD, CARD_PICTURE
from est_cli.storage.run_dir import RunDir

MAX_STAGES = 12
"""Rows of the schedule; of more the first and the last are shown."""
_SEAL = re.compile(r"<!-- made by est from the files of the run; sha256 of what stands above: ([0-9a-f]{64}) -->\n")
_METHOD = (
    "Evolving Subnetwork Training (EST): a step trains a randomly drawn subnetwork, some of the attention heads, MLP "
    "columns and layers, at the rates of the schedule below. Weights are shared and nothing is pruned: what is here is "
    "the complete model, and it is used like any other of its kind."
)
_CITATION = """\
@inproceedings{li2024evolving,
  title     = {Evolving Subnetwork Training for Large Language Models},
  author    = {Li, Hanqi and Chen, Lu and Ma, Da and Wu, Zijian and Zhu, Su and Yu, Kai},
  booktitle = {International Conference on Machine Learning},
  series    = {Proceedings of Machine Learning Research},
  volume    = {235},
  pages     = {27547--27562},
  year      = {2024}
}"""


def model_card(run: RunRecord, model: Path, license_id: str | None, scores: Sequence[Score] = ()) -> str:
    """The card of a finished run, whose final model lies in the folder `model`. Sealed: see is_edited()."""
    assert run.summary is not None
    scores = [*_scores(run.summary), *scores]
    name = Path(run.name).resolve().name
    facts = _Facts(_model_type(model), _parameters(model))
    head = yaml.safe_dump(metadata(run, name, facts.family, license_id, scores), sort_keys=False, allow_unicode=True)
    parts = [f"---\n{head}---", f"# {name}", _about(run.config, facts), _use(), *_training(run, facts)]
    parts += [*_schedule(run.summary), *_saved(run), *_evaluation(run.summary, scores), *_license(license_id), *_cite()]
    text = "\n\n".join(parts) + "\n\n"
    return f"{text}<!-- made by est from the files of the run; sha256 of what stands above: {_digest(text)} -->\n"


def write_card(run: RunDir, card: bytes) -> None:
    """Put the card beside the final model. Call it holding the run's lock. StorageError if the disk refuses."""
    disk.replace_file(run.model / CARD, card, beside=run.root)


def write_picture(run: RunDir, png: bytes) -> None:
    """The same with the picture that the card shows."""
    disk.replace_file(run.model / CARD_PICTURE, png, beside=run.root)


def is_edited(card: str) -> bool:
    """Whether somebody has changed a card since model_card() made it."""
    *_, last = card.splitlines(keepends=True) or [""]
    found = _SEAL.fullmatch(last)
    return found is None or found[1] != _digest(card.removesuffix(last))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class _Facts:
    """What only the model's own files say."""

    family: str
    """Hugging Face's model_type."""
    parameters: int


def _model_type(model: Path) -> str:
    return word(strict_json.read_file(model / "config.json").get("model_type", "language model"))


def _parameters(model: Path) -> int:
    with safe_open(model / "model.safetensors", framework="numpy") as weights:
        return sum(prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118


def _about(config: RunConfig, facts: _Facts) -> str:
    """The first paragraph: what was trained, and how."""
    base = base_model(config)
    beginning = f"trained on from `{base}`" if base else "pre-trained"
    if config.model.family == HF and config.model.pretrained and not base:
        beginning = "trained on from a local model"
    kind = f"A `{facts.family}` language model of {_count(facts.parameters)} parameters, {beginning}"
    if scheduler_named(config.scheduler.name).sampling != DRAWN:
        return f"{kind} with est, the schedule `{plain(config.scheduler.name)}`."
    return f"{kind} with {_METHOD}"


def _use() -> str:
    code = 'path = "..."  # this repository, or the folder that this file is in\n'
    code += "tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)"
    told = "It continues text; nothing was done to make what it writes true or harmless."
    return f"```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n{code}\n```\n\n{told}"


def _training(run: RunRecord, facts: _Facts) -> list[str]:
    config, summary = run.config, run.summary or {}
    versions = summary.get("versions") or {}
    used = ", ".join(f"{plain(name)} {plain(version)}" for name, version in versions.items() if name != "est-cli")
    commit = summary.get("git_commit")
    rows = _beginning(config) | {
        "data": "; ".join(data_in_words(config)),
        "tokenizer": tokenizer_in_words(config),
        "batch": f"{describe_batch(run.batch)} a step",
        "steps": f"{summary['steps']:,}",
        "tokens": f"{summary['tokens']:,}",
        "learning rate": f"{config.optim.lr:g}, schedule `{plain(config.optim.schedule)}`",
        "precision": config.train.precision.value if config.train.precision else "that of the device",
        "seed": str(config.seed),
        "hardware": plain(summary.get("hardware") or "not recorded"),
        "time": f"{summary['time_s'] / 3600:,.2f} h, evaluation and saving included",
        "software": f"est {plain(versions.get('est-cli', est_cli.__version__))}"
        + (f" (commit `{plain(commit)[:12]}`)" if commit else "")
        + (f", {used}" if used else ""),
    }
    return ["## Training", _table(("", ""), rows.items()), f"![Loss over the steps]({CARD_PICTURE})"]


def _beginning(config: RunConfig) -> dict[str, str]:
    """Of a fork: how much of what the card counts is another run's, which may have had another text and other rates."""
    if config.fork is None:
        return {}
    steps = int(config.fork.rpartition("@")[2])
    told = "of another run, from whose checkpoint this one began; data, learning rate and precision are of the rest"
    return {"first steps": f"{steps:,}, {told}"}


def _schedule(summary: Record) -> Iterator[str]:
    """The stages with their rates."""
    stages: list[Record] = summary.get("stages") or []
    if not stages:
        return
    shown = stages if len(stages) <= MAX_STAGES else [*stages[: MAX_STAGES - 1], stages[-1]]
    drawn = {"p_t": "predictions"} if any("p_t" in row for row in shown) else {}
    kinds = {"p_h": "heads", "p_m": "MLP columns", "p_l": "layers", **drawn}
    rows = [
        (str(row["stage"]), f"{row['steps']:,}", *(f"{row.get(key, 1.0):.3g}" for key in kinds), _loss(row))
        for row in shown
    ]
    yield "### Schedule"
    yield _table(("stage", "steps", *kinds.values(), "validation loss at its end"), rows)
    left_out = f" {len(stages) - MAX_STAGES} stages before the last are left out." if len(shown) < len(stages) else ""
    seen = " Predictions: the share that its loss was the mean of." if drawn else ""
    yield f"Heads, columns and layers: the share that a step trained, the mean over the stage.{seen}{left_out}"


def _saved(run: RunRecord) -> Iterator[str]:
    summary = run.summary or {}
    blocks, total, time = (summary.get(f"{key}_saved_pct{of}") for key, of in _SAVED)
    yield "### Saved"
    flops, dense = summary["flops"], summary["flops_dense"]
    rows = [
        ("FLOPs, convention blocks", f"{blocks:.2f} %", "the projections inside the Transformer blocks"),
        ("FLOPs, convention total", f"{total:.2f} %", f"also attention and LM head: {flops:.3e} of {dense:.3e}"),
    ]
    if time is not None and blocks:
        rows.append(("step time", f"{time:.2f} %", "against the same steps at the median step time of the full stage"))
    yield _table(("", "saved", "of dense training of as many steps"), rows)


_SAVED = (("flops", "_blocks"), ("flops", "_total"), ("time", ""))


def _evaluation(summary: Record, scores: Sequence[Score]) -> Iterator[str]:
    yield "## Evaluation"
    rows = [("held-out part of the training text", "loss (nats per token)", _number(summary.get("final_val_loss")), "")]
    rows.append(("held-out part of the training text", "perplexity", _number(summary.get("perplexity")), ""))
    rows += [(plain(s.task), plain(s.metric), _number(s.value), f"{s.of} {s.spread}".strip()) for s in scores]
    yield _table(("on", "metric", "value", ""), rows)


def _scores(summary: Record) -> Iterator[Score]:
    """Of train.eval_tasks, after the last step."""
    for key, value in (summary.get("tasks") or {}).items():
        task, _, metric = key.partition("/")
        if not metric.endswith("_stderr"):
            yield Score(task, metric, float(value), "zero-shot")


def _license(license_id: str | None) -> Iterator[str]:
    yield "## Licence"
    if license_id is None:
        yield "No licence was chosen for this model: ask its owner before you use it."
    else:
        yield f"`{license_id}`"


def _cite() -> Iterator[str]:
    yield "## How to cite"
    yield f"The method, of which est is an independent implementation:\n\n```bibtex\n{_CITATION}\n```"


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _loss(row: Record) -> str:
    return _number(row.get("val_loss"))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _count(number: int) -> str:
    return f"{number / 1e6:,.1f} M" if number < 1e9 else f"{number / 1e9:,.2f} B"
