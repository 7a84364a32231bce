"""A stand-in of the Hugging Face hub on this machine, for what a push asks of it; it breaks as it is told to."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN, READER = "hf_CANARYwriter", "hf_CANARYreader"


@dataclass
class Repo:
    private: bool
    sha: str = "0" * 40
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})
    commits: list[str] = field(default_factory=list)
    """Their messages."""

    def info(self, name: str) -> dict[str, Any]:
        siblings = []
        for path, data in self.files.items():
            lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            large = {"lfs": lfs} if path.endswith((".safetensors", ".png")) else {}
            siblings.append({"rfilename": path, "size": len(data), "blobId": "b", **large})
        return {"id": name, "modelId": name, "sha": self.sha, "private": self.private, "siblings": siblings, "tags": []}


@dataclass
class Hub:
    """Its repositories, and how badly it works: each request whose path matches takes the next of `faults`.

    A fault: (part of the path, what). An int is a status of HTTP, "drop" closes without a word, "late" does what is
    asked and then closes, "page" answers with a web page.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    faults: deque[tuple[str, int | str]] = field(default_factory=deque)
    asked: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def hub_here() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Refused(Exception):
    def __init__(self, status: int, message: str = "", **headers: str) -> None:
        self.status, self.message, self.headers = status, message, headers


class _Handler(BaseHTTPRequestHandler):
    served: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle(b"")

    def do_POST(self) -> None:
        self._handle(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    do_PUT = do_POST

    def _handle(self, body: bytes) -> None:
        hub, path = self.served, self.path.partition("?")[0]
        hub.asked.append(f"{self.command} {path}")
        fault = hub.faults.popleft()[1] if hub.faults and hub.faults[0][0] in path else None
        if fault == "drop":
            self.close_connection = True
            return
        if fault == "page":
            self._send(200, b"<html>", {"Content-Type": "text/html"})
            return
        try:
            if isinstance(fault, int):
                raise _Refused(fault, f"made to fail, you sent {self.headers['Authorization']}")
            answer = self._answer(path, body)
        except _Refused as error:
            headers = {name.replace("_", "-"): value for name, value in error.headers.items()}
            self._send(error.status, json.dumps({"error": error.message}).encode(), headers)
            return
        if fault == "late":
            self.close_connection = True
            return
        self._send(200, json.dumps(answer).encode(), {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, path: str, body: bytes) -> Any:
        hub = self.served
        if found := re.fullmatch("/lfs/([0-9a-f]{64})", path):
            assert hashlib.sha256(body).hexdigest() == found[1]
            hub.blobs[found[1]] = body
            return {}
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if token not in (TOKEN, READER):
            raise _Refused(401, "Invalid username or password.")
        if path == "/api/validate-yaml":
            assert b"---" in body
            return {"errors": [], "warnings": []}
        if found := re.fullmatch("/api/models/([^/]+/[^/]+)(/revision/main)?", path):
            return self._repo(found[1]).info(found[1])
        if token == READER:
            raise _Refused(403, "You don't have the rights to create a model under this namespace")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if found := re.fullmatch("/(.+).git/info/lfs/objects/batch", path):
            return self._batch(json.loads(body))
        if found := re.fullmatch("/api/models/(.+)/preupload/main", path):
            return self._preupload(self._repo(found[1]), json.loads(body))
        if found := re.fullmatch("/api/models/(.+)/commit/main", path):
            return self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        raise _Refused(404)

    def _repo(self, name: str) -> Repo:
        if name not in self.served.repos:
            raise _Refused(404, "Repository not found", X_Error_Code="RepoNotFound")
        return self.served.repos[name]

    def _create(self, asked: dict[str, Any]) -> Any:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "me":
            raise _Refused(403, "You don't have the rights to create a model under this namespace")
        if name in self.served.repos:
            raise _Refused(409, "You already created this model repo")
        self.served.repos[name] = Repo(asked.get("private", asked.get("visibility") == "private"))
        return {"url": f"{self.served.url}/{name}", "name": name}

    def _preupload(self, repo: Repo, asked: dict[str, Any]) -> Any:
        found = []
        for file in asked["files"]:
            path = file["path"]
            mode = "lfs" if path.endswith((".safetensors", ".png")) else "regular"
            found.append({"path": path, "uploadMode": mode, "shouldIgnore": False} | self._oid(repo, path, mode))
        return {"files": found}

    def _oid(self, repo: Repo, path: str, mode: str) -> dict[str, str]:
        data = repo.files.get(path)
        if data is None:
            return {}
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return {"oid": hashlib.sha256(data).hexdigest() if mode == "lfs" else blob}

    def _batch(self, asked: dict[str, Any]) -> Any:
        upload = {"upload": f"{self.served.url}/lfs/"}
        objects = [
            {"oid": one["oid"], "size": one["size"]}
            | (
                {}
                if one["oid"] in self.served.blobs
                else {"actions": {"upload": {"href": upload["upload"] + one["oid"]}}}
            )
            for one in asked["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> Any:
        repo = self._repo(name)
        head = lines[0]["value"]
        if head.get("parentCommit") not in (None, repo.sha):
            raise _Refused(412, "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo.files[value["path"]] = self.served.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del repo.files[value["path"]]
        repo.commits.append(head["summary"])
        repo.sha = hashlib.sha1(repr((repo.sha, sorted(repo.files.items()))).encode()).hexdigest()
        address = f"{self.served.url}/{name}/commit/{repo.sha}"
        return {"commitUrl": address, "commitOid": repo.sha, "success": True}
