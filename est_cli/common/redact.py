"""What no output may hold: user names and passwords in URLs, and what a terminal takes for commands."""

from __future__ import annotations

import re

_URL_QUERY = re.compile(r"(https?://[^\s?]*)\?[^\s'\",]*")
_URL_USER = re.compile(r"(?<=://)[^/\s'\"]*@")


def without_users(text: str) -> str:
    """`text` without the `user:password@` of the URLs in it."""
    return _URL_USER.sub("", text)


def without_secrets(text: str) -> str:
    """`text` also without what follows ? in the URLs in it, which may be a signature."""
    return _URL_QUERY.sub(r"\1?...", without_users(text))


def has_user(text: str) -> bool:
    """Whether a URL in `text` carries a user name or password."""
    return _URL_USER.search(text) is not None


def one_line(text: str) -> str:
    """`text` fit for a terminal: one line, no users in URLs, and no signs that would move its cursor or colour it."""
    line = without_users(" ".join(text.split()))
    return "".join(sign if sign.isprintable() else "?" for sign in line)
