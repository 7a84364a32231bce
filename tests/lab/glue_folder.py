"""A folder of GLUE's files in their original layouts, with rows made up here."""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from pathlib import Path

from est_cli.evaluation.glue import TASKS, Task

Row = tuple[tuple[str, ...], str]
"""Texts and the label, as the file writes them."""

FOLDERS = {
    **{"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "qqp": "QQP"},
    **{"mnli": "MNLI", "qnli": "QNLI", "rte": "RTE", "wnli": "WNLI"},
}
HEADERS = {
    "cola": None,
    "sst2": "sentence\tlabel",
    "mrpc": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "stsb": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
    "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "mnli": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
    "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
    "qnli": "index\tquestion\tsentence\tlabel",
    "rte": "index\tsentence1\tsentence2\tlabel",
    "wnli": "index\tsentence1\tsentence2\tlabel",
}
LABEL_COLUMNS = {"stsb": "score", "mrpc": "Quality", "qqp": "is_duplicate", "mnli": "gold_label"}
LABELS = {
    **dict.fromkeys(("cola", "sst2", "mrpc", "qqp", "wnli"), ("0", "1")),
    "mnli": ("entailment", "neutral", "contradiction"),
    **dict.fromkeys(("qnli", "rte"), ("entailment", "not_entailment")),
    "stsb": ("0.000", "2.400", "5.000"),
}
"""What the label's column may say, in the order of our class ids."""


def rows_of(task: Task, count: int, tag: str = "") -> list[Row]:
    """`count` different rows, their labels in turn. A word of the text tells the label."""
    labels = LABELS[task.name]
    words = ("bad", "good", "odd")
    return [
        (tuple(f'{tag}{n} "{words[n % len(labels)]} {field}' for field in task.fields), labels[n % len(labels)])
        for n in range(count)
    ]


def write_split(root: Path, task: Task, split: str, rows: Sequence[Row], suffix: str = ".tsv") -> Path:
    """Write one file and return its path."""
    folder = root / FOLDERS[task.name]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}{suffix}"
    header = HEADERS[task.name]
    lines = [*([] if header is None else [header]), *(line_of(task, *row) for row in rows)]
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(lzma.compress(data) if suffix.endswith(".xz") else data)
    return path


def line_of(task: Task, texts: tuple[str, ...], label: str) -> str:
    """The columns that are neither text nor label hold an x."""
    if task.name == "cola":
        return f"x\t{label}\t\t{texts[0]}"
    names = (HEADERS[task.name] or "").removeprefix("\ufeff").split("\t")
    columns = dict.fromkeys(names, "x")
    places = [name for name in names if name in (*task.fields, "#1 String", "#2 String", "sentence1", "sentence2")]
    columns |= zip(places, texts, strict=True)
    return "\t".join((columns | {LABEL_COLUMNS.get(task.name, "label"): label}).values())


def make_glue(root: Path, train: int = 12, dev: int = 7, names: Sequence[str] = tuple(TASKS)) -> Path:
    """Train and dev files of the tasks called `names`."""
    for task in (TASKS[name] for name in names):
        write_split(root, task, "train", rows_of(task, train, "t"))
        for split in task.dev_splits:
            write_split(root, task, split, rows_of(task, dev, split))
    return root
