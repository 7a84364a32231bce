"""Files on web servers, by the standard library: it knows the proxies and certificates of the environment.

`stat` and `read` raise Broken where another try may help, and DataError where none will.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from est_cli.common.errors import DataError
from est_cli.common.redact import one_line
from est_cli.common.urls import is_loopback, scheme_of
from est_cli.data.text.far.file import Broken, FarFile, changed

TIMEOUT_S = 30.0
"""For a connection, and for each answer on it."""
PIECE = 256 * 1024
MAY_PASS = (408, 425, 429)
"""Answers below 500 that another try may change."""
OUT_OF_RANGE = 416

Answer = Any
"""http.client.HTTPResponse, or the HTTPError of an answer that is none of the good ones."""


def stat(url: str) -> FarFile:
    """What the server says of a file, by asking for its first byte."""
    with _asked(url, 0, 1) as answer:
        tag, size = _tag(answer), _size(answer)
        if answer.headers.get_content_type() == "text/html":
            raise DataError(f"{url}: the server answers with a web page; is it the file's own address?")
        if size is None:
            raise DataError(f"{url}: the server does not tell the file's length; download it")
        if tag is None:
            raise DataError(
                f"{url}: the server tells neither ETag nor Last-Modified, so that nobody could tell whether the file "
                "has changed; download it"
            )
        return FarFile(url, size, tag, answer.status != 200)


def read(file: FarFile, start: int, stop: int) -> Iterator[bytes]:
    """The bytes from `start` to before `stop`; of a server that knows no ranges the others are thrown away."""
    with _asked(file.url, start, stop) as answer:
        if _tag(answer) != file.tag or _size(answer) != file.size:
            raise changed(file)
        before = start - _first(answer)
        if before < 0:
            raise Broken("the server gives other bytes than those asked for")
        left = stop - start
        while left > 0 and (data := _received(answer)):
            before, data = max(0, before - len(data)), data[before : before + left]
            left -= len(data)
            if data:
                yield data


def _asked(url: str, start: int, stop: int) -> Answer:
    headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity", "User-Agent": "est"}
    try:
        opener = urllib.request.build_opener(_Redirects)
        return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == OUT_OF_RANGE:
            return error
        with error:
            raise _refused(url, error) from None
    except (OSError, HTTPException) as error:
        why = getattr(error, "reason", error)
        if isinstance(why, ssl.SSLCertVerificationError):
            raise DataError(
                f"{url}: the server's certificate is not trusted ({why.verify_message}); SSL_CERT_FILE=FILE names "
                "one of your own"
            ) from None
        raise Broken(f"no answer ({_told(why)})") from None


def _refused(url: str, error: urllib.error.HTTPError) -> Exception:
    if error.code < 500 and error.code not in MAY_PASS:
        hint = "; est sends no login to web servers" if error.code in (401, 403) else ""
        return DataError(f"{url}: the server answers {error.code} {one_line(str(error.reason))}{hint}")
    wait = error.headers.get("Retry-After", "")
    return Broken(f"the server answers {error.code}", float(wait) if re.fullmatch(r"[0-9]{1,6}", wait) else 0.0)


def _received(answer: Answer) -> bytes:
    try:
        return answer.read1(PIECE)
    except (OSError, HTTPException) as error:
        raise Broken(f"the transfer broke ({_told(error)})") from None


def _told(error: Any) -> str:
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return one_line(said)[:200]


def _tag(answer: Answer) -> str | None:
    for name in ("ETag", "Last-Modified"):
        if value := answer.headers.get(name):
            return f"{name} {one_line(value)[:200]}"
    # Some leave it out where there is no such byte; an empty file is like any other.
    return "empty" if answer.status == OUT_OF_RANGE and _size(answer) == 0 else None


def _size(answer: Answer) -> int | None:
    if answer.status == 200:
        found = re.fullmatch(r"([0-9]{1,18})", answer.headers.get("Content-Length", ""))
    else:
        found = re.fullmatch(r"bytes .*/([0-9]{1,18})", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _first(answer: Answer) -> int:
    """The place in the file of the first byte that comes."""
    found = re.match(r"bytes ([0-9]{1,18})-", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found and answer.status == 206 else 0


class _Redirects(urllib.request.HTTPRedirectHandler):
    """To where the first address might have led: never from elsewhere to this machine, never without encryption."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        near = is_loopback(req.full_url) and is_loopback(newurl)
        if scheme_of(newurl) != "https" and not (near and scheme_of(newurl) == scheme_of(req.full_url)):
            with contextlib.suppress(OSError):
                fp.close()
            where = f"{scheme_of(newurl)}://{urlsplit(newurl).hostname}"
            raise DataError(f"{req.origin_req_host}: the server sends us on to {where}, which is not read")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
