"""A web server on this machine for files far away, which breaks transfers as it is told to."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from ssl import SSLContext
from typing import Any

REQUEST = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30")
REQUEST += ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
"""What openssl is asked for a certificate."""


@dataclass
class Site:
    """What the server serves, and how badly. Every answer takes the next of `faults`; none left: a good answer.

    A fault: an int is a status of HTTP; "cut" sends half of the body and closes; "drop" closes without a word.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    faults: deque[int | str] = field(default_factory=deque)
    ranges: bool = True
    length: bool = True
    tags: bool = True
    """Whether ETags are sent."""
    tag: str = '"1"'
    content_type: str = "application/octet-stream"
    redirects: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    """Path and first byte of each request."""
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of bodies."""
    before: Callable[[Site], None] = lambda site: None
    """Called before each answer."""
    port: int = 0
    scheme: str = "http"

    def url(self, name: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/{name}"


@contextmanager
def serving(site: Site, context: SSLContext | None = None) -> Iterator[Site]:
    """The site on a free port of 127.0.0.1, by https where a context is given."""

    class Handler(_Handler):
        served = site

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        site.scheme = "https"
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    served: Site

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        site, name = self.served, self.path.lstrip("/")
        site.before(site)
        time.sleep(site.delay_s)
        start, stop = self._range(len(site.files.get(name, b"")))
        site.asked.append((name, start))
        fault = site.faults.popleft() if site.faults else None
        if fault == "drop":
            self.close_connection = True
            return
        if name in site.redirects:
            self._head(302, 0, {"Location": site.redirects[name]})
        elif isinstance(fault, int) or name not in site.files:
            self._head(fault if isinstance(fault, int) else 404, 0, site.headers)
        else:
            self._serve(site, name, start, stop, fault == "cut")

    def _serve(self, site: Site, name: str, start: int, stop: int, cut: bool) -> None:
        data = site.files[name]
        headers = {"ETag": site.tag} if site.tags else {}
        if self.headers["Range"] and site.ranges:
            if start >= len(data):
                self._head(416, 0, {"Content-Range": f"bytes */{len(data)}", **headers})
                return
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            self._head(206, stop - start, headers)
        else:
            start, stop = 0, len(data)
            self._head(200, len(data) if site.length else None, headers)
        body = data[start:stop]
        if cut:
            body = body[: len(body) // 2]
            self.close_connection = True
        site.sent[name] += len(body)
        with suppress(OSError):  # whoever asked for the first byte does not wait for the others
            self.wfile.write(body)

    def _range(self, size: int) -> tuple[int, int]:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        return (int(found[1]), min(int(found[2]) + 1, size)) if found else (0, size)

    def _head(self, status: int, length: int | None, headers: dict[str, str]) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Content-Type", self.served.content_type)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that only whoever is told of it trusts, and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", *REQUEST, "-out", str(cert), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return cert, key
