"""Make the fixture of this version: `python -m tests.storage.make_fixture FOLDER` (a new folder in fixtures/).

A run of 12 steps is trained to its end; the fixture is what a kill after step 6 would have left of it, its corpus, and
what the records of the other six steps were. It is made once, when checkpoints get another form, and then stays.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from est_cli.tracking.metrics import read_metrics
from tests.lab.lab import ENVIRONMENT, ROOT, WORDS

NAME, STEPS, AT = "kept", 12, 6
RUN = (
    "dataset=text dataset.files=[corpus.jsonl] dataset.validation_fraction=0.3 dataset.num_workers=1 "
    "model.vocab_size=257 model.hidden_size=8 model.num_layers=2 model.num_heads=2 model.max_positions=16 "
    "train.seq_len=16 train.tokens_per_step=64 train.micro_batch=2 train.eval_every=4 tracking.wandb=off "
    f"train.max_steps={STEPS} train.checkpoint_every={AT} train.keep_every={AT} stage.t1=3 stage.t2=9 run_name={NAME}"
).split()
EXPECTED = "expected.json"
"""The records after step 6, by which a continued run is judged."""


def make(folder: Path) -> None:
    folder.mkdir()
    write_corpus(folder / "corpus.jsonl")
    with tempfile.TemporaryDirectory() as place:
        shutil.copy(folder / "corpus.jsonl", place)
        environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-m", "est_cli.train", *RUN], cwd=place, env=environment, check=True)
        run, kept = Path(place) / "outputs" / NAME, folder / "outputs" / NAME
        step = Path("checkpoints") / f"step-{AT:06d}"
        shutil.copytree(run / step, kept / step)
        shutil.copy(run / "config.yaml", kept)
        records = read_metrics(run / "metrics.jsonl")
    lines = [json.dumps(record) + "\n" for record in records if record["step"] <= AT]
    (kept / "metrics.jsonl").write_text("".join(lines))
    after = [record for record in records if record["step"] > AT]
    (folder / EXPECTED).write_text(json.dumps(after, indent=1) + "\n")


def write_corpus(path: Path) -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=12)) for _ in range(30)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
