"""A request that a server refuses, a reply that broke off, an error inside a reply: whose affair it is, end to end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from judge_server import Body, JudgeServer, Said, fails, judge_server, says
from judged import answer

from fedllm_bench import cli
from fedllm_bench.evaluation.judges import asking
from fedllm_bench.evaluation.judges.streak import MOST_REFUSED
from fedllm_bench.evaluation.judging.grading import unfinished
from fedllm_bench.evaluation.records import (
    Judgement,
    Prompt,
    Reply,
    answers_file,
    prompts_file,
    read_records,
    write_records,
)

BAD = "BADITEM word word"
ITEMS = 6


@pytest.fixture(autouse=True)
def _own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(asking, "FIRST_WAIT_SECONDS", 0.002)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1")


def write_run(folder: Path, bad: Sequence[int], items: int = ITEMS) -> Path:
    prompts = [Prompt(item_id=str(n), turns=(f"question {n}",)) for n in range(items)]
    write_records(prompts_file(folder, "heldout_ref"), prompts)
    said = [BAD if n in bad else f"answer {n}" for n in range(items)]
    answers = [answer(prompt, text) for prompt, text in zip(prompts, said, strict=True)]
    write_records(answers_file(folder, "heldout_ref", "global"), answers)
    return folder


def judge(folder: Path, server: JudgeServer, *words: str, concurrency: int = 1) -> int:
    path = folder / "mine.toml"
    limits = f"[limits]\ntries = 3\nconcurrency = {concurrency}\n"
    options = "[options]\ntemperature = 0\nmax_tokens = 9\nseed = 1\n"
    path.write_text(f'model = "m"\nbase_url = "{server.address}"\nkey_env = "OPENAI_API_KEY"\n{options}{limits}')
    return cli.main(["judge", str(folder), "--judge", str(path), *words])


def judgements(folder: Path) -> list[Judgement]:
    (path,) = (folder / "judgements").rglob("*.jsonl")
    return read_records(path, Judgement)


def for_bad(said: Said) -> Callable[[Body, int], Said]:
    return lambda body, before: said if BAD in body["messages"][-1]["content"] else says()


def body(status: int, found: Any) -> Said:
    return Said(status, (found if isinstance(found, str) else json.dumps(found)).encode())


LONG, FILTER, OTHER = "too long for the model", "withheld by a content filter", "the server refused this request"
REFUSALS: dict[str, tuple[Said, str, str]] = {
    "vLLM": (fails(400, "This model's maximum context length is 4096 tokens"), LONG, "4096 tokens"),
    "SGLang": (fails(400, "The input (9000 tokens) is longer than the model's context length (4096)."), LONG, "9000"),
    "llama.cpp": (fails(400, "request (4390 tokens) exceeds the available context size (4096 tokens)"), LONG, "4390"),
    "Gemini": (
        body(
            400, [{"error": {"code": 400, "message": "The input token count (9) exceeds the maximum number of tokens"}}]
        ),
        LONG,
        "token count (9)",
    ),
    "DeepInfra": (
        body(400, {"detail": {"error": "inputs tokens + max_new_tokens must be <= 4096. Given: 9000"}}),
        LONG,
        "Given: 9000",
    ),
    "too large": (
        body(413, "<html><head><title>413 Request Entity Too Large</title></head></html>"),
        LONG,
        "413 Request",
    ),
    "Azure": (fails(400, "The response was filtered", code="content_filter"), FILTER, "content_filter"),
    "OpenAI": (fails(400, "Invalid prompt: your prompt was flagged", code="invalid_prompt"), FILTER, "invalid_prompt"),
    "DeepSeek": (fails(400, "Content Exists Risk", code="invalid_request_error"), FILTER, "Content Exists Risk"),
    "Moonshot": (
        body(400, {"error": {"message": "The request was rejected", "type": "content_filter", "code": None}}),
        FILTER,
        "content_filter",
    ),
    "xAI": (fails(403, "Content violates usage guidelines."), FILTER, "403: Content violates"),
    "a provider behind the server": (
        body(200, {"error": {"code": 403, "message": "Input flagged"}, "choices": []}),
        FILTER,
        "403: Input flagged",
    ),
    "Mistral": (
        body(422, {"object": "error", "message": {"detail": [{"loc": ["body", "messages", 1], "msg": "too odd"}]}}),
        OTHER,
        "body.messages.1: too odd",
    ),
    "FastAPI": (
        body(422, {"detail": [{"type": "value_error", "loc": ["body"], "msg": "no emoji"}]}),
        OTHER,
        "no emoji",
    ),
    "text": (body(400, "we do not like this\nat all"), OTHER, "we do not like this at all"),
    "no words": (body(400, ""), OTHER, "400"),
    "unheard of": (fails(451, "for legal reasons"), OTHER, "451: for legal reasons"),
}


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_request_that_is_refused_is_unscored_with_the_servers_words_and_the_rest_is_judged(
    concurrency: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each refusal on an item of its own, and one item that is taken."""
    names = list(REFUSALS)
    folder = write_run(tmp_path / "run", (), len(names) + 1)

    def script(body: Body, before: int) -> Said:
        asked = re.search(r"answer (\d+)", body["messages"][-1]["content"])
        number = int(asked[1]) if asked else len(names)
        return REFUSALS[names[number]][0] if number < len(names) else says()

    with judge_server(script) as server:
        assert judge(folder, server, concurrency=concurrency) == 0
        assert server.requests in (len(names) + 1, len(names) + 2)
    assert f"1/{len(names) + 1}" in capsys.readouterr().out
    told = judgements(folder)
    assert [j.reply is None for j in told] == [True] * len(names) + [False]
    for (_, kind, words), judgement in zip(REFUSALS.values(), told, strict=False):
        assert judgement.reason.startswith(f"{kind}: ")
        assert words in judgement.reason
        assert judgement.reason.isprintable()
    assert len(names) == 17


