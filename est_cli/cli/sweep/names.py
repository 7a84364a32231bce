"""Folder names of sweeps and of their jobs: functions of the command line alone, so that typing it again finds them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping

from est_cli.storage.run_dir import MAX_NAME

_LOST = re.compile(r"[^A-Za-z0-9_.-]+")
_HASH_CHARS = 8


def job_name(swept: Mapping[str, str], known: Collection[str]) -> str:
    """`t1=0.1,t2=0.4` for the swept keys and their values as overrides; `known` are all keys and groups that there are.

    A key stands without its group where no other key has the same last word. Where a value has characters that a
    folder's name may not have, or the name is too long, a hash of all values keeps it unique.
    """
    words = [f"{_short(key, known)}={_word(value)}" for key, value in swept.items()]
    lossy = any(_LOST.search(value) for value in swept.values())
    return _fitted(",".join(words), [f"{key}={value}" for key, value in swept.items()], lossy)


def sweep_name(parts: Iterable[str], keys: Iterable[str], known: Collection[str], fixed: Collection[str]) -> str:
    """`gpt2_tiny-three_stage-t1,t2-1a2b3c4d`: `parts`, the swept keys, and a hash of what is fixed where anything is.

    The hash does not depend on the order of `fixed`, and nothing depends on the values that are swept.
    """
    keys = list(keys)
    name = "-".join([*map(_word, parts), ",".join(_short(key, known) for key in keys)])
    return _fitted(name.lstrip("-_.") or "sweep", sorted(fixed) + (keys if len(name) > MAX_NAME else []), bool(fixed))


def _short(key: str, known: Collection[str]) -> str:
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in known) == 1 else key


def _word(text: str) -> str:
    return _LOST.sub("-", text).strip("-") if _LOST.search(text) else text


def _fitted(name: str, content: Iterable[str], hashed: bool) -> str:
    if not hashed and len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256("\n".join(content).encode()).hexdigest()[:_HASH_CHARS]
    return f"{name[: MAX_NAME - _HASH_CHARS - 1]}-{digest}"
