"""A judge behind HTTP on this machine that replies as it is told: late, cut, wrong, or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True)
class Said:
    """One response. `cut` sends so many bytes of it and hangs up; `trickle` sends a byte each so many seconds."""

    status: int = 200
    body: bytes = b""
    head: tuple[tuple[str, str], ...] = ()
    cut: int | None = None
    trickle: float = 0.0
    delay: float = 0.0


def says(text: str | None = "Rating: [[7]]", **more: Any) -> Said:
    """A proper reply; `more` goes into the response, or, with a leading "_", into its :class:`Said`."""
    own = {key[1:]: value for key, value in more.items() if key.startswith("_")}
    rest = {key: value for key, value in more.items() if not key.startswith("_")}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 100, "completion_tokens": 20}
    body = {"id": "x", "model": "judge-0613", "system_fingerprint": "fp", "choices": [choice], "usage": usage, **rest}
    return Said(body=json.dumps(body).encode(), **own)


def fails(status: int, message: str = "no", code: str | None = None, **head: str) -> Said:
    body = json.dumps({"error": {"message": message, "code": code, "type": "t", "param": None}}).encode()
    return Said(status, body, tuple((key.replace("_", "-"), value) for key, value in head.items()))


Script = Callable[[Body, int], Said]  # the request, and how often it came before


@dataclass
class JudgeServer:
    script: Script
    asked: list[tuple[str, Body]] = field(default_factory=list)  # (hash, request), in order
    keys: list[str] = field(default_factory=list)  # Authorization
    keep_bodies: bool = True
    times: dict[str, int] = field(default_factory=dict)
    under_way: int = 0
    most_under_way: int = 0
    address: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in head[1:] if ": " in line)
        raw = await reader.readexactly(int(fields.get("content-length", "0")))
        self.keys.append(fields.get("authorization", ""))
        key = hashlib.sha256(raw).hexdigest()
        before = self.times.get(key, 0)
        self.times[key] = before + 1
        body = json.loads(raw)
        if self.keep_bodies:
            self.asked.append((key, body))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await _send(writer, self.script(body, before))
        finally:
            self.under_way -= 1

    @property
    def requests(self) -> int:
        return sum(self.times.values())


async def _send(writer: asyncio.StreamWriter, said: Said) -> bool:
    """Whether the connection stays open."""
    await asyncio.sleep(said.delay)
    head = "".join(f"{key}: {value}\r\n" for key, value in said.head)
    start = f"HTTP/1.1 {said.status} X\r\nContent-Length: {len(said.body)}\r\nContent-Type: application/json\r\n"
    whole = f"{start}{head}\r\n".encode() + said.body
    if said.trickle:
        for byte in whole:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(said.trickle)
    writer.write(whole[: said.cut])
    await writer.drain()
    return said.cut is None


@contextmanager
def judge_server(script: Script, **options: Any) -> Iterator[JudgeServer]:
    server = JudgeServer(script, **options)
    loop = asyncio.new_event_loop()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=2**22)

    listening = loop.run_until_complete(start())
    server.address = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(_end, loop)
        thread.join()
        loop.close()


def _end(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.call_soon(loop.stop)