@pytest.mark.parametrize(("bad", "concurrency"), [((0,), 1), ((0, 1, 2, 3), 1), ((0, 1, 2, 3), 8), (range(6), 8)])
def test_whatever_the_order_the_run_is_finished_where_something_plain_has_a_reply(
    bad: Sequence[int], concurrency: int, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "run", bad)
    with judge_server(for_bad(fails(400, "odd"))) as server:
        assert judge(folder, server, concurrency=concurrency) == 0
        assert server.requests in (ITEMS, ITEMS + 1)
        before = server.requests
        assert judge(folder, server, concurrency=concurrency) == 0  # what has its reply is not asked again
        assert server.requests - before in (len(bad), len(bad) + 1)
    assert sum(j.reply is not None for j in judgements(folder)) == ITEMS - len(bad)


@pytest.mark.parametrize(("status", "concurrency"), [(400, 1), (403, 8), (413, 1), (422, 8)])
def test_a_server_that_refuses_everything_ends_the_command_with_one_line(
    status: int, concurrency: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run", (), 40)
    with judge_server(lambda body, before: fails(status, "not for sk-secret-1 and you")) as server:
        assert judge(folder, server, concurrency=concurrency) == 2
        assert server.requests <= MOST_REFUSED + concurrency + 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{status}: not for *** and you" in err
    assert not list((folder / "judgements").rglob("*.jsonl"))


@pytest.mark.parametrize(
    ("said", "option"),
    [
        (body(422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "no"}]}), "--no-seed"),
        (body(422, {"message": {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs"}]}}), "--no-seed"),
        (fails(400, "Unsupported value: 'temperature' does not support 0 with this model"), "--no-temperature"),
        (fails(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'"), "--token-limit-name"),
        (fails(400, "System role not supported"), "--no-system-role"),
        (fails(400, "Conversation roles must alternate user/assistant/user/assistant/..."), "--no-system-role"),
        (fails(400, "max_tokens: use max_completion_tokens instead"), "--token-limit-name"),
        (fails(400, "seedless fruit"), "check the judge's model and options"),
    ],
)
def test_a_part_of_a_request_that_is_refused_by_name_gives_the_option_to_use(
    said: Said, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run", ())
    with judge_server(lambda body, before: said) as server:
        assert judge(folder, server) == 2
    assert option in capsys.readouterr().err


def test_what_a_server_does_not_take_is_left_out_and_makes_another_judge(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", (), 1)
    words = ("--no-seed", "--no-temperature", "--no-system-role", "--token-limit-name", "max_completion_tokens")
    with judge_server(lambda body, before: says()) as server:
        assert judge(folder, server) == 0
        assert judge(folder, server, *words) == 0
        (_, plain), (_, less) = server.asked
    assert set(less) == {"model", "messages", "max_completion_tokens"}
    assert [message["role"] for message in plain["messages"]] == ["system", "user"]
    system, user = (message["content"] for message in plain["messages"])
    assert less["messages"] == [{"role": "user", "content": f"{system}\n\n{user}"}]
    assert len(list((folder / "judgements").iterdir())) == 2


BROKEN = ("model_length", "max_tokens", "sensitive", "abort", "insufficient_system_resource", "tool_calls", "SAFETY")


def ends(finish: Any, text: str = "It starts well, so [[7]] so far, but then", **more: Any) -> Said:
    message = {"role": "assistant", "content": text}
    return says(choices=[{"index": 0, "message": message, "finish_reason": finish, **more}])


def test_a_reply_that_was_not_said_to_its_end_is_unscored_named_and_asked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends_of = (*BROKEN, "stop", "eos", "", None)
    folder = write_run(tmp_path / "run", (), len(ends_of))

    def script(body: Body, before: int) -> Said:
        number = re.search(r"answer (\d+)", body["messages"][-1]["content"])
        assert number
        return ends(ends_of[int(number[1])])

    with judge_server(script) as server:
        assert judge(folder, server) == 0
    assert f"4/{len(ends_of)}" in capsys.readouterr().out
    for finish in BROKEN:
        assert repr(finish) in unfinished(Reply(text="Rating: [[7]]", finish=finish))
    kept = [j.reply.finish for j in judgements(folder) if j.reply]
    assert kept[: len(BROKEN)] == list(BROKEN)  # as evidence
    (store,) = (tmp_path / "cache").rglob("replies.jsonl")
    assert store.read_text().count("It starts well") == 4
    with judge_server(lambda body, before: says()) as server:
        assert judge(folder, server) == 0
        assert server.requests == len(BROKEN)
    assert "11/11" in capsys.readouterr().out


INSIDE = {
    "in the choice": ends("error", "", error={"code": 502, "message": "Upstream error"}),
    "in the choice, as text": ends("stop", "Half", error="Upstream error"),
    "its finish alone": ends("error"),
    "at the top": says(error={"message": "Upstream error", "code": 502}),
}


@pytest.mark.parametrize("name", INSIDE)
def test_an_error_inside_a_response_is_tried_again_and_nothing_of_it_is_kept(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run", (2,))
    with judge_server(for_bad(INSIDE[name])) as server:
        assert judge(folder, server) == 0
        assert server.requests == ITEMS - 1 + 3
    (reason,) = [j.reason for j in judgements(folder) if j.reply is None]
    assert "gave up after 3 tries" in reason
    assert "error" in reason
    with judge_server(lambda body, before: says()) as server:
        assert judge(folder, server) == 0
        assert server.requests == 1
    assert "6/6" in capsys.readouterr().out


def test_replies_that_earlier_versions_kept_of_such_are_asked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run", ())
    with judge_server(lambda body, before: says()) as server:
        assert judge(folder, server) == 0
        (store,) = (tmp_path / "cache").rglob("replies.jsonl")
        text = store.read_text()
        store.write_text(text.replace('"finish":"stop"', '"finish":"error"', 2))
        (path,) = (folder / "judgements").rglob("*.jsonl")
        path.write_text(path.read_text().replace('"finish":"stop"', '"finish":"error"', 2))
        before = server.requests
        assert judge(folder, server) == 0
        assert server.requests - before == 2
        assert judge(folder, server) == 0
        assert server.requests - before == 2
    assert "6/6" in capsys.readouterr().out
