import socket
import threading
import time
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from est_cli.tracking import wandb_host
from est_cli.tracking.wandb_host import key_configured, reachable, serves
from tests.faults.bad_wandb import answering

PUBLIC = "https://api.wandb.ai"


@pytest.mark.parametrize(
    ("entry", "base_url", "expected"),
    [
        ("machine api.wandb.ai login user password k", PUBLIC, True),
        ("machine api.wandb.ai login user password k", "https://api.forge.coreweave.com", True),
        ("machine api.wandb.ai login user password k", "https://wandb.example.org", False),
        ("machine wandb.example.org:8080 login user password k", "http://wandb.example.org:8080", True),
        ("machine wandb.example.org login user password k", "http://wandb.example.org:8080", False),
        ("machine api.wandb.ai login user password ''", PUBLIC, False),
        ("machine machine machine", PUBLIC, False),
    ],
)
def test_key_in_netrc(tmp_path, entry, base_url, expected):
    (tmp_path / "netrc").write_text(entry.replace("''", '""') + "\n")
    assert key_configured(base_url, {"NETRC": str(tmp_path / "netrc")}) is expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({"WANDB_API_KEY": "k"}, True), ({"WANDB_IDENTITY_TOKEN_FILE": "f"}, True), ({"WANDB_API_KEY": ""}, False)],
)
def test_key_in_the_environment(tmp_path, environ, expected):
    assert key_configured(PUBLIC, {"NETRC": str(tmp_path / "none")} | environ) is expected


class Refuses(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)

    def log_message(self, *args):
        pass


def test_an_error_page_is_an_answer():
    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert reachable(f"http://127.0.0.1:{server.server_port}")


def test_a_refused_port_is_none():
    assert not reachable("http://127.0.0.1:1")


def test_silence_is_none_and_does_not_last():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        assert not reachable(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.3)
        assert time.monotonic() - begin < 2


def test_a_name_look_up_that_takes_long_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(wandb_host, "_answers", lambda url, timeout_s: time.sleep(10) or True)
    begin = time.monotonic()
    assert not reachable(PUBLIC, timeout_s=0.1)
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (lambda: answering(200, b'{"data": {"viewer": null}}'), True),
        (lambda: answering(401), True),
        (lambda: answering(200, b"<html>log in here</html>"), False),
        (lambda: answering(503), False),
        (lambda: answering(429), False),
        (lambda: answering(200, b"{}", holds=True), False),
        (lambda: nullcontext("http://127.0.0.1:1"), False),
        (lambda: nullcontext("http://"), False),
    ],
)
def test_a_server_serves_where_it_answers_a_query_in_time(server, expected):
    with server() as address:
        assert serves(address, timeout_s=0.5) is expected
