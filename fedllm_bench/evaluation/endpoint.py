"""Answers of a model behind an OpenAI-compatible address: named errors, bounded retries, several items at once."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import openai

from fedllm_bench.data.rows import Turn as ChatTurn
from fedllm_bench.errors import UserError, first_line
from fedllm_bench.evaluation.answering import conversation, failed_turn
from fedllm_bench.evaluation.journal import Key, Turn, next_turn
from fedllm_bench.evaluation.records import Finish, Prompt

WAITS_SECONDS = (1.0, 4.0, 16.0)  # between tries
LONGEST_WAIT_SECONDS = 60.0  # that a server can ask for
TIMEOUT_SECONDS = 300.0  # of one request
IN_A_ROW = 3  # turns (or as many as are asked at once) that ran out of tries, with no answer between: give up
OUT_OF_TRIES = "no answer in "  # how the reason of a turn begins that failed so
CAN_PASS = (openai.RateLimitError, openai.APIConnectionError, openai.InternalServerError)
ALL_FAIL = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
FINISHES: dict[str | None, Finish] = {"stop": "stop", "length": "length", "content_filter": "filtered"}


class OutOfTries(Exception):
    """No answer after all tries; another session may get one."""


class Refused(Exception):
    """The server will not take this request, however often it comes."""


class Malformed(Exception):
    """A reply that is none of the protocol's."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of one request. `limit_name`: what the server calls the most new tokens. A `seed` of None is not sent."""

    model: str
    temperature: float
    max_new_tokens: int
    seed: int | None = None
    limit_name: str = "max_tokens"

    def request(self, messages: Sequence[ChatTurn]) -> dict[str, Any]:
        seed = {} if self.seed is None else {"seed": self.seed}
        return {
            "model": self.model,
            "messages": list(messages),
            "temperature": self.temperature,
            self.limit_name: self.max_new_tokens,
            **seed,
        }


@dataclass(frozen=True)
class Completion:
    text: str
    tokens: int
    finish: Finish


def make_client(address: str, key: str, timeout: float = TIMEOUT_SECONDS) -> openai.OpenAI:
    """A client without retries of its own, which would be silent and not ours to count."""
    return openai.OpenAI(base_url=address, api_key=key, max_retries=0, timeout=timeout)


def complete(
    client: openai.OpenAI,
    messages: Sequence[ChatTurn],
    options: Options,
    sleep: Callable[[float], None] = time.sleep,
) -> Completion:
    """One answer. Errors that can pass are tried again after WAITS_SECONDS, or after what the server asks for.

    Raises :class:`OutOfTries`, :class:`Refused` for a request that the server cannot take (too long, for one), and a
    :class:`UserError` where none can succeed (a wrong key, an unknown model).
    """
    for wait in (*WAITS_SECONDS, None):
        try:
            return _read(client.chat.completions.create(**options.request(messages)))
        except ALL_FAIL as error:
            raise UserError(f"{client.base_url}: {_said(error)}; check --endpoint, --model and the key") from error
        except (*CAN_PASS, Malformed, ValueError) as error:  # ValueError: JSON that is cut or none
            if wait is None:
                raise OutOfTries(f"{OUT_OF_TRIES}{len(WAITS_SECONDS) + 1} tries: {_said(error)}") from error
            sleep(_asked_wait(error) or wait)
        except openai.APIError as error:
            raise Refused(f"the server refused the request: {_said(error)}") from error
    raise AssertionError


def _said(error: Exception) -> str:
    return first_line(error)[:200] or type(error).__name__


def _asked_wait(error: Exception) -> float | None:
    """Seconds that the server asks for in Retry-After, bounded."""
    if not isinstance(error, openai.APIStatusError):
        return None
    text = error.response.headers.get("retry-after", "")
    return min(float(text), LONGEST_WAIT_SECONDS) if text.isascii() and text.isdigit() else None


def _read(reply: Any) -> Completion:
    """The fields that we need; any server may send anything, so each is checked."""
    choices = reply.choices if isinstance(reply, openai.types.chat.ChatCompletion) else None
    if not choices or choices[0].message is None:
        raise Malformed("the reply holds no message")
    message, usage = choices[0].message, reply.usage
    text = message.content or message.refusal or ""
    if not isinstance(text, str):
        raise Malformed("the reply's content is no text")
    tokens = usage.completion_tokens if usage is not None else 0
    return Completion(
        text.strip(), tokens if isinstance(tokens, int) else 0, FINISHES.get(choices[0].finish_reason, "stop")
    )


