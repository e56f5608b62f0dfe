"""A hub on this machine: a dataset at its commits, with what the hub's client asks for, and ways to misbehave."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """One dataset; `main` is the last commit that was made."""

    repo: str
    address: str = ""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    main: str = ""
    breaks_after: list[int] = field(default_factory=list)
    """How many bytes each of the next answers with content sends before the connection breaks; 0 is an answer of 503."""
    n_sent: int = 0
    delay_s: float = 0.0
    asked: list[str] = field(default_factory=list)

    def commit(self, commit: str, files: dict[str, bytes]) -> None:
        """Make a commit, and move `main` to it."""
        self.commits[commit], self.main = files, commit

    def tree(self, commit: str, folder: str) -> list[dict[str, object]]:
        """What the hub says of the files in a folder, as far as its client reads it."""
        found: list[dict[str, object]] = []
        for path, content in self.commits[commit].items():
            if path.startswith(f"{folder}/"):
                lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
                found.append({"type": "file", "path": path, "size": len(content), "oid": "0" * 40, "lfs": lfs})
        return found


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.asked.append(path)
        time.sleep(hub.delay_s)
        if match := re.fullmatch(rf"/api/datasets/{hub.repo}(?:/revision/(\w+))?", path):
            commit = self._commit(match[1] or "main")
            return self._send_json({"id": hub.repo, "sha": commit, "siblings": []}) if commit else self._refuse()
        if match := re.fullmatch(rf"/api/datasets/{hub.repo}/tree/(\w+)/(.+)", path):
            commit = self._commit(match[1])
            return self._send_json(hub.tree(commit, match[2])) if commit else self._refuse()
        if match := re.fullmatch(rf"/datasets/{hub.repo}/resolve/(\w+)/(.+)", path):
            content = hub.commits.get(self._commit(match[1]) or "", {}).get(match[2])
            return self._refuse() if content is None else self._send_part(content)
        return self._refuse()

    def _commit(self, revision: str) -> str | None:
        commit = self.hub.main if revision == "main" else revision
        return commit if commit in self.hub.commits else None

    def _refuse(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RevisionNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_json(self, values: object) -> None:
        body = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_part(self, content: bytes) -> None:
        hub = self.hub
        n_sent = hub.breaks_after.pop(0) if hub.breaks_after else len(content)
        if n_sent == 0:
            return self.send_error(503)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "bytes=0-"))
        assert asked is not None
        start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        part = content[start : end + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part[:n_sent])
        hub.n_sent += len(part[:n_sent])
        return None


@contextmanager
def running_hub(repo: str) -> Iterator[Hub]:
    """Give a hub that answers on 127.0.0.1 until the end."""
    hub = Hub(repo)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
