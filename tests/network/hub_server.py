"""A server that answers as the model hub does, as far as its official client asks: for tests, on this machine only."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef" * 2 + "01234567"
CHUNK = 1 << 14
Refusal = tuple[int, dict[str, str]]
"""A status and headers."""


@dataclass
class Repository:
    """What is in one repository, and how it misbehaves."""

    files: dict[str, bytes] = field(default_factory=dict)
    refuse: Refusal | None = None
    """The answer to everything."""
    refuse_files: Refusal | None = None
    """The answer to the files, while everybody may list them."""
    breaks: dict[str, int] = field(default_factory=dict)
    """How often the connection breaks in the middle of a file."""
    slow: dict[str, float] = field(default_factory=dict)
    """Seconds between the pieces of a file."""
    claimed: dict[str, int] = field(default_factory=dict)
    """Sizes that the listing has wrong."""
    revisions: tuple[str, ...] = ("main",)
    commit: str = COMMIT


class Hub:
    """The server; ``asked`` has method, path and range of every request."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.url = ""

    def got(self, file: str) -> list[str | None]:
        """The ranges in which a file's bytes were asked for."""
        return [span for method, path, span in self.asked if method == "GET" and path.endswith(f"/{file}")]


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((self.command, path, self.headers.get("Range")))
            words = path.strip("/").split("/")
            api = words[:2] == ["api", "models"]
            owner, name, *rest = words[2:] if api else words
            repository = hub.repositories.get(f"{owner}/{name}")
            if repository is None:
                return self._refuse((401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}))
            if repository.refuse is not None:
                return self._refuse(repository.refuse)
            revision = rest[1] if len(rest) > 1 else "main"
            if revision not in (*repository.revisions, repository.commit):
                return self._refuse((404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}))
            if api:
                return self._list(f"{owner}/{name}", repository, tree=rest[:1] == ["tree"])
            if repository.refuse_files is not None:
                return self._refuse(repository.refuse_files)
            return self._file(repository, "/".join(rest[2:]))

        def _refuse(self, refusal: Refusal) -> None:
            status, headers = refusal
            self._send(status, b"", headers)

        def _list(self, name: str, repository: Repository, tree: bool) -> None:
            sizes = {f: repository.claimed.get(f, len(data)) for f, data in repository.files.items()}
            value: Any = [{"type": "file", "path": f, "size": size, "oid": "0"} for f, size in sizes.items()]
            if not tree:
                siblings = [{"rfilename": f, "size": size, "blobId": "0"} for f, size in sizes.items()]
                value = {"id": name, "sha": repository.commit, "siblings": siblings, "private": False}
            self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _file(self, repository: Repository, name: str) -> None:
            if name not in repository.files:
                return self._refuse((404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.commit}))
            data = repository.files[name]
            headers = {
                "ETag": f'"{_etag(data)}"',
                "X-Linked-ETag": f'"{_etag(data)}"',
                "X-Linked-Size": str(len(data)),
                "X-Repo-Commit": repository.commit,
                "Accept-Ranges": "bytes",
            }
            begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            if begin:
                headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
            breaks = self.command == "GET" and repository.breaks.get(name, 0) > 0
            if breaks:
                repository.breaks[name] -= 1
            pause = repository.slow.get(name, 0.0)
            return self._send(206 if begin else 200, data[begin:], headers, pause, breaks)

        def _send(
            self, status: int, data: bytes, headers: dict[str, str], pause: float = 0.0, breaks: bool = False
        ) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            end = len(data) // 2 if breaks else len(data)
            try:
                for at in range(0, end, CHUNK):
                    self.wfile.write(data[at : min(at + CHUNK, end)])
                    if pause:
                        time.sleep(pause)
            except OSError:  # the client has left
                breaks = True
            if breaks:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
