"""What a run tells on the terminal, for somebody far away: no local paths, users, secrets, or signs for a terminal."""

from __future__ import annotations

import re

from est_cli.common.redact import without_secrets

_ROOTED = re.compile(r"(?<![\w.:/-])(?:~[\w.-]*|\.\.?|file://)?/(?!/)[^\s'\",;()\[\]]+")
_QUOTED = re.compile(r"(?<=['\"])(?:~[\w.-]*|\.\.?|file://)?/(?!/)[^'\"]+")
_FILE = re.compile(r"(?<![\w.:/-])[\w.-]+(?:/[\w.-]+)*/[\w.-]*\.[A-Za-z]\w*\b|(?<![\w.:/-])[\w.-]+(?:/[\w.-]+){2,}")
_KEY = re.compile(r"\b(?:hf_|sk-|ghp_|gho_|wandb_v1_|AKIA)[\w-]{8,}|\b[0-9a-f]{40}\b")
_SECRET = re.compile(r"((?:token|secret|password|passwd|api_?key)\s*[=:]\s*)\S+", re.IGNORECASE)


def redacted(text: str) -> str:
    """`text` with `<path>` for paths that begin at the root, at home or further up and for files in folders, and
    `<secret>` for what looks like a key."""
    line = _SECRET.sub(r"\1<secret>", without_secrets(text))
    line = _KEY.sub("<secret>", _FILE.sub("<path>", _ROOTED.sub("<path>", _QUOTED.sub("<path>", line))))
    return "".join(sign if sign.isprintable() or sign == "\n" else "?" for sign in line)
