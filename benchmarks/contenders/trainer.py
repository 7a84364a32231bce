"""Hugging Face Trainer on the same blocks, its defaults kept: it trains on, and a callback holds it between turns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from contenders import protocol
from contenders.hf import hf_model
from contenders.protocol import Job

MAX_STEPS = 1_000_000
"""More than any benchmark takes."""


class Blocks(Dataset[dict[str, Tensor]]):
    """The i-th sample is the i-th block that est-train would read."""

    def __init__(self, job: Job) -> None:
        self.blocks, self.order = protocol.blocks(job)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        tokens = torch.from_numpy(self.blocks[self.order[i]].astype(np.int64))
        labels = tokens.clone()
        labels[0] = -100  # predicted by nothing, but Trainer would count it in the mean
        return {"input_ids": tokens, "labels": labels}


class Turns(TrainerCallback):
    """Lets one step begin for each turn. Only the first step's loss is known: logging takes time."""

    def __init__(self, job: Job, replies: Any) -> None:
        self.logged: float | None = None
        self.turns: Iterator[None] = protocol.turns(job, replies, self.loss)

    def loss(self) -> float | None:
        loss, self.logged = self.logged, None
        return loss

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if next(self.turns, self) is self:
            raise SystemExit(0)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        self.logged = logs.get("loss")


def main() -> None:
    job, replies = protocol.connect()
    arguments = TrainingArguments(
        output_dir=os.path.join(job.folder, "trainer"),
        max_steps=MAX_STEPS,
        per_device_train_batch_size=job.micro_batch,
        gradient_accumulation_steps=job.micro_steps,
        train_sampling_strategy="sequential",
        learning_rate=protocol.LR,
        lr_scheduler_type="constant",
        weight_decay=protocol.WEIGHT_DECAY,
        adam_beta2=protocol.ADAMW["betas"][1],
        max_grad_norm=protocol.CLIP,
        optim="adamw_torch_fused",
        bf16=job.precision == "bf16",
        use_cpu=job.device == "cpu",
        torch_compile=job.compile,
        logging_first_step=True,
        logging_steps=MAX_STEPS,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=job.seed,
    )
    model = hf_model(job)
    Trainer(model, arguments, train_dataset=Blocks(job), callbacks=[Turns(job, replies)]).train()


if __name__ == "__main__":
    main()