@dataclass
class Desk:
    """What those who ask and who collects share. It closes after `patience` turns in a row that ran out of tries."""

    patience: int
    tasks: queue.SimpleQueue[Prompt] = field(default_factory=queue.SimpleQueue)
    ended: queue.SimpleQueue[Turn | Exception | None] = field(default_factory=queue.SimpleQueue)
    closed: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    in_a_row: int = 0

    def note(self, turn: Turn) -> None:
        with self.lock:  # who collects sees turns in the order in which they were counted
            self.in_a_row = self.in_a_row + 1 if turn.reason.startswith(OUT_OF_TRIES) else 0
            self.ended.put(turn)
            if self.in_a_row >= self.patience:
                self.closed.set()


@dataclass(frozen=True, kw_only=True)
class EndpointAnswerer:
    """Asks `concurrency` items at a time; the server applies its own chat template.

    A request that fails for good is a failed turn. Where nothing is answered any more, a :class:`UserError` ends the
    work; what was answered stays.
    """

    client: openai.OpenAI
    name: str
    benchmark: str
    seed: int
    concurrency: int
    limit_name: str = "max_tokens"
    sleep: Callable[[float], None] = field(default=time.sleep)

    def __call__(self, prompts: Sequence[Prompt], done: Mapping[Key, Turn]) -> Iterator[list[Turn]]:
        waiting = [prompt for prompt in prompts if next_turn(prompt, done) is not None]
        desk = Desk(max(IN_A_ROW, self.concurrency))
        for prompt in waiting:
            desk.tasks.put(prompt)
        # daemons: after Ctrl-C the process does not wait for requests that are under way
        for _ in range(min(self.concurrency, len(waiting))):
            threading.Thread(target=self._work, args=(desk, done), daemon=True).start()
        try:
            yield from self._collect(desk, len(waiting))
        finally:
            desk.closed.set()  # whatever ended this, nobody asks any more

    def _collect(self, desk: Desk, left: int) -> Iterator[list[Turn]]:
        """Turns as they come. Those that ran out of tries are held back until another one has an answer."""
        held: list[Turn] = []
        while left:
            got = desk.ended.get()
            if isinstance(got, Exception):
                raise got
            if got is None:
                left -= 1
            elif got.finish != "failed" or not got.reason.startswith(OUT_OF_TRIES):
                yield [*held, got]
                held = []
            else:
                held.append(got)
            if len(held) >= desk.patience:
                raise UserError(f"{self.client.base_url} does not answer ({held[-1].reason}); what was answered is "
                                "kept: give the same command again")  # fmt: skip
        yield held

    def _work(self, desk: Desk, done: Mapping[Key, Turn]) -> None:
        """Puts each turn, None behind the last of an item, and whatever was raised."""
        try:
            while not desk.closed.is_set():
                self._answer(desk.tasks.get_nowait(), dict(done), desk)
                desk.ended.put(None)
        except queue.Empty:
            return
        except Exception as error:  # raised again by who collects
            desk.ended.put(error)

    def _answer(self, prompt: Prompt, turns: dict[Key, Turn], desk: Desk) -> None:
        while (number := next_turn(prompt, turns)) is not None and not desk.closed.is_set():
            turn = self._turn(prompt, number, conversation(prompt, turns, number))
            turns[turn.key] = turn
            desk.note(turn)

    def _turn(self, prompt: Prompt, number: int, messages: Sequence[ChatTurn]) -> Turn:
        options = Options(
            model=self.name,
            temperature=prompt.temperature,
            max_new_tokens=prompt.max_new_tokens,
            seed=seed_of(self.seed, self.benchmark, prompt.item_id, number),
            limit_name=self.limit_name,
        )
        try:
            made = complete(self.client, messages, options, self.sleep)
        except (OutOfTries, Refused) as error:
            return failed_turn(prompt, number, str(error))
        return Turn(
            item_id=prompt.item_id,
            prompt_hash=prompt.hash,
            turn=number,
            text=made.text,
            tokens=made.tokens,
            finish=made.finish,
        )


def seed_of(seed: int, benchmark: str, item_id: str, turn: int) -> int:
    """Of one request, below 2**31."""
    digest = hashlib.sha256("\0".join([str(seed), benchmark, item_id, str(turn)]).encode()).digest()
    return int.from_bytes(digest[:4], "little") & 0x7FFFFFFF
