"""eval.save: the model of a fine-tuning with its predictions, as a folder that plain transformers opens.

folder = "outputs/NAME/finetuned/sst2-seed0-1a2b3c4d"
model = AutoModelForSequenceClassification.from_pretrained(folder)
for line in open(f"{folder}/predictions.jsonl"):
    row = json.loads(line)
    model(torch.tensor([row["input_ids"]])).logits.argmax().item() == row["prediction"]
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from est_cli.config import Select
from est_cli.evaluation.examples import TaskData
from est_cli.evaluation.finetune import EncodedTask, Epoch, reported
from est_cli.evaluation.outcomes import Record
from est_cli.models.foreign import quiet_transformers
from est_cli.models.pretrained import Checkpoint
from est_cli.storage import disk, store
from est_cli.storage.digest import fingerprint
from est_cli.storage.versions import git_commit, versions

FOLDER = "finetuned"
"""Inside the evaluation's folder."""
PREDICTIONS = "predictions.jsonl"


@dataclass
class EpochWeights:
    """The weights of the epoch that counts, as far as a fine-tuning has come."""

    model: PreTrainedModel
    select: Select
    weights: dict[str, Tensor] = field(default_factory=dict)

    def take(self, epochs: Sequence[Epoch]) -> None:
        """After each epoch."""
        if reported(epochs, self.select) is epochs[-1]:
            self.weights = {name: weight.detach().cpu().clone() for name, weight in self.model.state_dict().items()}


@dataclass(frozen=True)
class FinetunedModel:
    """What is kept of a fine-tuning."""

    model: PreTrainedModel
    weights: dict[str, Tensor]
    checkpoint: Checkpoint
    data: TaskData
    encoded: EncodedTask
    predictions: dict[str, np.ndarray]
    """Dev split -> (N,): class ids or scores, in the order of the examples."""

    def save(self, folder: Path, record: Record) -> None:
        """Make the folder for `record` in the evaluation's `folder`, whole or not at all. StorageError."""
        target = model_folder_of(folder, record.identity)
        about = {key: getattr(record, key) for key in ("checkpoint", "task", "seed", "score", "epoch")}
        digests = {key: getattr(record, key) for key in ("settings_digest", "data_digest")}
        meta = {**about, **digests, "git_commit": git_commit(), "versions": versions()}
        store.write_folder(target, self._fill, meta)

    def _fill(self, folder: Path) -> None:
        tokenizer = copy.deepcopy(self.checkpoint.tokenizer)
        if hasattr(self.model, "score"):  # a decoder: transformers reads it at the last token that is no padding
            self.model.config.pad_token_id = self._pad_id()
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(self.encoded.pad_id)
        labels = self.data.task.labels
        if labels:
            self.model.config.id2label = dict(enumerate(labels))
            self.model.config.label2id = {label: number for number, label in enumerate(labels)}
        with quiet_transformers():
            self.model.save_pretrained(folder, state_dict=self.weights)
            tokenizer.save_pretrained(folder)
        disk.write_file(folder / PREDICTIONS, "".join(f"{json.dumps(row)}\n" for row in self._rows()).encode())

    def _pad_id(self) -> int | None:
        """None where a text ends with it, so that transformers reads every text alone, and that at its end."""
        pad, parts = self.encoded.pad_id, self.encoded.dev.values()
        ids = (row["input_ids"] for part in parts for row in part.rows)
        return None if any(len(one) > 1 and one[-1] == pad for one in ids) else pad

    def _rows(self) -> Iterator[dict[str, Any]]:
        for split, found in self.predictions.items():
            part, examples = self.encoded.dev[split], self.data.dev[split]
            kind = float if self.data.task.is_regression else int
            for row, example, value in zip(part.rows, examples, found, strict=True):
                outcome = {"label": kind(example.label), "prediction": kind(value)}
                yield {"split": split, **outcome, "texts": example.texts, **row}


def model_folder_of(folder: Path, identity: Sequence[Any]) -> Path:
    """Where the model of the record with this identity lies in the evaluation's `folder`."""
    _, task, seed, *_ = identity
    return folder / FOLDER / f"{task}-seed{seed}-{fingerprint(list(identity))[:8]}"


def clean_saved(folder: Path) -> None:
    """Remove what a killed evaluation left half written. Call it holding the lock of `folder`."""
    store.clean_leftovers(folder / FOLDER, within=folder)
