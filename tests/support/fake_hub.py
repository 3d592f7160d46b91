"""The routes of the Hugging Face Hub that huggingface_hub asks for to download and upload a model, on a local port."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories by name: their commits, oldest first, each a mapping of path to contents.

    Attributes:
        refused: by repository, (status, error code) that every request gets.
        tokens: tokens that may write; reading needs none.
        got: paths of files that were downloaded.
    """

    def __init__(self) -> None:
        self.repos: dict[str, list[dict[str, bytes]]] = {}
        self.refused: dict[str, tuple[int, str]] = {}
        self.tokens = {"hf_writer"}
        self.got: list[str] = []
        self.private: dict[str, Any] = {}

    def sha(self, repo: str, number: int) -> str:
        """The id of a commit."""
        return hashlib.sha1(f"{repo}/{number % len(self.repos[repo])}".encode()).hexdigest()

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Add a commit that changes `files`; returns its id."""
        commits = self.repos.setdefault(repo, [])
        commits.append((commits[-1] if commits else {}) | files)
        return self.sha(repo, len(commits) - 1)


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Serve `hub`; yields the endpoint."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _endpoint(self) -> str:
        return f"http://{self.headers['Host']}"

    def _send(self, body: Any, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        self._send({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

    def _found(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if repo in self.hub.refused:
            self._refuse(*self.hub.refused[repo])
            return None
        if repo not in self.hub.repos:
            self._refuse(404, "RepoNotFound")
            return None
        known = {self.hub.sha(repo, i): files for i, files in enumerate(self.hub.repos[repo])}
        known |= {"main": self.hub.repos[repo][-1]}
        if revision not in known:
            self._refuse(404, "RevisionNotFound")
            return None
        sha = self.hub.sha(repo, -1) if revision == "main" else revision
        return sha, known[revision]

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?/?", path):
            found = self._found(match[1], match[3] or "main")
            if found is None:
                return
            sha, files = found
            entries = [
                {"type": "file", "path": p, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                for p, d in files.items()
            ]
            siblings = [{"rfilename": p} for p in files]
            self._send(
                entries
                if match[2] == "tree"
                else {"id": match[1], "modelId": match[1], "sha": sha, "siblings": siblings}
            )
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            found = self._found(match[1], match[2])
            if found is None:
                return
            sha, files = found
            if match[3] not in files:
                self._refuse(404, "EntryNotFound")
                return
            data = files[match[3]]
            if self.command == "GET":
                self.hub.got.append(match[3])
            self._send(data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=sha, Accept_Ranges="bytes")
        else:
            self._refuse(404, "NoRoute")

    do_HEAD = do_GET  # noqa: N815 (http.server's name)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if path == "/api/validate-yaml":
            self._send({"errors": [], "warnings": []})
        elif token not in self.hub.tokens:
            self._refuse(403 if token else 401, "Forbidden")
        elif path == "/api/repos/create":
            made = json.loads(body)
            repo = "/".join(filter(None, (made.get("organization"), made["name"])))
            if repo in self.hub.repos:
                self._send({"error": "exists", "url": f"{self._endpoint()}/{repo}"}, 409)
                return
            self.hub.private[repo] = made.get("visibility") == "private" or made.get("private")
            self.hub.commit(repo, {".gitattributes": b""})
            self._send({"url": f"{self._endpoint()}/{repo}", "name": repo, "id": "0"})
        elif re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/main", path):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self._send({"files": files})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            lines = [json.loads(line) for line in body.splitlines()]
            files = {v["value"]["path"]: base64.b64decode(v["value"]["content"]) for v in lines if v["key"] == "file"}
            sha = self.hub.commit(match[1], files)
            self._send({"commitUrl": f"{self._endpoint()}/{match[1]}/commit/{sha}", "commitOid": sha, "success": True})
        else:
            self._refuse(404, "NoRoute")
