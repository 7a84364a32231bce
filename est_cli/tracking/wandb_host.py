"""Is there a key for the W&B host, and does the host answer: asked before W&B itself would prompt or wait."""

from __future__ import annotations

import http.client
import json
import netrc
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

PROBE_TIMEOUT_S = 3.0
MOST_BYTES = 1 << 20

SAME_KEY = {"api.forge.coreweave.com": "api.wandb.ai"}
"""Newer releases of wandb reach the public server under another name; keys in netrc keep the old one."""


def key_configured(base_url: str, environ: Mapping[str, str]) -> bool:
    """Whether W&B would find credentials for `base_url` without asking: in its variables or in netrc."""
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        entries = netrc.netrc(_netrc_path(environ))
    except (OSError, netrc.NetrcParseError):
        return False
    host = urlsplit(base_url).netloc
    found = [entries.authenticators(name) for name in (host, SAME_KEY.get(host, host))]
    return any(entry is not None and entry[2] for entry in found)


def reachable(base_url: str, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Whether anything answers at `base_url` in time, be it an error; proxies of the environment are used."""
    return _in_time(lambda: _answers(base_url, timeout_s), timeout_s)


def serves(base_url: str, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Whether what answers is in order, as far as can be told without a key: it takes a query and answers in JSON."""
    body = json.dumps({"query": "query Viewer { viewer { id } }"}).encode()
    request = urllib.request.Request(f"{base_url.rstrip('/')}/graphql", body, {"Content-Type": "application/json"})
    return _in_time(lambda: _answers_json(request, timeout_s), timeout_s)


def _in_time(ask: Callable[[], bool], timeout_s: float) -> bool:
    """What `ask` says, or False where it takes too long: looking a name up has no time limit of its own."""
    answered: list[bool] = []
    probe = threading.Thread(target=lambda: answered.append(ask()), daemon=True)
    probe.start()
    probe.join(timeout_s)
    return answered == [True]


def _answers_json(request: urllib.request.Request, timeout_s: float) -> bool:
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return isinstance(json.loads(answer.read(MOST_BYTES)), dict)
    except urllib.error.HTTPError as error:
        return error.code < 500 and error.code != 429
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _answers(url: str, timeout_s: float) -> bool:
    try:
        urllib.request.urlopen(url, timeout=timeout_s).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as exc:
        return isinstance(exc.reason, ssl.SSLError)  # W&B has certificates and settings of its own
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True


def _netrc_path(environ: Mapping[str, str]) -> Path:
    if environ.get("NETRC"):
        return Path(environ["NETRC"]).expanduser()
    usual, windows = Path("~/.netrc").expanduser(), Path("~/_netrc").expanduser()
    return windows if windows.exists() and not usual.exists() else usual
