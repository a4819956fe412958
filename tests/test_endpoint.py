"""Answers over HTTP against a scripted server on this machine: faults that pass, faults that stay, and counts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from asked import PROMPTS
from loopback import listening

from fedllm_bench.errors import UserError
from fedllm_bench.evaluation import endpoint
from fedllm_bench.evaluation.endpoint import WAITS_SECONDS, EndpointAnswerer, make_client
from fedllm_bench.evaluation.journal import Journal, Turn, journal_file
from fedllm_bench.evaluation.records import Prompt, answers_file
from fedllm_bench.evaluation.session import answer_side

TRIES = len(WAITS_SECONDS) + 1
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


def reply(text: str, finish: str = "stop") -> bytes:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(body).encode()


def handler(model: Model) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

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


def answerer(model: Model, waits: list[float] | None = None, **changes: Any) -> EndpointAnswerer:
    client = make_client(model.address, "key", timeout=0.5)
    given = {"client": client, "name": "m", "benchmark": "b", "seed": 0, "concurrency": 2}
    noted: list[float] = [] if waits is None else waits
    return EndpointAnswerer(**{**given, "sleep": noted.append, **changes})


def texts(turns: Iterator[list[Turn]]) -> dict[tuple[str, int], str]:
    return {turn.key: turn.text for some in turns for turn in some}


def error(status: int, **head: str) -> Fault:
    return status, {key.replace("_", "-"): value for key, value in head.items()}, b'{"error": {"message": "told so"}}'


FIRST = {
    "rate limit": error(429),
    "rate limit that says when": error(429, retry_after="7"),
    "server": error(500),
    "overloaded": error(503),
    "cut connection": "cut",
    "timeout": "slow",
    "no JSON": (200, {}, b"<html>oops</html>"),
    "JSON of something else": (200, {}, b'{"choices": []}'),
    "a list": (200, {}, b"[]"),
    "no message": (200, {}, b'{"choices": [{"index": 0, "finish_reason": "stop", "message": null}]}'),
}


@pytest.mark.parametrize("fault", FIRST)
def test_a_fault_that_passes_costs_one_more_request(fault):
    waits: list[float] = []
    with serving(Model(lambda number, body: FIRST[fault] if number == 1 else None)) as model:
        found = texts(answerer(model, waits)([PROMPTS[1]], {}))
    assert found == {("b", 0): "1:What is 2 plus 2?"}
    assert len(model.asked) == 2
    assert waits == [7.0 if "when" in fault else WAITS_SECONDS[0]]
    assert len(FIRST) == 10


def test_turns_see_the_models_own_answers_and_requests_say_what_was_asked():
    with serving(Model()) as model:
        found = texts(answerer(model)(PROMPTS, {}))
    assert found["c", 2] == "5:Again"
    assert len(model.asked) == len(found) == 6
    third = next(body for body in model.asked if len(body["messages"]) == 5)
    said = [message["content"] for message in third["messages"]]
    assert said == ["Say more", "1:Say more", "Again", "3:Again", "Again"]
    assert (third["model"], third["temperature"], third["max_tokens"]) == ("m", 0.9, 4)
    assert len({body["seed"] for body in model.asked}) == 6
    assert model.keys == {"Bearer key"}


def test_a_server_may_call_the_limit_otherwise():
    with serving(Model()) as model:
        texts(answerer(model, limit_name="max_completion_tokens")([PROMPTS[1]], {}))
    assert model.asked[0]["max_completion_tokens"] == 5
    assert "max_tokens" not in model.asked[0]


def test_a_refused_request_fails_its_item_at_once_and_no_other(tmp_path: Path):
    def fault(number: int, body: dict[str, Any]) -> Fault | None:
        return error(400) if body["messages"][0]["content"] == "Say more" else None

    with serving(Model(fault)) as model:
        outcome = answer_side(tmp_path, "b", "base", PROMPTS, lambda: answerer(model))
    assert [answer.item_id for answer in outcome.failed] == ["c"]
    assert "told so" in outcome.failed[0].reason
    assert len(model.asked) == 4


def test_an_item_that_never_passes_is_tried_a_bounded_number_of_times(tmp_path: Path):
    def fault(number: int, body: dict[str, Any]) -> Fault | None:
        return error(500) if body["messages"][0]["content"] == "Say more" else None

    waits: list[float] = []
    with serving(Model(fault)) as model:
        outcome = answer_side(tmp_path, "b", "base", PROMPTS, lambda: answerer(model, waits))
    assert [answer.item_id for answer in outcome.failed] == ["c"]
    assert outcome.failed[0].reason.startswith(f"no answer in {TRIES} tries")
    assert len(model.asked) == 3 + TRIES
    assert waits == list(WAITS_SECONDS)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_can_never_succeed_ends_the_work_with_one_line(status):
    with serving(Model(lambda number, body: error(status))) as model:
        asking = answerer(model, concurrency=1)(PROMPTS, {})
        with pytest.raises(UserError, match="told so") as caught:
            texts(asking)
    assert len(model.asked) == 1
    assert "\n" not in str(caught.value)


def test_a_server_that_has_gone_ends_the_work_and_what_was_answered_stays(tmp_path: Path):
    many = [Prompt(item_id=str(number), turns=(f"question {number}",)) for number in range(30)]

    def fault(number: int, body: dict[str, Any]) -> Fault | None:
        return error(500) if number > 10 else None

    with serving(Model(fault)) as model, pytest.raises(UserError, match="give the same command again"):
        answer_side(tmp_path, "b", "base", many, lambda: answerer(model))
    kept = Journal.open(journal_file(answers_file(tmp_path, "b", "base")), many).turns
    assert len(kept) == 10
    assert not any(turn.finish == "failed" for turn in kept.values())
    assert len(model.asked) <= 10 + TRIES * (endpoint.IN_A_ROW + 1)
    with serving(Model()) as model:
        outcome = answer_side(tmp_path, "b", "base", many, lambda: answerer(model))
    assert len(model.asked) == 20
    assert len(outcome.answers) == 30
    assert not outcome.failed


def test_nobody_is_there():
    with serving(Model()) as model:
        pass
    many = [Prompt(item_id=str(number), turns=("x",)) for number in range(9)]
    with pytest.raises(UserError, match="does not answer"):
        texts(answerer(model)(many, {}))


def test_as_many_items_as_wanted_are_asked_at_once():
    together = threading.Barrier(3, timeout=5)

    def meet(number: int, body: dict[str, Any]) -> Fault | None:
        together.wait()
        return None

    many = [Prompt(item_id=str(number), turns=("x",)) for number in range(9)]
    with serving(Model(meet)) as model:
        assert len(texts(answerer(model, concurrency=3)(many, {}))) == 9
    assert model.most_at_once == 3


@pytest.mark.parametrize(("said", "expected"), [("length", "length"), ("content_filter", "filtered"), ("odd", "stop")])
def test_why_an_answer_ended_is_kept(said, expected):
    with serving(Model(lambda number, body: (200, {}, reply(" x ", said)))) as model:
        (turn,) = [turn for some in answerer(model)([PROMPTS[1]], {}) for turn in some]
    assert (turn.finish, turn.text, turn.tokens) == (expected, "x", 3)
