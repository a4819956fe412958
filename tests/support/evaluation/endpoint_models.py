"""A server that answers as a script says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import listening

Fault = tuple[int, dict[str, str], bytes] | str


@dataclass
class Model:
    """Answers "<number of messages>:<last message>"; `fault` may say otherwise for a request, by its number."""

    fault: Callable[[int, dict[str, Any]], Fault | None] = lambda number, body: None
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    gate: threading.Event = field(default_factory=threading.Event)
    address: str = ""
    listed: Any = None  # what its list of models says; None: it gives none


def reply(text: str, finish: str = "stop") -> bytes:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(body).encode()


def handler(model: Model) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self._send(404 if model.listed is None else 200, {}, json.dumps({"data": model.listed}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with model.lock:
                model.asked.append(body)
                model.keys.add(self.headers["Authorization"])
                number = len(model.asked)
                model.at_once += 1
                model.most_at_once = max(model.most_at_once, model.at_once)
            fault = model.fault(number, body)
            with model.lock:
                model.at_once -= 1
            if fault == "slow":
                model.gate.wait(5)
            elif fault == "cut":
                self._send(200, {"Content-Length": "5000"}, reply("half")[:40])
            elif isinstance(fault, tuple):
                self._send(*fault)
            else:
                messages = body["messages"]
                self._send(200, {}, reply(f"{len(messages)}:{messages[-1]['content']}"))

        def _send(self, status: int, head: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for key, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **head}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = True

    return Handler


@contextmanager
def serving(model: Model) -> Iterator[Model]:
    with listening(handler(model)) as address:
        model.address = f"{address}/v1"
        try:
            yield model
        finally:
            model.gate.set()
