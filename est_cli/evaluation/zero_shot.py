"""A checkpoint as it is: perplexity and bits per byte of any text, and tasks of lm-evaluation-harness.

Perplexity: each token is predicted once, from as much before it as its window holds. A document is read behind the
token that texts begin behind in pre-training, so that its first token is predicted, too. Windows of `max_length` tokens
follow each other by `stride`; in each of them only tokens count that no window before it has predicted. B windows,
T tokens, V vocabulary.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from est_cli.common.counts import counted
from est_cli.common.errors import CheckpointError, ConfigError, DataError, install_hint
from est_cli.common.table import print_lines, table_console
from est_cli.config import EvalConfig, EvalSettings
from est_cli.data.text.sources import expand
from est_cli.data.tokens.evaluated import EvaluatedText, Ids, load_evaluated
from est_cli.distributed.workers import Processes, memory_enough
from est_cli.evaluation.check_evaluation import LESS_MEMORY, PERPLEXITY_VERSION
from est_cli.evaluation.results import keep_zero_shot
from est_cli.models.documents import has_documents_apart
from est_cli.models.harness import harness_numbers, task_manager
from est_cli.models.pretrained import Checkpoint, load_language_model, max_tokens
from est_cli.storage.digest import digest_files, fingerprint

IGNORED = -100
GROUP_TOKENS = 1 << 20
"""Of the windows that are in memory at once: some 50 MB."""
MAX_LOGITS = 1 << 27
"""Of a batch: half a gigabyte in fp32."""


@dataclass(frozen=True)
class Window:
    """A piece of a document: `ids` is what the model reads, of which the last `predicted` tokens count."""

    ids: list[int]
    predicted: int


@dataclass(frozen=True)
class Measured:
    nats: float
    """The sum of -log p over the tokens."""
    tokens: int
    bytes: int
    """Of the text in UTF-8."""
    documents: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes


def measure_all(
    config: EvalConfig, checkpoints: Sequence[Checkpoint], folder: Path, processes: Processes
) -> dict[str, float]:
    """Measure every checkpoint on eval.files; the first process prints and keeps the results.

    Returns the numbers of the first checkpoint.
    """
    paths = expand(config.eval.files, "eval.files")
    digests = digest_files(paths)
    numbers: list[dict[str, float]] = []
    for checkpoint in checkpoints:
        fields, cache = config.eval.text_fields, config.paths.data_folder
        text = load_evaluated(paths, digests, fields, checkpoint.tokenizer, cache)
        measured = measure(checkpoint, text, config.eval, processes)
        numbers.append({"perplexity": measured.perplexity, "bits_per_byte": measured.bits_per_byte})
        if not processes.first:
            continue
        length, stride = window_sizes(checkpoint, config.eval)
        settings = {"max_length": length, "stride": stride, "precision": config.eval.precision.value}
        settings |= {"packing": "document"} if has_documents_apart(checkpoint.config) else {}
        result: dict[str, Any] = {"checkpoint": checkpoint.name, "task": "perplexity", "files": config.eval.files}
        result |= numbers[-1] | {"tokens": measured.tokens, "bytes": measured.bytes, "documents": measured.documents}
        digest = fingerprint(digests, config.eval.text_fields, settings, PERPLEXITY_VERSION)
        keep_zero_shot(folder, {**result, **settings, "settings_digest": digest})
        blank = text.total("blank")
        left_out = f", {counted(blank, 'blank one')} left out" if blank else ""
        size = f"{counted(measured.tokens, 'token')}, {counted(measured.bytes, 'byte')}"
        print_lines(
            table_console(),
            f"{checkpoint.name}: perplexity {measured.perplexity:.3f}, {measured.bits_per_byte:.4f} bits per byte "
            f"({size}, {counted(measured.documents, 'document')}{left_out}; windows of {length}, stride {stride})",
        )
    return numbers[0]


def measure(checkpoint: Checkpoint, text: EvaluatedText, settings: EvalSettings, processes: Processes) -> Measured:
    """The sums over all documents; every process calls it with all of them. Raises DataError where there is no text."""
    length, stride = window_sizes(checkpoint, settings)
    start = first_token(checkpoint)
    model = load_language_model(checkpoint).to(processes.device).eval()
    _require_causal(model, checkpoint)
    if not text.tokens:
        raise DataError("eval.files: hold no text; name other files, or the field with the text in eval.text_fields")
    rank = processes.group.rank
    read = windows_apart if has_documents_apart(checkpoint.config) else windows
    found = (window for ids in text.documents() for window in read(start, ids, length, stride))
    nats, counted = 0.0, 0
    with memory_enough(LESS_MEMORY):
        for own in _groups(islice(found, rank.rank, None, rank.world_size)):
            nats += _sum(model, own, settings.batch_size, processes)
            counted += sum(window.predicted for window in own)
    nats, total = processes.group.sum([nats, float(counted)])
    assert total == text.tokens, "every token must be counted once"
    return Measured(nats, text.tokens, text.total("bytes"), text.total("documents"))


def windows(start: int, ids: Ids, length: int, stride: int) -> Iterator[Window]:
    """Windows over `start` and the `ids` behind it, which are to be predicted, each in exactly one window."""
    count, done = len(ids) + 1, 1
    for begin in range(0, count, stride):
        end = min(begin + length, count)
        if end > done:
            behind = ids[max(0, begin - 1) : end - 1].tolist()
            yield Window(behind if begin else [start, *behind], end - done)
        done = end
        if end == count:
            return


def windows_apart(start: int, ids: Ids, length: int, stride: int) -> Iterator[Window]:
    """As windows(), for a model whose training never showed it `start` and what is behind it together: only the first
    of the `ids` is predicted from `start`, and the others as if that were not there."""
    first = int(ids[0])
    yield Window([start, first], 1)
    yield from windows(first, ids[1:], length, stride)


def _groups(found: Iterator[Window]) -> Iterator[list[Window]]:
    """As many windows at a time as memory is sure to hold."""
    group: list[Window] = []
    size = 0
    for window in found:
        group.append(window)
        size += len(window.ids)
        if size >= GROUP_TOKENS:
            yield group
            group, size = [], 0
    if group:
        yield group


def window_sizes(checkpoint: Checkpoint, settings: EvalSettings) -> tuple[int, int]:
    """(tokens of a window, tokens from one to the next). ConfigError where tokens would lie between windows."""
    length = max_tokens(checkpoint, settings.max_length)
    stride = length // 2 if settings.stride is None else settings.stride
    if stride >= length:  # a window's first token is not predicted by it
        raise ConfigError(f"eval.stride: {stride} must be below the window's {length} tokens, or some are never read")
    return length, stride


def _sum(model: PreTrainedModel, own: Sequence[Window], batch_size: int, processes: Processes) -> float:
    ordered = sorted(own, key=lambda window: -len(window.ids))
    longest = len(ordered[0].ids) if ordered else 1
    size = max(1, min(batch_size, MAX_LOGITS // (longest * model.config.vocab_size)))
    total = torch.zeros((), dtype=torch.float64, device=processes.device)
    with torch.no_grad(), processes.autocast():
        for at in range(0, len(ordered), size):
            total += _batch_sum(model, ordered[at : at + size], processes.device)
    return total.item()


def _batch_sum(model: PreTrainedModel, batch: Sequence[Window], device: torch.device) -> Tensor:
    longest = len(batch[0].ids)
    ids = torch.tensor([window.ids + [0] * (longest - len(window.ids)) for window in batch]).to(device)
    mask = torch.tensor([[1] * len(window.ids) + [0] * (longest - len(window.ids)) for window in batch]).to(device)
    targets = torch.full_like(ids, IGNORED)
    for row, window in enumerate(batch):
        counted = slice(len(window.ids) - window.predicted, len(window.ids))
        targets[row, counted] = ids[row, counted]
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits  # (B, T, V)
    pieces = zip(logits[:, :-1], targets[:, 1:], strict=True)  # one sequence in fp32 at a time
    return torch.stack([F.cross_entropy(one.float(), want, reduction="sum").double() for one, want in pieces]).sum()


def first_token(checkpoint: Checkpoint) -> int:
    """What a text begins behind: in a training with est end-of-text, elsewhere what the model's makers say.

    Raises CheckpointError where nothing is said.
    """
    tokenizer, config = checkpoint.tokenizer, checkpoint.config
    said = (getattr(config, "bos_token_id", None), tokenizer.bos_token_id, tokenizer.eos_token_id)
    for token in (tokenizer.eos_token_id, *said) if checkpoint.is_ours else said:
        if token is not None:
            return int(token)
    raise CheckpointError(f"{checkpoint.place}: its tokenizer has no bos_token or eos_token to begin a text with")


def _require_causal(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError for a model that sees the token that it is to predict."""
    ids = torch.tensor([[1, 2, 3], [1, 2, 4]], device=model.device) % model.config.vocab_size
    with torch.no_grad():
        first, second = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, :2]
    if not torch.allclose(first, second, atol=1e-4):
        raise CheckpointError(f"{checkpoint.place}: looks ahead, so it is no language model with a perplexity")


