"""The fine-tuning loop, against one written with plain transformers, and in its corners."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

from est_cli.common.errors import NumericsError, PeerLostError
from est_cli.common.rank import Rank
from est_cli.config import EvalConfig, EvalSettings, LaunchConfig, Select
from est_cli.distributed import Group, weight_checksum
from est_cli.distributed import workers as processes
from est_cli.distributed.workers import Processes
from est_cli.evaluation.check_evaluation import CONTINUES
from est_cli.evaluation.classifier import encode, epoch_order, load_classifier
from est_cli.evaluation.examples import TaskData, load_task
from est_cli.evaluation.finetune import EncodedTask, Epoch, finetune, reported, work_of
from est_cli.evaluation.glue import TASKS
from est_cli.models.pretrained import Checkpoint, max_tokens, open_checkpoint
from tests.lab.glue_folder import rows_of, write_split
from tests.lab.small_models import save

ALONE = Processes(torch.device("cpu"), nullcontext, Group(Rank(), 60.0))
BATCH, EPOCHS, SEED = 8, 2, 5
worked: list[float] = []
"""What trained() told of its progress."""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("glue")
    for task in (TASKS[name] for name in ("sst2", "mrpc", "stsb", "mnli")):
        rows = rows_of(task, 101)
        write_split(root, task, "train", rows[:61])
        for split in task.dev_splits:
            write_split(root, task, split, rows[61:])
    return root


def given_by(checkpoint: Checkpoint, data: TaskData) -> EncodedTask:
    longest = max_tokens(checkpoint, None)
    dev = {split: encode(examples, checkpoint, longest) for split, examples in data.dev.items()}
    return EncodedTask(data.task, encode(data.train, checkpoint, longest), dev, checkpoint.pad_id)


def trained(folder: Path, data_dir: Path, task: str, seed: int = SEED, **settings: object) -> list[Epoch]:
    checkpoint = open_checkpoint("checkpoint", str(folder))
    given = given_by(checkpoint, load_task(TASKS[task], data_dir, None))
    chosen = {"lr": 3e-3, "batch_size": BATCH, "epochs": float(EPOCHS), "warmup": 0.0, **settings}
    worked.clear()
    model = load_classifier(checkpoint, given.outputs, seed, settings.get("dropout"))  # type: ignore[arg-type]
    return finetune(model, given, EvalSettings(**chosen), seed, ALONE, worked.append)  # type: ignore[arg-type]


def reference(folder: Path, data: TaskData, seed: int, lr: float, epochs: int) -> tuple[np.ndarray, list[float]]:
    """Dev predictions, and the loss of each step, of a loop of plain transformers with its own head and schedule."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    decoder = tokenizer.pad_token is None
    if decoder:
        tokenizer.pad_token = "[PAD]"  # one that no text holds: transformers can then find the last token
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(data.task.labels))
    model.config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(seed)
    head = model.score if decoder else model.classifier
    head.weight.data.normal_(0.0, 0.02)
    if not decoder:
        head.bias.data.zero_()
        torch.manual_seed(seed)
        fresh = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(data.task.labels))
        model.bert.pooler.load_state_dict(fresh.bert.pooler.state_dict())

    def batch(examples: list) -> dict[str, torch.Tensor]:
        first, *second = zip(*(example.texts for example in examples), strict=True)
        pair = [[f"\n{text}" if decoder else text for text in column] for column in second]
        return tokenizer(list(first), *pair, padding=True, return_tensors="pt", return_token_type_ids=not decoder)

    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    per_epoch = math.ceil(len(data.train) / BATCH)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, epochs * per_epoch)
    model.train()
    losses = []
    for epoch in range(epochs):
        order = epoch_order(len(data.train), seed, epoch)
        for at in range(0, len(order), BATCH):
            examples = [data.train[number] for number in order[at : at + BATCH]]
            labels = torch.tensor([int(example.label) for example in examples])
            loss = model(**batch(examples), labels=labels).loss
            loss.backward()
            losses.append(loss.item())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        found = [model(**batch([example])).logits.argmax().item() for example in data.dev["dev"]]
    return np.array(found), losses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "task", "lr", "epochs"),
    [("gpt2", "sst2", 3e-3, 2), ("llama", "mrpc", 1e-3, 2), ("bert", "mrpc", 1e-2, 4)],
)
def test_it_agrees_with_plain_transformers(
    tmp_path: Path, data_dir: Path, family: str, task: str, lr: float, epochs: int
) -> None:
    folder = save(tmp_path, family)
    found = trained(folder, data_dir, task, lr=lr, epochs=float(epochs))
    predicted = found[-1].predictions["dev"]
    expected, losses = reference(folder, load_task(TASKS[task], data_dir, None), SEED, lr, epochs)
    assert set(expected) == {0, 1}, "a constant would agree with nearly anything"
    assert (predicted == expected).mean() >= 0.995
    means = np.reshape(losses, (epochs, -1)).mean(1)
    assert [epoch.loss for epoch in found] == pytest.approx(list(means), rel=1e-3)


def test_it_learns_and_repeats_itself(tmp_path: Path, data_dir: Path) -> None:
    folder = save(tmp_path)
    first, again, other = (trained(folder, data_dir, "sst2", seed, dropout=0.1) for seed in (0, 0, 1))
    assert first[-1].score >= 0.9 and first[-1].loss < first[0].loss
    assert [epoch.to_json() for epoch in first] == [epoch.to_json() for epoch in again]
    assert first[0].loss != other[0].loss


