"""est-report --watch: the page of runs that go on, made anew whenever their files have changed, for one reader.

Login nodes are shared. The server listens on loopback alone, answers GET alone and one address alone, which holds a
random token; whoever asks under another host's name (a page of the web that has its own name point here) is refused.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from est_cli.common.errors import ConfigError, EstError, install_hint
from est_cli.common.redact import one_line
from est_cli.reporting.beside import ANALYSIS, GLUE, ZERO_SHOT, forget_analyses
from est_cli.reporting.claim import claims_of
from est_cli.reporting.groups import group_runs
from est_cli.reporting.heat_map import heat_maps
from est_cli.reporting.numbers import all_numbers
from est_cli.reporting.page import page
from est_cli.reporting.report import drawn_on_page, notes
from est_cli.reporting.runs import RunRecord, find_runs, read_run
from est_cli.storage.run_dir import RunDir

HOST, EVERY_MS = "127.0.0.1", 5000
"""Where it listens, and how often an open page asks for what is new."""
HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""What a browser may call this machine; the port may be that of a tunnel."""
HEADERS = [
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "frame-ancestors 'none'"),  # the rest of it stands in the page
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
]
Stamp = tuple[tuple[str, int, int], ...]
"""Names, times (ns) and sizes of files."""


@dataclass
class Watch:
    """A WSGI application: the page at /TOKEN/, and nothing else."""

    folders: Sequence[Path]
    title: str
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    _runs: dict[Path, tuple[Stamp, RunRecord]] = field(default_factory=dict)
    _made: tuple[str, bytes] | None = None
    """What the page was made of, as a digest, and the page."""
    _told: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        refused = self._refused(environ)
        if refused is not None:
            start_response(refused, [("Content-Type", "text/plain"), ("Allow", "GET")])
            return [f"{refused}\n".encode()]
        digest, text = self.newest()
        tag = ("ETag", f'"{digest}"')
        if environ.get("HTTP_IF_NONE_MATCH") == tag[1]:
            start_response("304 Not Modified", [tag, *HEADERS[1:]])
            return []
        start_response("200 OK", [tag, *HEADERS])
        return [text]

    def _refused(self, environ: Mapping[str, Any]) -> str | None:
        if environ["REQUEST_METHOD"] != "GET":
            return "405 Method Not Allowed"
        name, _, port = environ.get("HTTP_HOST", "").rpartition(":")
        if name not in HOSTS or not port.isdecimal():
            return "403 Forbidden"
        asked = environ.get("PATH_INFO", "").encode("latin-1", "replace")
        return None if secrets.compare_digest(asked, f"/{self.token}/".encode()) else "404 Not Found"

    def newest(self) -> tuple[str, bytes]:
        """The digest of what the page shows, and the page. What cannot be read just now leaves the page as it was.

        An EstError where there was none yet.
        """
        with self._lock:
            try:
                digest = self._digest()
                if self._made is None or self._made[0] != digest:
                    self._made = digest, self._page()
            except (EstError, OSError) as error:
                if self._made is None:
                    raise
                self._tell(one_line(f"not refreshed: {error}"))
            return self._made

    def _tell(self, line: str) -> None:
        """Once, not at every question of an open page."""
        if line != self._told:
            print(line, file=sys.stderr)
        self._told = line

    def _digest(self) -> str:
        """Of names, times and sizes of all files that the page is made of."""
        found = find_runs(self.folders)
        analyses = sorted(path for outputs in {run.parent for run in found} for path in outputs.glob(f"*/{ANALYSIS}"))
        stamps = [*(_stamp(run) for run in found), _stamps(analyses)]
        return hashlib.sha256(repr(stamps).encode()).hexdigest()[:32]

    def _page(self) -> bytes:
        groups = group_runs([self._run(folder) for folder in find_runs(self.folders)])
        forget_analyses()
        maps = heat_maps(groups)
        numbers = all_numbers(self.title, f"{datetime.now():%Y-%m-%d %H:%M:%S}", groups, claims_of(groups), maps)
        drawn = drawn_on_page(groups, maps)
        return page(numbers, [], notes(numbers, groups), drawn, live_ms=EVERY_MS).encode()

    def _run(self, folder: Path) -> RunRecord:
        """Read again only where its files have changed."""
        stamp = _stamp(folder)
        if folder not in self._runs or self._runs[folder][0] != stamp:
            self._runs[folder] = stamp, read_run(folder)
        return self._runs[folder][1]


def _stamp(folder: Path) -> Stamp:
    run = RunDir(folder)
    beside = (folder / GLUE, folder / ZERO_SHOT)
    return _stamps((run.config, run.metrics, run.summary, run.layers, *beside, *run.checkpoints.glob("*/state.json")))


def _stamps(paths: Iterable[Path]) -> Stamp:
    found = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((str(path), stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def serve(folders: Sequence[Path], title: str, port: int) -> None:
    """Show the page until a signal ends it; `port` 0: one that is free.

    ConfigError where the server's library is missing or the port is taken; what make_report raises of the runs.
    """
    try:
        from waitress.server import create_server
    except ImportError as error:
        raise ConfigError(f"--watch: needs waitress; {install_hint('watch')}") from error
    watch = Watch(folders, title)
    watch.newest()
    logging.getLogger("waitress").setLevel(logging.ERROR)
    try:
        server: Any = create_server(watch, host=HOST, port=port, ident=None, threads=2)
    except OSError as error:
        raise ConfigError(
            f"--port: {port} cannot be listened on ({error}); leave it out for one that is free"
        ) from error
    print(f"watching  http://{HOST}:{server.effective_port}/{watch.token}/  (Ctrl-C ends it)", flush=True)
    server.run()