def require_harness() -> None:
    """Raise ConfigError where lm-evaluation-harness is absent."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(f"task: lm_eval:... needs lm-evaluation-harness; {install_hint('lm-eval')}")


def run_harness(
    config: EvalConfig, checkpoints: Sequence[Checkpoint], names: Sequence[str], folder: Path, processes: Processes
) -> dict[str, float]:
    """Run the tasks `names` on every checkpoint, in one process; print and keep what the harness found.

    Returns the numbers of the first checkpoint, as `lm_eval:TASK.METRIC`.
    """
    if processes.group.rank.world_size > 1:
        raise ConfigError("launch.num_processes: task=lm_eval:... runs in one process; leave it at 1")
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    settings = config.eval
    manager = task_manager("task", names, settings.data_dir)
    numbers: dict[str, float] = {}
    for checkpoint in checkpoints:
        model = load_language_model(checkpoint).to(processes.device).eval()
        length = max_tokens(checkpoint, settings.max_length)
        wrapped = HFLM(
            pretrained=model,
            tokenizer=checkpoint.tokenizer,
            max_length=length,
            batch_size=settings.batch_size,
            prefix_token_id=first_token(checkpoint),
        )
        with processes.autocast():
            found = lm_eval.simple_evaluate(model=wrapped, tasks=list(names), task_manager=manager)
        for name in names:
            result = harness_numbers(found["results"][name])
            if not result:
                raise DataError("task: lm-evaluation-harness gave no numbers for it; see its own messages above")
            conditions = {"max_length": length, "precision": settings.precision.value, "lm_eval": lm_eval.__version__}
            entry = {"checkpoint": checkpoint.name, "task": f"lm_eval:{name}", "results": result, **conditions}
            keep_zero_shot(folder, {**entry, "settings_digest": fingerprint(conditions)})
            print_lines(
                table_console(),
                f"{checkpoint.name}: {name}: " + ", ".join(f"{key} {value:.4f}" for key, value in result.items()),
            )
            if checkpoint is checkpoints[0]:
                numbers |= {f"lm_eval:{name}.{key}": value for key, value in result.items()}
    return numbers
