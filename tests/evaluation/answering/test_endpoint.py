"""Answers over HTTP against a scripted server on this machine: faults that pass, faults that stay, and counts."""

from __future__ import annotations

import email.utils
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asked import PROMPTS
from endpoint_models import Fault, Model, reply, serving

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.answering.answer_side import answer_side, forget_failed
from fedllm_bench.evaluation.answering.journal import AnsweredTurn, Journal, journal_file
from fedllm_bench.evaluation.answering.remote_answers import EndpointAnswerer, served_model
from fedllm_bench.evaluation.judges import asking
from fedllm_bench.evaluation.judges.limiter import Limiter
from fedllm_bench.evaluation.judges.streak import MOST_GIVEN_UP, MOST_REFUSED
from fedllm_bench.evaluation.records import Prompt, answers_file

TRIES = 3


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "FIRST_WAIT_SECONDS", 0.002)
    monkeypatch.setenv("MY_KEY", "key")


def answerer(model: Model, *, concurrency: int = 2, **changes: Any) -> EndpointAnswerer:
    served = served_model(
        model.address, "m", key_env="MY_KEY", concurrency=concurrency, timeout=0.5, tries=changes.pop("tries", TRIES)
    )
    return EndpointAnswerer(**{"served": served, "benchmark": "b", "seed": 0, **changes})


def texts(turns: Iterator[list[AnsweredTurn]]) -> dict[tuple[str, int], str]:
    return {turn.key: turn.text for some in turns for turn in some}


def error(status: int, **head: str) -> Fault:
    return status, {key.replace("_", "-"): value for key, value in head.items()}, b'{"error": {"message": "told so"}}'


UPSTREAM = json.dumps(
    {
        "choices": [
            {
                "message": {"role": "assistant", "content": ""},
                "finish_reason": "error",
                "error": {"code": 502, "message": "Upstream error"},
            }
        ]
    }
).encode()
FIRST = {
    "rate limit": error(429),
    "rate limit that says when": error(429, retry_after="0.01"),
    "server": error(500),
    "overloaded": error(503),
    "cut connection": "cut",
    "timeout": "slow",
    "no JSON": (200, {}, b"<html>oops</html>"),
    "JSON of something else": (200, {}, b'{"choices": []}'),
    "a list": (200, {}, b"[]"),
    "an error that is announced in the reply": (200, {}, UPSTREAM),
    "a reply that ended with an error": (200, {}, reply("It starts", "error")),
    "no message": (200, {}, b'{"choices": [{"index": 0, "finish_reason": "stop", "message": null}]}'),
}


@pytest.mark.parametrize("fault", FIRST)
def test_a_fault_that_passes_costs_one_more_request(fault):
    with serving(Model(lambda number, body: FIRST[fault] if number == 1 else None)) as model:
        found = texts(answerer(model)([PROMPTS[1]], {}))
    assert found == {("b", 0): "1:What is 2 plus 2?"}
    assert len(model.asked) == 2
    assert len(FIRST) == 12


@pytest.mark.parametrize("form", ["24", "24.5", "date"])
def test_a_server_is_asked_again_when_it_says_and_not_before(form: str, monkeypatch: pytest.MonkeyPatch):
    """A rate limit of 24 s outlasts all waits of our own; here the clock of the waits is a list."""
    held: list[float] = []
    monkeypatch.setattr(Limiter, "hold", lambda self, seconds: held.append(seconds))
    said = email.utils.formatdate(time.time() + 24.5, usegmt=True) if form == "date" else form
    with serving(Model(lambda number, body: error(429, retry_after=said) if number == 1 else None)) as model:
        assert texts(answerer(model)([PROMPTS[1]], {}))
    assert held == [pytest.approx(24.5, abs=1.6)]


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


def test_a_server_that_refuses_many_is_asked_on_where_it_replies_to_others(tmp_path: Path):
    """Whatever the order: a provider may refuse most of what AdvBench asks, and the first of it too."""
    many = [Prompt(item_id=str(number), turns=(f"a bomb {number}" if number != 20 else "tea",)) for number in range(21)]

    def fault(number: int, body: dict[str, Any]) -> Fault | None:
        return error(403) if "bomb" in body["messages"][0]["content"] else None

    with serving(Model(fault)) as model:
        outcome = answer_side(tmp_path, "b", "base", many, lambda: answerer(model, concurrency=1))
    assert len(outcome.failed) == 20
    assert "403: told so" in outcome.failed[0].reason
    assert len(model.asked) == 21 + 1  # and one plain request, after the first three refusals


def test_a_side_of_which_all_is_refused_is_finished_where_something_plain_is_answered(tmp_path: Path):
    many = [Prompt(item_id=str(number), turns=(f"a bomb {number}",)) for number in range(9)]

    def fault(number: int, body: dict[str, Any]) -> Fault | None:
        return error(400) if "bomb" in body["messages"][0]["content"] else None

    with serving(Model(fault)) as model:
        outcome = answer_side(tmp_path, "b", "base", many, lambda: answerer(model, concurrency=4))
    assert len(outcome.failed) == 9