def test_a_regression(tmp_path: Path, data_dir: Path) -> None:
    first, last = trained(save(tmp_path), data_dir, "stsb", lr=1e-2)
    assert last.loss < first.loss and last.scores["dev"]["pearson"] > 0.5
    assert len(set(last.predictions["dev"])) > 3, "scores, not classes"


def test_dev_is_scored_without_dropout(tmp_path: Path, data_dir: Path) -> None:
    folder, still = save(tmp_path), {"lr": 1e-12, "epochs": 0.1}
    (with_it,), (without,) = (trained(folder, data_dir, "stsb", dropout=p, **still) for p in (0.9, 0.0))
    assert with_it.loss != without.loss
    np.testing.assert_allclose(with_it.predictions["dev"], without.predictions["dev"], atol=1e-6)


def test_both_halves_of_mnli_are_scored(tmp_path: Path, data_dir: Path) -> None:
    (epoch,) = trained(save(tmp_path), data_dir, "mnli", epochs=1.0)
    assert list(epoch.scores) == ["dev_matched", "dev_mismatched"]
    assert {len(found) for found in epoch.predictions.values()} == {40}


def test_epochs_may_be_fractions(tmp_path: Path, data_dir: Path) -> None:
    folder = save(tmp_path)
    for epochs, expected in ((0.5, [4 / 8]), (1.5, [1.0, 12 / 8]), (2.0, [1.0, 2.0])):
        assert [epoch.epoch for epoch in trained(folder, data_dir, "sst2", epochs=epochs)] == expected


@pytest.mark.parametrize(("epochs", "train", "dev"), [(0.5, 32, 1), (1.0, 61, 1), (2.2, 138, 3)])
def test_the_work_is_foreseen(tmp_path: Path, data_dir: Path, epochs: float, train: int, dev: int) -> None:
    """61 examples, 8 a step; 80 of dev in two halves, a training example like three of them."""
    trained(save(tmp_path), data_dir, "mnli", epochs=epochs)
    assert sum(worked) == pytest.approx(3 * train + 80 * dev)
    assert sum(worked) == work_of(61, 80, EvalSettings(epochs=epochs, batch_size=BATCH))


class Noted(Group):
    """Two processes of which the other says what this one says, and what is compared when."""

    def __init__(self) -> None:
        super().__init__(Rank(), 60.0)
        self.rank = Rank(0, 2)
        self.compared: list[str] = []

    def require_same(self, number: int, what: str) -> None:
        self.compared.append(f"{number} {what}")


@pytest.mark.parametrize(("every", "when"), [(0, []), (3, [0, 3, 6, 8]), (100, [0, 8])])
def test_the_weights_of_processes_are_compared(tmp_path: Path, every: int, when: list[int]) -> None:
    model = load_classifier(open_checkpoint("checkpoint", str(save(tmp_path))), 2, SEED, None)
    group = Noted()
    for done in range(9):
        Processes(torch.device("cpu"), nullcontext, group, every).compare(model, done, 8)
    told = {done: f"after step {done}" if done else "before the first step" for done in when}
    assert group.compared == [f"{weight_checksum(model)} its weights {words} are not" for words in told.values()]
    alone = Processes(torch.device("cpu"), nullcontext, group, every)
    group.rank = Rank()
    alone.compare(model, 0, 8)
    assert len(group.compared) == len(when)


def test_a_lost_process_is_told_with_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by whoever waits for it, or by comparing."""
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    alone = SimpleNamespace(device=torch.device("cpu"), autocast=nullcontext)
    monkeypatch.setattr(processes, "build_accelerator", lambda *args: alone)
    monkeypatch.setattr(processes, "Group", lambda *args: args)
    config = EvalConfig(launch=LaunchConfig(check_every=7))
    told = "rank 1: died.*; the same command goes on with the fine-tunings that are left"

    def lose_one() -> None:
        with processes.meet(config.launch, config.eval.precision, CONTINUES) as met:
            assert met.group[2] == CONTINUES and met.check_every == 7  # type: ignore[index]
            raise RuntimeError("gloo: rank 1 failed to pass monitoredBarrier")

    with pytest.raises(PeerLostError, match=told):
        lose_one()
    other = Group(Rank(), 60.0, CONTINUES)
    monkeypatch.setattr(other, "gather", lambda numbers: [[1], [2]])
    with pytest.raises(PeerLostError, match=r"rank 1: its weights are not rank 0's; the same command goes on with"):
        other.require_same(1, "its weights are not")


def test_which_epoch_counts() -> None:
    epochs = [Epoch(float(number), 0.0, {}, score, {}) for number, score in enumerate([0.5, 0.7, 0.7, 0.6], start=1)]
    assert reported(epochs, Select.best).epoch == 2.0 and reported(epochs, Select.last).epoch == 4.0


def test_numbers_that_are_not_finite_are_told(tmp_path: Path, data_dir: Path) -> None:
    with pytest.raises(NumericsError, match=r"^eval\.lr: loss or gradient not finite in \d+ of 8 steps"):
        trained(save(tmp_path), data_dir, "stsb", lr=1e30)
