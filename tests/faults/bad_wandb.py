"""What tests plant into a victim in place of W&B, and servers that answer as none should."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

from est_cli.tracking import WandbSink
from tests.lab.lab import Plant

TIMES = "wandb-times.json"


def timed() -> Plant:
    """Write to TIMES how many seconds the beginning and the end of W&B take."""
    return (f"{__name__}.measure",)


def failing_run(log: int = 0, finish: str = "", init: str = "") -> Plant:
    """A W&B whose `log`-th call of log fails (0: none), whose finish `hangs` or `fails`, whose init does."""
    return (f"{__name__}.plant_run", log, finish, init)


def measure() -> None:
    seconds: dict[str, float] = {}

    def timed_call(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.monotonic()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.monotonic() - begin  # a run closes its tracker twice
                with open(TIMES, "w") as file:
                    json.dump(seconds, file)

        return call

    for name in ("__init__", "finish"):
        setattr(WandbSink, name, timed_call(name, getattr(WandbSink, name)))


def plant_run(log: int, finish: str, init: str) -> None:
    run = _Run(log, finish)
    settings = SimpleNamespace(settings=SimpleNamespace(base_url="http://127.0.0.1:1"))

    def start(**_: Any) -> _Run:
        _fail_or_hang(init)
        return run

    kinds = {"Settings": dict, "Table": _Shown, "Image": _Shown}
    fake = SimpleNamespace(setup=lambda _: settings, init=start, teardown=lambda: None, **kinds)
    sys.modules["wandb"] = fake  # type: ignore[assignment]


class _Shown:
    """A table or a picture."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def bind_to_run(self, *args: Any) -> None:
        pass

    def to_json(self, run: Any) -> dict[str, Any]:
        return {}


class _Run:
    id = "x"

    def __init__(self, fail_at: int, at_end: str) -> None:
        self.summary: dict[str, Any] = {}
        self.fail_at, self.at_end, self.calls = fail_at, at_end, 0

    def define_metric(self, *args: Any, **kwargs: Any) -> None:
        pass

    alert = write_logs = mark_preempting = define_metric

    def log(self, row: dict[str, Any], step: int) -> None:
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("canary in the text of an exception")

    def finish(self, exit_code: int) -> None:
        _fail_or_hang(self.at_end)


def _fail_or_hang(how: str) -> None:
    if how == "hangs":
        time.sleep(60)
    if how == "fails":
        raise OSError("canary in the text of an exception")


class _Answers(BaseHTTPRequestHandler):
    """Answers every request as the server's `answer` says: a status, headers and a body; a POST not if it `holds`."""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers, body = self.server.answer  # type: ignore[attr-defined]
        if self.command == "POST" and self.server.holds:  # type: ignore[attr-defined]
            time.sleep(60)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_HEAD = _answer

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def answering(
    status: int, body: bytes = b"", headers: dict[str, str] | None = None, holds: bool = False
) -> Iterator[str]:
    """The address of a server that always answers so; if it `holds`, only until something is sent to it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        server.answer, server.holds = (status, headers or {}, body), holds  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def saying(words: bytes | None) -> Iterator[str]:
    """The address of a server that says this to whoever connects, and closes; None: it accepts and is silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                if words is not None:
                    connection.sendall(words)
                    connection.close()
                else:
                    kept.append(connection)

        kept: list[socket.socket] = []
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for connection in kept:
            connection.close()
