"""What all analyses are given: the checkpoints, the text with the loss on it, and the processes that share the work.

The text is the same for every seed, evenly spread over the part it is from.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from transformers import PreTrainedModel

from est_cli.analysis.check_analysis import run_of_prices
from est_cli.common.errors import ConfigError, DataError, NumericsError
from est_cli.common.rank import Rank
from est_cli.config import Analysis, AnalyzeConfig, Packing, Part
from est_cli.config.batch import longest_sequence
from est_cli.config.stored import stored_config
from est_cli.data import TokenBlocks, load_corpus
from est_cli.distributed import weight_checksum
from est_cli.distributed.workers import Processes, WorkShare
from est_cli.models.documents import check_documents, document_inputs, has_documents_apart
from est_cli.models.pretrained import Checkpoint, load_language_model, max_tokens
from est_cli.tracking.work_progress import WorkProgress

Loss = Callable[[int], Tensor]
"""The share of a batch in the mean loss, with its graph."""
Outcome = tuple[dict[str, Any], dict[str, Callable[[], Figure]]]
"""What stands under `result` in analysis.json, and what draws the pictures, by name, when that is written."""


@dataclass(frozen=True)
class Text:
    batches: tuple[Tensor, ...]
    """(B, T) int64 each."""
    digest: str
    """Of the whole corpus and the tokenizer."""
    end_of_text: int | None = None
    """What ends documents that do not see each other; None: all see all before them."""
    blocks: tuple[int, ...] = ()
    """Which blocks of the part these are, in the order of the sequences: block i are its tokens from i * T on."""
    num_blocks: int = 0
    """Whole blocks of the part."""
    document_end: int | None = None
    """The token that stands behind every document."""

    @property
    def targets(self) -> int:
        """Tokens that are predicted: all but the first of each sequence."""
        return sum(batch.shape[0] * (batch.shape[1] - 1) for batch in self.batches)

    def to_json(self) -> dict[str, Any]:
        """As it stands in analysis.json."""
        sequences, seq_len = sum(map(len, self.batches)), self.batches[0].shape[1]
        size = {"sequences": sequences, "seq_len": seq_len, "predicted_tokens": self.targets, "digest": self.digest}
        where = {"blocks": list(self.blocks), "num_blocks": self.num_blocks, "document_end": self.document_end}
        return {**size, **where, "documents_apart": self.end_of_text is not None}

    def npy(self) -> bytes:
        """The token ids, (sequences, T) int32, as a file of numpy's."""
        file = io.BytesIO()
        np.save(file, torch.cat(self.batches).numpy().astype(np.int32), allow_pickle=False)
        return file.getvalue()


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint and, where it is one of a run's, the step it was saved after."""

    checkpoint: Checkpoint
    step: int | None = None


@dataclass(frozen=True)
class AnalysisJob:
    config: AnalyzeConfig
    checkpoints: tuple[OpenedCheckpoint, ...]
    baseline: Checkpoint | None
    text: Text
    processes: Processes
    progress: WorkProgress

    @property
    def batches(self) -> int:
        return len(self.text.batches)

    @property
    def work(self) -> WorkShare:
        return WorkShare(self.processes.group, self.progress.advance)

    def load(self, checkpoint: Checkpoint) -> PreTrainedModel:
        """The model on the device, without dropout; attention is written out in plain operators, because fused ones
        have no second derivative. Raises PeerLostError where another process has other weights."""
        self.progress.begin(f"{checkpoint.name}: {self.config.analysis.value}")
        model = load_language_model(checkpoint, attention="eager").to(self.processes.device).eval()
        if self.processes.group.rank.world_size > 1:
            self.processes.group.require_same(weight_checksum(model), "its weights are not")
        return model

    def loss(self, model: PreTrainedModel, checkpoint: Checkpoint) -> tuple[Loss, float]:
        """The loss to differentiate, and its value. Raises NumericsError where that is not finite."""
        loss = loss_on(model, self.text)
        value = mean_loss(loss, self.batches)
        if not math.isfinite(value):
            raise NumericsError(f"{checkpoint.place}: its loss on this text is {value}")
        return loss, value


def mean_loss(loss: Loss, batches: int) -> float:
    """The sum over all batches, without a graph."""
    with torch.no_grad():
        return sum(loss(batch).item() for batch in range(batches))


def _trained_lengths(config: AnalyzeConfig) -> list[int]:
    """Of prices the longest sequence of the run: at later positions a model that learns them was never trained."""
    return [longest_sequence(stored_config(run_of_prices(config)).train)] if config.analysis is Analysis.prices else []


def load_text(config: AnalyzeConfig, checkpoint: Checkpoint, rank: Rank) -> Text:
    """What `dataset` and `analyze` choose, in the tokens of the checkpoint; tokenised now or taken from the cache.

    Raises DataError, ConfigError or StorageError.
    """
    settings = config.analyze
    seq_len = min(max_tokens(checkpoint, settings.seq_len), settings.tokens, *_trained_lengths(config))
    tokenizer = config.tokenizer or checkpoint.place
    size, verify = checkpoint.config.vocab_size, rank.local_rank == 0
    cache = config.paths.data_folder
    corpus = load_corpus(config.dataset, tokenizer, size, cache, seq_len, verify, begun=True)  # as it was trained on
    tokens = corpus.validation if settings.part is Part.validation else corpus.train
    if min(map(len, tokens.streams)) < seq_len:
        short = min(map(len, tokens.streams))
        raise DataError(
            f"analyze.seq_len: {seq_len} is more than the {short} tokens of the {settings.part.value} text; "
            "use a shorter one"
        )
    blocks = TokenBlocks(tokens, seq_len, settings.part.value)
    wanted = min(settings.tokens // seq_len, blocks.num_blocks)
    spread = np.arange(wanted) * blocks.num_blocks // wanted
    digest = f"{corpus.data_hash[:16]}-{corpus.tokenizer_hash[:16]}"
    document_end = corpus.tokenizer.eos_token_id
    end_of_text = document_end if _apart(config, checkpoint, seq_len) else None
    batches = blocks.take(spread).split(settings.batch)
    return Text(batches, digest, end_of_text, tuple(spread.tolist()), blocks.num_blocks, document_end)


def _apart(config: AnalyzeConfig, checkpoint: Checkpoint, seq_len: int) -> bool:
    """Whether documents are. Raises ConfigError where they cannot be, and where they are not but were in training."""
    if config.dataset.packing is Packing.document:
        check_documents(checkpoint.config, seq_len)
        return True
    if has_documents_apart(checkpoint.config):
        raise ConfigError(f"dataset.packing: {checkpoint.place} was trained with document; give that here, too")
    return False


def loss_on(model: PreTrainedModel, text: Text) -> Loss:
    """The mean cross-entropy (nats) of each token given those before it in its sequence, batch by batch."""

    def loss(number: int) -> Tensor:
        tokens = text.batches[number].to(model.device)
        apart = document_inputs(model, tokens, text.end_of_text)
        logits = model(input_ids=tokens, use_cache=False, **apart).logits[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum") / text.targets

    return loss
