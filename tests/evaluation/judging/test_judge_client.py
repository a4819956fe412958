"""The judge's client against a server that fails in every way: what is tried again, how often, and what is not."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from pathlib import Path

import pytest
from judge_server import Body, JudgeServer, Said, fails, judge_server, says

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.judges import asking, bounded, http
from fedllm_bench.evaluation.judges.asking import AskingJudge, backoff_seconds
from fedllm_bench.evaluation.judges.cost import most_dollars
from fedllm_bench.evaluation.judges.faults import NoReplyError, wait_seconds
from fedllm_bench.evaluation.judges.preset import Preset, Price, RequestLimits
from fedllm_bench.evaluation.judges.served import served_judge
from fedllm_bench.evaluation.judges.store import ReplyStore
from fedllm_bench.evaluation.records import Reply

MESSAGES = ({"role": "system", "content": "s"}, {"role": "user", "content": "ü \u2028"})
TRIES = 3


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "FIRST_WAIT_SECONDS", 0.002)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def preset_of(server: JudgeServer, **options: object) -> Preset:
    limits = RequestLimits(tries=TRIES, timeout_seconds=options.pop("timeout", 5.0), concurrency=4)  # type: ignore[arg-type]
    return Preset(name="j", model="judge", base_url=server.address, limits=limits, **options)  # type: ignore[arg-type]


def ask(server: JudgeServer, folder: Path, **options: object) -> Reply:
    with AskingJudge(preset_of(server, **options), store=ReplyStore(folder)) as judge:
        return judge.ask(MESSAGES)


PASSING: dict[str, Said] = {
    "rate limit": fails(429),
    "rate limit with a time": fails(429, retry_after="0.01"),
    "rate limit in milliseconds": fails(429, retry_after_ms="5"),
    "server error": fails(500),
    "overloaded": fails(503, retry_after="0"),
    "timeout of a gateway": fails(504),
    "conflict": fails(409),
    "not JSON": Said(body=b"<html>busy</html>"),
    "half of JSON": Said(body=b'{"choices": [{"mess'),
    "no body": Said(body=b""),
    "no choices": says(choices=[]),
    "choices of another kind": says(choices={"a": 1}),
    "an error with status 200": Said(body=b'{"error": {"message": "busy"}}'),
    "a list": Said(body=b"[]"),
    "content of another kind": says(choices=[{"message": {"content": 7}}]),
    "JSON too deep": Said(body=b"[" * 100_000),
    "cut in the head": says(_cut=20),
    "cut in the body": says(_cut=150),
    "hung up at once": says(_cut=0),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_can_pass_is_tried_again_once_for_each_fault(name: str, tmp_path: Path) -> None:
    faults = [PASSING[name], says("Rating: [[3]]")]
    with judge_server(lambda body, before: faults[min(before, 1)]) as server:
        reply = ask(server, tmp_path)
    assert reply.text == "Rating: [[3]]"
    assert server.requests == 2


@pytest.mark.parametrize("name", PASSING)
def test_what_does_not_pass_is_tried_so_often_and_no_more(name: str, tmp_path: Path) -> None:
    with judge_server(lambda body, before: PASSING[name]) as server, pytest.raises(NoReplyError, match="3 tries"):
        ask(server, tmp_path)
    assert server.requests == TRIES
    assert len(ReplyStore(tmp_path)) == 0


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (fails(401, "bad key sk-secret-1"), "check the key"),
        (fails(402), "no money left"),
        (fails(404), "no such model"),
        (fails(405), "--judge-url"),
        (fails(429, "no credit", code="insufficient_quota"), "no money left"),
        (fails(401, "line\nof \x1b[31mtwo"), "line of"),
    ],
)
def test_what_every_request_would_meet_ends_at_once_with_one_line(
    said: Said, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret-1")
    with judge_server(lambda body, before: said) as server, pytest.raises(UserError, match=words) as caught:
        ask(server, tmp_path, key_env="MY_KEY")
    assert server.requests == 1
    assert server.keys == ["bearer sk-secret-1"]
    assert all(character.isprintable() for character in str(caught.value))
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("said", [says(_trickle=0.05), says(_delay=60.0)])
def test_a_request_has_a_deadline_however_slowly_it_arrives(said: Said, tmp_path: Path) -> None:
    started = time.monotonic()
    with judge_server(lambda body, before: said) as server, pytest.raises(NoReplyError, match="no reply within"):
        ask(server, tmp_path, timeout=1.0)  # in which a busy machine sends it, too
    assert time.monotonic() - started < 30  # with a delay of 60 s; the machine may be busy
    assert server.requests == TRIES


@pytest.mark.parametrize("status", [200, 400])
def test_a_huge_response_is_not_read_to_its_end(status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_BYTES", 2**20)
    huge = Said(status, b"x" * 2**22)
    with judge_server(lambda body, before: huge) as server, pytest.raises(NoReplyError, match="more than 1 MiB"):
        ask(server, tmp_path)
    assert server.requests == 1
    assert bounded.BoundedClient.most_bytes == 0


def test_a_packed_response_is_read_and_bounded_by_what_it_unpacks_to(tmp_path: Path) -> None:
    packed = (("Content-Encoding", "gzip"),)
    good = Said(body=gzip.compress(says("Rating: [[3]]").body), head=packed)
    bomb = Said(body=gzip.compress(b"x" * 8 * 2**20), head=packed)
    with judge_server(lambda body, before: good) as server:
        assert ask(server, tmp_path / "good").text == "Rating: [[3]]"
    with judge_server(lambda body, before: bomb) as server, pytest.raises(NoReplyError, match="more than 4 MiB"):
        ask(server, tmp_path / "bomb")
    assert len(bomb.body) < 2**14


def test_the_request_is_what_the_preset_says_and_nothing_else(tmp_path: Path) -> None:
    options = {"max_completion_tokens": 9, "reasoning_effort": "low", "extra": {"a": [1]}}
    with judge_server(lambda body, before: says()) as server:
        reply = ask(server, tmp_path, options=options, price=Price(input=10, output=30))
    ((_, body),) = server.asked
    assert body == {"model": "judge", "messages": list(MESSAGES), **options}
    assert (reply.model, reply.fingerprint, reply.finish) == ("judge-0613", "fp", "stop")
    assert (reply.prompt_tokens, reply.completion_tokens) == (100, 20)
    assert reply.price == pytest.approx((100 * 10 + 20 * 30) / 1e6)
    assert reply.seconds > 0


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (says(None), ""),
        (says("\ud800 half"), "? half"),
        (says([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "ab"),  # type: ignore[arg-type]
        (says([{"text": "no type"}, {"thinking": "[[9]]"}]), "no type"),  # type: ignore[arg-type]
        (says(choices=[{"message": {"content": None, "refusal": "no"}, "finish_reason": None}]), "no"),
        (says(usage="none", model=["x"], system_fingerprint="f" * 999), "Rating: [[7]]"),
        (says(usage={"prompt_tokens": -3, "completion_tokens": 10**30}), "Rating: [[7]]"),
    ],
)
def test_odd_replies_are_kept_as_far_as_they_are_replies(body: Said, text: str, tmp_path: Path) -> None:
    with judge_server(lambda asked, before: body) as server:
        reply = ask(server, tmp_path)
    assert reply.text == text
    assert len(reply.fingerprint) <= 200
    assert 0 <= reply.completion_tokens <= http.MOST_TOKENS
    (key,) = _keys(tmp_path)
    assert ReplyStore(tmp_path).get(key) == reply


def _keys(folder: Path) -> list[str]:
    return [json.loads(line)["key"] for line in (folder / "replies.jsonl").read_text().splitlines()]


def test_a_key_that_is_not_there_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    with judge_server(lambda body, before: says()) as server, pytest.raises(UserError, match="MY_JUDGE_KEY"):
        ask(server, tmp_path, key_env="MY_JUDGE_KEY")
    assert server.requests == 0


def test_what_is_stored_is_not_asked_again_and_another_repeat_is(tmp_path: Path) -> None:
    with judge_server(lambda body, before: says()) as server:
        for _ in range(2):
            with AskingJudge(preset_of(server), store=ReplyStore(tmp_path)) as judge:
                first, second = judge.ask(MESSAGES), judge.ask(MESSAGES, repeat=1)
        assert first.text == second.text
        assert server.requests == 2


def test_a_time_that_a_server_asks_for_holds_all_requests_and_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "LONGEST_WAIT_SECONDS", 0.2)
    times: list[float] = []

    def script(body: Body, before: int) -> Said:
        times.append(time.monotonic())
        return fails(429, retry_after="3600") if len(times) == 1 else says()

    with judge_server(script) as server, AskingJudge(preset_of(server), store=ReplyStore(tmp_path)) as judge:
        judge.ask(MESSAGES)
    assert 0.19 <= times[1] - times[0] < 60


@pytest.mark.parametrize(
    ("head", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "24.5"}, 24.5),
        ({"retry-after": "Wednesday, 21-Oct-15 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Wed Oct 21 07:28:00 2015"}, 0.0),
        ({"retry-after": "Wed, 99 Foo 99999 07:28:00 GMT"}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(head: dict[str, str], seconds: float | None) -> None:
    assert wait_seconds(head) == seconds


def test_waits_grow_are_bounded_and_are_the_same_each_time() -> None:
    waits = [backoff_seconds("k", number) for number in range(1, 12)]
    assert waits == [backoff_seconds("k", number) for number in range(1, 12)]
    bounds = [min(asking.FIRST_WAIT_SECONDS * 2 ** (n - 1), asking.LONGEST_WAIT_SECONDS) for n in range(1, 12)]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))
    assert len({backoff_seconds(str(key), 1) for key in range(20)}) == 20


@pytest.mark.parametrize("connections", [1, 3])
def test_no_more_connections_are_open_than_was_said(connections: int) -> None:
    async def many(address: str) -> None:
        client = bounded.bounded_client(address, 2**20, connections=connections, seconds=5.0)
        async with client:
            await asyncio.gather(*(client.post(f"{address}/chat/completions", json={"n": n}) for n in range(9)))

    with judge_server(lambda body, before: says(_delay=0.02)) as server:
        asyncio.run(many(server.address))
        assert server.requests == 9
        assert server.most_under_way == connections


def test_thoughts_are_no_part_of_a_reply(tmp_path: Path) -> None:
    thought = [{"type": "text", "text": "[[9]]"}]
    parts = [{"type": "thinking", "thinking": thought}, {"type": "text", "text": "[[3]]"}, {"type": "image_url"}]
    message = {"content": parts, "reasoning_content": "[[8]]", "reasoning": "[[7]]"}
    with judge_server(lambda body, before: says(choices=[{"message": message, "finish_reason": "stop"}])) as server:
        assert ask(server, tmp_path).text == "[[3]]"


def test_asking_something_plain_keeps_to_the_limit_of_the_cost(tmp_path: Path) -> None:
    """A judge that refuses everything is asked again with a plain question, but not for money that is not there."""
    refusing = {"price": Price(input=1e6, output=1e6), "options": {"max_tokens": 1}}
    with judge_server(lambda body, before: fails(400)) as server:
        preset = preset_of(server, **refusing)
        most = most_dollars(preset, MESSAGES)
        with AskingJudge(preset, store=ReplyStore(tmp_path), max_cost=most) as judge:
            with pytest.raises(NoReplyError) as caught:
                judge.ask(MESSAGES)
            assert caught.value.is_refusal
            judge.check_any()  # it would cost more than this: nothing is known
    assert server.requests == 1


def test_organisation_and_project_of_the_environment_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
    with judge_server(lambda body, before: says()) as server:
        made = http._client(served_judge(preset_of(server)), "")
        assert (made.organization, made.project) == (None, None)
        ask(server, tmp_path)
    assert server.keys == ["bearer none"]