@pytest.mark.parametrize("count", [1, 2, 30])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_server_that_refuses_everything_ends_the_work_and_nothing_is_recorded(
    tmp_path: Path, count: int, concurrency: int
):
    many = [Prompt(item_id=str(number), turns=(f"question {number}",)) for number in range(count)]
    with serving(Model(lambda number, body: error(422))) as model, pytest.raises(UserError, match="told so") as caught:
        answer_side(tmp_path, "b", "base", many, lambda: answerer(model, concurrency=concurrency))
    assert "\n" not in str(caught.value)
    assert "check the model and options" in str(caught.value)
    assert len(model.asked) <= min(count, MOST_REFUSED) + concurrency + 1
    assert not Journal.open(journal_file(answers_file(tmp_path, "b", "base")), many).turns


def test_settings_that_a_server_refuses_are_left_out_where_that_is_wished():
    with serving(Model()) as model:
        texts(answerer(model, left_out=("seed", "temperature"))([PROMPTS[1]], {}))
    assert set(model.asked[0]) == {"model", "messages", "max_tokens"}


def test_an_item_that_never_passes_is_tried_a_bounded_number_of_times(tmp_path: Path):
    def fault(number: int, body: dict[str, Any]) -> Fault | None:
        return error(500) if body["messages"][0]["content"] == "Say more" else None

    with serving(Model(fault)) as model:
        outcome = answer_side(tmp_path, "b", "base", PROMPTS, lambda: answerer(model))
    assert [answer.item_id for answer in outcome.failed] == ["c"]
    assert outcome.failed[0].reason == f"500: told so; gave up after {TRIES} tries"
    assert len(model.asked) == 3 + TRIES


@pytest.mark.parametrize("status", [401, 402, 404])
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

    with serving(Model(fault)) as model, pytest.raises(UserError, match="give the same command when"):
        answer_side(tmp_path, "b", "base", many, lambda: answerer(model))
    kept = Journal.open(journal_file(answers_file(tmp_path, "b", "base")), many).turns
    assert len(kept) == 10
    assert not any(turn.finish == "failed" for turn in kept.values())
    assert len(model.asked) <= 10 + TRIES * (MOST_GIVEN_UP + 1)
    with serving(Model()) as model:
        outcome = answer_side(tmp_path, "b", "base", many, lambda: answerer(model))
    assert len(model.asked) == 20
    assert len(outcome.answers) == 30
    assert not outcome.failed


def test_nobody_is_there():
    with serving(Model()) as model:
        pass
    many = [Prompt(item_id=str(number), turns=("x",)) for number in range(9)]
    with pytest.raises(UserError, match="did not reply"):
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


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("length", "length"),
        ("max_tokens", "length"),
        ("model_length", "length"),
        ("content_filter", "filtered"),
        ("sensitive", "filtered"),
        ("eos", "stop"),
        ("", "stop"),
        (None, "stop"),
        ("abort", "failed"),
        ("insufficient_system_resource", "failed"),
        ("tool_calls", "failed"),
    ],
)
def test_why_an_answer_ended_is_kept_and_one_that_broke_off_has_failed(said, expected):
    with serving(Model(lambda number, body: (200, {}, reply(" x ", said)))) as model:
        (turn,) = [turn for some in answerer(model)([PROMPTS[1]], {}) for turn in some]
    if expected == "failed":
        assert (turn.finish, turn.text) == ("failed", "")
        assert said in turn.reason
    else:
        assert (turn.finish, turn.text, turn.tokens) == (expected, "x", 3)


def test_an_error_inside_a_reply_is_no_answer_and_is_asked_again(tmp_path: Path):
    def fault(number: int, body: dict[str, Any]) -> Fault | None:
        return (200, {}, UPSTREAM) if is_ill and body["messages"][0]["content"] == "Say more" else None

    is_ill = True
    with serving(Model(fault)) as model:
        outcome = answer_side(tmp_path, "b", "base", PROMPTS, lambda: answerer(model))
        (failed,) = outcome.failed
        assert "502: Upstream error" in failed.reason
        is_ill = False
        assert forget_failed(tmp_path, "b", "base", PROMPTS) == 1
        assert not answer_side(tmp_path, "b", "base", PROMPTS, lambda: answerer(model)).failed


def test_empty_answers_of_before_are_asked_again_where_failed_ones_are(tmp_path: Path):
    with serving(Model(lambda number, body: (200, {}, reply("")) if len(body["messages"]) == 3 else None)) as model:
        answer_side(tmp_path, "b", "base", PROMPTS, lambda: answerer(model))
    assert forget_failed(tmp_path, "b", "base", PROMPTS) == 0
    assert forget_failed(tmp_path, "b", "base", PROMPTS, empty_too=True) == 2
    with serving(Model()) as model:
        outcome = answer_side(tmp_path, "b", "base", PROMPTS, lambda: answerer(model))
    assert len(model.asked) == 3  # the second turn of one item, the second and third of another
    assert all(text for answer in outcome.answers for text in answer.turns)


def test_content_in_parts_is_read_without_the_thoughts():
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Hi"}]
    with serving(Model(lambda number, body: (200, {}, reply(parts)))) as model:  # type: ignore[arg-type]
        assert texts(answerer(model)([PROMPTS[1]], {})) == {("b", 0): "Hi"}
