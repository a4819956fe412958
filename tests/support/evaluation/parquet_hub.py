"""A hub on this machine with parquet files of data sets at any revision, as `datasets` asks the real one for them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

import datasets
from loopback import listening

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Files = Mapping[str, bytes]  # ORG/NAME@REVISION/PATH -> content


def parquet(rows: datasets.Dataset) -> bytes:
    buffer = io.BytesIO()
    rows.to_parquet(buffer)
    return buffer.getvalue()


class ParquetHub(BaseHTTPRequestHandler):
    files: Files

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/datasets/"):
            told = self._told(path.removeprefix("/api/datasets/"))
            self._send(404 if told is None else 200, json.dumps(told).encode())
        else:
            name = path.removeprefix("/datasets/").replace("/resolve/", "@", 1)
            content = self.files.get(name)
            head = {"X-Repo-Commit": COMMIT, "ETag": f'"{COMMIT}"', "Accept-Ranges": "bytes"}
            self._send(404 if content is None else 200, content or b"", head)

    def _told(self, path: str) -> object:
        """Of a revision that it is there; of a folder what lies in it; None for what is not."""
        if "/tree/" not in path:
            return {"id": path.partition("/revision/")[0], "sha": COMMIT, "siblings": [], "tags": [], "private": False}
        start = path.replace("/tree/", "@", 1).rstrip("/") + "/"
        inside = [name.removeprefix(start) for name in self.files if name.startswith(start)]
        folder = _path_of(start)
        entries = {name.partition("/")[0]: "/" in name for name in inside}
        return [
            {"path": folder + name, "type": "directory" if is_folder else "file", "oid": COMMIT, "size": 1}
            for name, is_folder in entries.items()
        ] or None

    def _send(self, status: int, content: bytes, head: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(head or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _path_of(name: str) -> str:
    """The path in the repository: behind a commit, or behind refs/convert/parquet."""
    revision, _, path = name.partition("@")[2].partition("/")
    return path.partition("/")[2].partition("/")[2] if revision == "refs" else path


@contextmanager
def hub_of(files: Files) -> Iterator[str]:
    with listening(type("OwnParquetHub", (ParquetHub,), {"files": files})) as address:
        yield address
