"""Addresses of files that lie elsewhere, as settings may have them: which are known, and what is wrong with one."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from est_cli.common.redact import without_users

SCHEMES = ("https", "http", "s3", "gs", "hf")
WEB = ("https", "http")

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def is_url(text: str) -> bool:
    """Whether it is an address, of whatever kind, and no path."""
    return _URL.match(text) is not None


def scheme_of(url: str) -> str:
    return urlsplit(url).scheme.lower()


def shown(url: str) -> str:
    """The address without what may be a secret in it: user, password, query."""
    return re.split("[?#]", without_users(url))[0] if scheme_of(url) in WEB else without_users(url)


def is_loopback(url: str) -> bool:
    """Whether the address is one of this machine itself."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url_problem(url: str) -> str | None:
    """What is wrong with the address of a file, or None."""
    scheme = scheme_of(url)
    if scheme not in SCHEMES:
        return f"{shown(url)}: {scheme}:// is not read; https://, s3://, gs:// and hf:// are"
    if scheme == "http" and not is_loopback(url):
        return f"{shown(url)}: anybody on the way can change what http:// brings; use https://"
    if scheme in WEB and ("?" in url or "#" in url):
        return (
            f"{shown(url)}: what follows ? may be a signature, and config.yaml keeps addresses; name a file that needs "
            "none, use s3:// or gs:// with your login, or download it"
        )
    if scheme in WEB and re.search(r"[*\[\]]", urlsplit(url).path):
        return f"{shown(url)}: https:// cannot list a folder; name each file"
    if not urlsplit(url).netloc or not urlsplit(url).path.strip("/"):
        return f"{shown(url)}: names no file"
    return None
