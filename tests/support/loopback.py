"""A small web server on this machine that can cut, refuse and lie."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """`files` by path; each of `cuts` cuts one answer after so many bytes; each of `refusals` is one (status, head)."""

    files: dict[str, bytes]
    cuts: list[int] = field(default_factory=list)
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    ranges: bool = True
    etag: str = '"1"'
    asked: list[tuple[str, str]] = field(default_factory=list)  # (path, Range)
    address: str = ""


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            site.asked.append((self.path, self.headers.get("Range", "")))
            if site.refusals:
                status, head = site.refusals.pop(0)
                return self._head(status, {**head, "Content-Length": "0"})
            if self.path not in site.files:
                return self._head(404, {"Content-Length": "0"})
            return self._send(site.files[self.path])

        def _send(self, content: bytes) -> None:
            wanted = self.headers.get("Range")
            resumed = site.ranges and wanted and self.headers.get("If-Range", site.etag) == site.etag
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if resumed and wanted else 0
            body = content[start:]
            head = {"Content-Length": str(len(body)), "ETag": site.etag}
            if resumed:
                head["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._head(206 if resumed else 200, head)
            self.wfile.write(body[: site.cuts.pop(0)] if site.cuts else body)
            self.close_connection = True

        def _head(self, status: int, head: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in head.items():
                self.send_header(key, value)
            self.end_headers()

    return Handler


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    with listening(_handler(site)) as site.address:
        yield site


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server that answers until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
