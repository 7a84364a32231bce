"""A stand-in for W&B's server: speaks enough of its protocol to see what arrives, and to ask for a stop.

Runs are opened and continued, their rows, console, system metrics, files, alerts and artifacts are kept as sent.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Arrived:
    """What the server was sent of one run."""

    told: dict[str, Any] = field(default_factory=dict)
    """The arguments of UpsertBucket, the newest of each: displayName, groupName, jobType, tags, commit, ..."""
    lines: dict[str, list[str]] = field(default_factory=dict)
    """Of the streamed files wandb-history.jsonl, wandb-summary.json, output.log, wandb-events.jsonl."""
    exit_code: int | None = None
    preempting: bool = False
    opened: int = 0
    """How often a process has opened it."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.get("wandb-history.jsonl", [])]

    @property
    def config(self) -> dict[str, Any]:
        sent = json.loads(self.told.get("config") or "{}")
        return {key: value["value"] for key, value in sent.items() if key != "_wandb"}

    @property
    def summary(self) -> dict[str, Any]:
        lines = self.lines.get("wandb-summary.json", ["{}"])
        found: dict[str, Any] = json.loads(lines[-1])
        return found

    @property
    def console(self) -> list[str]:
        return self.lines.get("output.log", [])


@dataclass
class WandbServer:
    """Everything that it has got, from all runs."""

    port: int = 0
    runs: dict[str, Arrived] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    """What was uploaded, by run/path, manifest/ID or artifact/ID/path."""
    alerts: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    stop: bool = False
    """Whether somebody has pressed stop on the page."""
    open: bool = True
    """Whether it answers; otherwise each request gets a 503."""
    silent_s: float = 0.0
    """How long it says nothing to what it is sent."""
    asked: list[str] = field(default_factory=list)
    """The names of the queries."""
    raw: list[bytes] = field(default_factory=list)
    """Every body, to look for what must not be in it."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The `data` of a query."""
        answer = getattr(self, f"_{name}", None)
        return {} if answer is None else answer(variables)

    def _Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}

    def _ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _RunResumeStatus(self, asked: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(asked["name"])
        bucket = None
        if run is not None:
            counts = {name: len(run.lines.get(name, [])) for name in ("wandb-history.jsonl", "wandb-events.jsonl")}
            bucket = {
                "name": asked["name"], "displayName": run.told.get("displayName"), "summaryMetrics": "{}",
                "logLineCount": len(run.console), "historyLineCount": counts["wandb-history.jsonl"],
                "eventsLineCount": counts["wandb-events.jsonl"],
                "historyTail": json.dumps(run.lines.get("wandb-history.jsonl", [])[-1:]), "eventsTail": "[]",
                "config": run.told.get("config") or "{}", "tags": run.told.get("tags"), "notes": "",
                "wandbConfig": "{}",
            }  # fmt: skip
        return {"model": {"id": "p", "name": asked["project"], "entity": {"id": "e", "name": "me"}, "bucket": bucket}}

    def _UpsertBucket(self, told: dict[str, Any]) -> dict[str, Any]:
        inserted = told["name"] not in self.runs
        run = self.runs.setdefault(told["name"], Arrived())
        run.told |= {key: value for key, value in told.items() if value is not None}
        project = {"id": "p", "name": run.told.get("project"), "entity": {"id": "e", "name": "me"}}
        bucket = {"id": told["name"], "name": told["name"], "displayName": run.told.get("displayName"), "config": "{}"}
        bucket |= {"description": "", "sweepName": run.told.get("sweep"), "project": project, "historyLineCount": 0}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _ArtifactType(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": None}

    def _NotifyScriptableRunAlert(self, alert: dict[str, Any]) -> dict[str, Any]:
        self.alerts.append(alert)
        return {"notifyScriptableRunAlert": {"success": True}}

    def _CreateRunFiles(self, asked: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/put/{asked['run']}/{name}"} for name in asked["files"]]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}

    def _CreateArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.artifacts.append(asked["input"])
        identity = f"a{len(self.artifacts)}"
        artifact = {"id": identity, "state": "PENDING", "artifactSequence": {"id": "s", "latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def _CreateArtifactManifest(self, asked: dict[str, Any]) -> dict[str, Any]:
        file = {"id": "f", "uploadUrl": f"{self.url}/put/manifest/{asked['artifactID']}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def _CreateArtifactFiles(self, asked: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for spec in asked["input"]["artifactFiles"]:
            where = f"artifact/{spec['artifactID']}/{spec['name']}"
            node = {"id": "f", "name": spec["name"], "storagePath": where, "uploadUrl": f"{self.url}/put/{where}"}
            node |= {"uploadHeaders": [], "uploadMultipartUrls": None, "artifact": {"id": spec["artifactID"]}}
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"commitArtifact": {"artifact": {"id": asked["artifactID"], "digest": "d"}}}

    def stream(self, run_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """One piece of a run's stream of files."""
        run = self.runs.setdefault(run_id, Arrived())
        for name, part in (body.get("files") or {}).items():
            lines = run.lines.setdefault(name, [])
            begin = part["offset"] if name != "wandb-summary.json" else 0
            lines[begin : begin + len(part["content"])] = part["content"]
        if body.get("complete"):
            run.exit_code = body.get("exitcode")
        run.preempting = run.preempting or bool(body.get("preempting"))
        return {"stopped": True} if self.stop else {}


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A server on a free port until the end of the block."""
    found = WandbServer()

    class Handler(_Handler):
        served = found

    with _Server(("127.0.0.1", 0), Handler) as server:
        found.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield found
        server.shutdown()
        thread.join(5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, address: Any) -> None:
        """A client that is gone is no error here."""


class _Handler(BaseHTTPRequestHandler):
    served: WandbServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._send(200 if self.served.open else 503, {})

    def do_PUT(self) -> None:
        self.served.files[self.path.removeprefix("/put/")] = self._body()
        self._send(200, {})

    def do_POST(self) -> None:
        body = self._body()
        time.sleep(self.served.silent_s)
        if not self.served.open:
            self._send(503, {})
        elif stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            self._send(200, self.served.stream(stream[1], json.loads(body)))
        elif self.path != "/graphql":
            self._send(404, {})
        else:
            asked = json.loads(body)
            name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            assert name is not None, asked
            self.served.asked.append(name[1])
            self._send(200, {"data": self.served.answer(name[1], asked.get("variables") or {})})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        while self.headers.get("Transfer-Encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
            body += self.rfile.read(size)
            self.rfile.readline()
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.served.raw.append(body)
        return body

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
