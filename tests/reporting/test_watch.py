"""The page of runs that go on: who is answered, what is new is shown, what cannot be read changes nothing."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from est_cli.common.errors import ConfigError
from est_cli.report import main
from est_cli.reporting import watch as module
from est_cli.reporting.assets import read_assets
from est_cli.reporting.watch import Watch, serve
from tests.lab.commands import tree
from tests.lab.made_runs import make_run, train_record


class Asked:
    """What a WSGI server is told, of one question."""

    def __init__(self, app: Watch, path: str | None = None, method: str = "GET", **more: str) -> None:
        environ = {"REQUEST_METHOD": method, "PATH_INFO": f"/{app.token}/" if path is None else path}
        environ["HTTP_HOST"] = "127.0.0.1:8000"
        self.body = b"".join(app(environ | more, self._start)).decode()

    def _start(self, status: str, headers: list[tuple[str, str]]) -> None:
        self.status, self.headers = int(status.split()[0]), dict(headers)


@pytest.fixture
def app(tmp_path: Path) -> Watch:
    make_run(tmp_path / "runs" / "a", done=30)
    return Watch([tmp_path / "runs"], "It goes on")


def test_one_address_is_answered_and_only_to_get(app: Watch) -> None:
    found = Asked(app)
    assert found.status == 200 and "It goes on" in found.body and 'data-live="5000"' in found.body
    assert len(app.token) >= 43 and app.token != Watch(app.folders, "x").token
    for path in ("/", "", f"/{app.token}", f"/{app.token}/x", f"/{app.token[:-1]}/", "/\xff/", "//"):
        assert Asked(app, path).status == 404, path
    for method in ("POST", "HEAD", "PUT", "DELETE", "OPTIONS"):
        refused = Asked(app, method=method)
        assert refused.status == 405 and refused.headers["Allow"] == "GET" and "goes on" not in refused.body


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200), ("localhost:9", 200), ("[::1]:80", 200), ("evil.example:8000", 403), ("", 403),
        ("127.0.0.1.evil.example:80", 403), ("127.0.0.1", 403), ("localhost:x", 403), ("0.0.0.0:80", 403),
    ],
)  # fmt: skip
def test_no_page_of_the_web_can_have_its_name_point_here(app: Watch, host: str, status: int) -> None:
    assert Asked(app, HTTP_HOST=host).status == status


def test_what_the_browser_is_told(app: Watch) -> None:
    found = Asked(app)
    policy = read_assets().policy(live=True)
    assert policy.endswith("; connect-src 'self'") and "connect-src" not in read_assets().policy(live=0)
    assert policy.replace("'", "&#39;") in found.body and found.headers["Content-Security-Policy"]
    assert found.headers["Cache-Control"] == "no-store" and found.headers["Referrer-Policy"] == "no-referrer"
    assert found.headers["X-Content-Type-Options"] == "nosniff" and app.token not in found.body


def test_only_what_is_new_is_sent_and_nothing_is_written(app: Watch) -> None:
    (folder,) = app.folders
    before = tree(folder)
    first = Asked(app)
    again = Asked(app, HTTP_IF_NONE_MATCH=first.headers["ETag"])
    assert (again.status, again.body, tree(folder)) == (304, "", before)
    with (folder / "a" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(train_record(31, 1, 50, 0.0)) + "\n")
    new = Asked(app, HTTP_IF_NONE_MATCH=first.headers["ETag"])
    assert new.status == 200 and "31 of 100" in new.body and new.headers["ETag"] != first.headers["ETag"]
    make_run(folder / "b", "dense", done=10)
    assert "2 runs in 2 groups" in Asked(app).body


def test_only_runs_that_have_changed_are_read_again(app: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    Asked(app)
    read: list[Path] = []
    real = module.read_run
    monkeypatch.setattr(module, "read_run", lambda folder: read.append(folder) or real(folder))
    new = make_run(app.folders[0] / "b", done=10)
    Asked(app)
    assert read == [new]


def test_what_cannot_be_read_just_now_leaves_the_page(app: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    first = Asked(app)
    path = app.folders[0] / "a" / "metrics.jsonl"
    text = path.read_text()
    path.write_text("{\n" + text)
    for _ in range(2):
        assert Asked(app).body == first.body
    assert capsys.readouterr().err.count("not refreshed: ") == 1
    path.write_text(text)
    assert Asked(app).status == 200


def test_a_run_that_has_recorded_nothing_yet_is_waited_for(tmp_path: Path) -> None:
    make_run(tmp_path / "a", done=0)
    assert "step 0 of 100" in Asked(Watch([tmp_path], "x")).body


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--watch", "--out", "x"], "--out: --watch writes nothing"),
        (["--port", "80"], "--port: goes with --watch"),
        (["--watch", "--port", "99999"], "--port: 99999 is no port; it must be at most 65535"),
        (["--watch", "--port", "x"], "command line: argument --port: invalid int value: 'x'"),
    ],
)
def test_what_is_asked_for_in_vain(tmp_path: Path, args: list[str], told: str) -> None:
    pytest.importorskip("waitress", reason="waitress is not installed")
    make_run(tmp_path / "a")
    with pytest.raises(ConfigError, match=re.escape(told)):
        main(["est-report", str(tmp_path), *args])


def test_without_the_library_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "waitress.server", None)
    with pytest.raises(ConfigError, match=r"--watch: needs waitress; pip install 'est-cli\[watch\]'"):
        serve([tmp_path], "x", 0)


def test_a_server_on_loopback(app: Watch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    server = pytest.importorskip("waitress.server", reason="waitress is not installed")
    made: list[Any] = []
    real = server.create_server

    def create(*args: Any, **more: Any) -> Running:
        made.append(real(*args, **more))
        return Running(made[0].effective_port)

    monkeypatch.setattr(server, "create_server", create)
    serve(app.folders, app.title, 0)
    (one,) = made
    thread = threading.Thread(target=one.run, daemon=True)
    thread.start()
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+/[\w-]{43}/", capsys.readouterr().out)
        assert address is not None and one.effective_host == "127.0.0.1"
        with urllib.request.urlopen(address[0], timeout=30) as answer:
            assert b"It goes on" in answer.read() and answer.headers["Server"] is None
    finally:
        one.close()


class Running:
    """The server as serve() has it, while this test runs it in a thread of its own."""

    def __init__(self, port: int) -> None:
        self.effective_port = port

    def run(self) -> None: ...


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    pytest.importorskip("waitress", reason="waitress is not installed")
    make_run(tmp_path / "a")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port: {port} cannot be listened on"):
            main(["est-report", str(tmp_path), "--watch", "--port", str(port)])
