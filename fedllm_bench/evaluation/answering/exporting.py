"""The prompts of a benchmark as requests that other tools work on; `importing` reads the answers back.

A request is for one turn. Its id is "<question>#<turn>"; that of a later turn holds the answers to the turns before.

    jsonl          {"id": "81#1", "messages": [...], "temperature": 0.7, "max_tokens": 1024, "seed": 5}
    openai, vllm   {"custom_id": "81#1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": ..., ...}}

OpenAI calls the limit of new tokens max_completion_tokens, vLLM max_tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.answering.importing import imported, told
from fedllm_bench.evaluation.answering.journal import AnsweredTurn, Key, as_turns, next_turn
from fedllm_bench.evaluation.answering.matching import request_id
from fedllm_bench.evaluation.answering.model_answers import conversation
from fedllm_bench.evaluation.answering.remote_answers import seed_of
from fedllm_bench.evaluation.imported_files import ImportedAnswer
from fedllm_bench.evaluation.records import Prompt

LIMIT_NAMES = {"jsonl": "max_tokens", "openai": "max_completion_tokens", "vllm": "max_tokens"}


@dataclass(frozen=True, kw_only=True)
class RequestForm:
    """How a request is written. `left_out`: of "seed" and "temperature", what it does not hold."""

    name: str
    model: str = ""
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The requests of one turn (from 1); `left_out`: questions whose turns before have no answer."""

    requests: tuple[Mapping[str, Any], ...]
    turn: int
    left_out: tuple[str, ...]
    more_turns: int


def export(
    prompts: Sequence[Prompt],
    read: tuple[str, Sequence[ImportedAnswer]] | None,
    *,
    benchmark: str,
    form: RequestForm,
) -> Exported:
    """The first turn, or the one after the answers that were `read`.

    Raises a :class:`UserError` where these leave nothing to ask.
    """
    done = _done(prompts, read) if read else {}
    following = {prompt.item_id: next_turn(prompt, done) for prompt in prompts}
    turn = max((number for number in following.values() if number is not None), default=0)
    if read is not None and turn == 0:
        raise UserError(f"--after: no question has a turn after these answers; {told(imported(*read, prompts))}")
    asked = [prompt for prompt in prompts if following[prompt.item_id] == turn]
    return Exported(
        requests=tuple(_request(prompt, done, turn, benchmark, form) for prompt in asked),
        turn=turn + 1,
        left_out=tuple(p.item_id for p in prompts if len(p.turns) > turn and following[p.item_id] != turn),
        more_turns=sum(len(prompt.turns) > turn + 1 for prompt in asked),
    )


def _done(prompts: Sequence[Prompt], read: tuple[str, Sequence[ImportedAnswer]]) -> dict[Key, AnsweredTurn]:
    """The turns that have an answer."""
    turns = [turn for answer in imported(*read, prompts).answers for turn in as_turns(answer)]
    return {turn.key: turn for turn in turns if turn.finish != "failed"}


def _request(
    prompt: Prompt, done: Mapping[Key, AnsweredTurn], turn: int, benchmark: str, form: RequestForm
) -> dict[str, Any]:
    name = request_id(prompt.item_id, turn + 1)
    settings = {
        "temperature": prompt.temperature,
        LIMIT_NAMES[form.name]: prompt.max_new_tokens,
        "seed": seed_of(0, benchmark, prompt.item_id, turn),
    }
    talk = [{"role": one["role"], "content": one["content"]} for one in conversation(prompt, done, turn)]
    sent = {"messages": talk, **{key: value for key, value in settings.items() if key not in form.left_out}}
    if form.name == "jsonl":
        return {"id": name, **sent}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": {"model": form.model, **sent}}


def write_requests(path: Path, found: Exported) -> None:
    """A line each. Raises a :class:`UserError` where the file is there and has other requests."""
    content = "".join(f"{files.canonical_json(request)}\n" for request in found.requests).encode()
    if path.is_file():
        if path.read_bytes() != content:
            raise UserError(f"--out {path}: there already, with other content; give another name, or remove it")
        return
    files.make_folder(path.parent)
    files.write_bytes(path, content)
