"""A web server, a package index and packages, all on this machine and made on the spot."""

import base64
import hashlib
import io
import os
import socket
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cutaway.assets import CATALOGUE, Asset, File
from cutaway.assets.sources import Package, Request


@dataclass
class Site:
    """What a local server holds, how it misbehaves, and what it was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    knows_ranges: bool = True
    breaks_after: list[int] = field(default_factory=list)  # how many bytes each of the next answers sends
    delay_s: float = 0.0
    pause_s: float = 0.0  # before the next 64 KiB
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Range

    def add_package(self, package_file: str, content: bytes, *, project: str) -> Package:
        """Serve a file and the index page that names it; the version is 1.0."""
        digest = hashlib.sha256(content).hexdigest()
        self.files[f"/files/{package_file}"] = content
        page = f'<!DOCTYPE html><html><body><a href="/files/{package_file}#sha256={digest}">{package_file}</a></body></html>'
        self.files[f"/simple/{project}/"] = page.encode()
        self.headers[f"/simple/{project}/"] = {"Content-Type": "text/html"}
        return Package(project, "1.0", digest, n_bytes=len(content))

    def gets(self, path: str) -> list[str | None]:
        """The Range of each time a path was got."""
        return [asked_range for method, asked, asked_range in self.asked if (method, asked) == ("GET", path)]


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        site, asked_range = self.site, self.headers.get("Range")
        site.asked.append((self.command, self.path, asked_range))
        time.sleep(site.delay_s)
        content = site.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int(asked_range.removeprefix("bytes=").rstrip("-")) if asked_range and site.knows_ranges else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        for name, value in site.headers.get(self.path, {}).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            n_sent = site.breaks_after.pop(0) if site.breaks_after else len(content)
            for first in range(start, start + n_sent, 2**16):
                self.wfile.write(content[first : min(first + 2**16, start + n_sent)])
                time.sleep(site.pause_s)


@pytest.fixture
def site() -> Iterator[Site]:
    """A server on 127.0.0.1 for one test."""
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def dead_address() -> str:
    """An address of this machine where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for each test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CUTAWAY_CACHE", str(folder))
    return folder


@pytest.fixture
def index(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The local server as the only index that pip is configured with."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{site.address}/simple/")
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip-cache"))
    return site


@pytest.fixture
def request_for(tmp_path: Path) -> Callable[..., Request]:
    """Make the request for some content, with an empty folder to work in."""

    def make(content: bytes, **changes: object) -> Request:
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        facts: dict[str, object] = {
            "n_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "work": work,
            "report": lambda *progress: None,
            "revisions": {},
        }
        return Request(**(facts | changes))

    return make


@pytest.fixture
def catalogued(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Asset]:
    """Put an asset called `thing` into the catalogue for one test."""

    def put(*files: File) -> Asset:
        asset = Asset("thing", "corpus", about="a thing", licence="none", files=files)
        monkeypatch.setitem(CATALOGUE, "thing", asset)
        return asset

    return put


@pytest.fixture
def make_wheel() -> Callable[..., bytes]:
    """Make a wheel of version 1.0 that pip accepts."""

    def make(project: str, members: dict[str, bytes]) -> bytes:
        info = f"{project}-1.0.dist-info"
        members = members | {
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n".encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        digests = {name: base64.urlsafe_b64encode(hashlib.sha256(content).digest()) for name, content in members.items()}
        lines = [f"{name},sha256={digests[name].decode().rstrip('=')},{len(members[name])}" for name in members]
        members[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,"]).encode()
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return buffer.getvalue()

    return make


@pytest.fixture
def make_tar() -> Callable[..., bytes]:
    """Make a gzipped tar of files, and of links when a member's content is a text: what it points to."""

    def make(members: list[tuple[str, bytes | str]]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, content in members:
                info = tarfile.TarInfo(name)
                if isinstance(content, str):
                    info.type, info.linkname = tarfile.SYMTYPE, content
                    archive.addfile(info)
                else:
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        return buffer.getvalue()

    return make
