"""What is said of a path that is not there: the one that was meant, or what a shell has left as it was typed."""

from __future__ import annotations

import difflib
import os


def no_folder(name: str) -> str:
    """`there is no folder NAME`, and what may be meant instead."""
    return f"there is no folder {name}{did_you_mean(name)}"


def did_you_mean(path: str) -> str:
    """`; did you mean OTHER?` where something of nearly that name lies there, or a folder on the way; else nothing."""
    if path.startswith("~/"):
        return "; no shell replaces a ~ behind a =: write $HOME"
    head, tail = os.path.split(path.rstrip("/"))
    try:
        there = os.listdir(head or ".")
    except OSError:
        way = did_you_mean(head) if head not in ("", "/") else ""
        return f"; {head} is not there either{way}" if way else ""
    close = difflib.get_close_matches(tail, there, n=1, cutoff=0.7)
    return f"; did you mean {os.path.join(head, close[0])}?" if close else ""


def looks_like_a_path(name: str, outputs: str = "outputs") -> bool:
    """Whether a word is no name on the hub, but a path, there or not."""
    return name.startswith((".", "/", "~", f"{outputs}/"))
