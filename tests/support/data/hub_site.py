"""A hub of data sets on this machine: what `datasets` and `huggingface_hub` ask of the real one, and no more."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from loopback import listening

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Repositories = Mapping[str, Mapping[str, bytes]]  # ORG/NAME -> path -> content


class Hub(BaseHTTPRequestHandler):
    """Answers for `repositories`, and keeps what it was asked for."""

    repositories: Repositories
    asked: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes = b"") -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.asked.append(f"{self.command} {path}")
        words = [*path.removeprefix("api/").split("/"), "", ""]
        repository, revision = "/".join(words[1:3]), words[4]
        files = self.repositories.get(repository) if words[0] == "datasets" else None
        if files is None or not (revision == "main" or COMMIT.startswith(revision)):
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound" if files is None else "RevisionNotFound"})
        elif path.startswith("api/"):
            self._send(
                200, json.dumps(_told(repository, files, words[3], "/".join(words[5:]).strip("/"), body)).encode()
            )
        else:
            self._file(files.get("/".join(words[5:]).strip("/")))

    def _file(self, content: bytes | None) -> None:
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        head = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        if not wanted:
            self._send(200, content, head)
            return
        first, _, last = wanted.partition("-")
        part = content[int(first) : int(last) + 1 if last else None]
        head["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        self._send(206, part, head)

    def _send(self, status: int, content: bytes, head: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(head or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _told(repository: str, files: Mapping[str, bytes], what: str, below: str, body: bytes) -> object:
    """What the hub says of a repository, of a folder of it, or of some of its files."""
    if what == "tree":
        return _entries(files, below)
    if what == "paths-info":
        return [entry for entry in _entries(files, "") if entry["path"] in _paths(body)]
    info = {"id": repository, "sha": COMMIT, "private": False, "disabled": False, "gated": False, "tags": []}
    return info | {"downloads": 0, "likes": 0, "siblings": [{"rfilename": file} for file in files]}


def _paths(body: bytes) -> list[str]:
    text = body.decode()
    if text.startswith("{"):
        paths = json.loads(text)["paths"]
        return list(paths)
    return [unquote(pair.partition("=")[2]) for pair in text.split("&") if pair.startswith("paths=")]


def _entries(files: Mapping[str, bytes], below: str) -> list[dict[str, object]]:
    inside = {path: content for path, content in files.items() if not below or path.startswith(f"{below}/")}
    folders = {path.rpartition("/")[0] for path in inside if "/" in path} - {below}
    return [
        *({"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in sorted(folders)),
        *({"type": "file", "path": path, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}
          for path, content in sorted(inside.items())),
    ]  # fmt: skip


@contextmanager
def hub_of(repositories: Repositories) -> Iterator[tuple[str, list[str]]]:
    """The address of the hub, and what it was asked for so far."""
    asked: list[str] = []
    handler = type("OwnHub", (Hub,), {"repositories": repositories, "asked": asked})
    with listening(handler) as address:
        yield address, asked
