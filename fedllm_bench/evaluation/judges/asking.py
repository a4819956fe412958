"""Asking a model behind an address with bounded retries, rate limits and a budget; and a judge, whose replies are kept.

Requests run in an event loop in a thread of its own, so that any thread may ask, and wait or not.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import itertools
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Self, TypeVar

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.judges.cost import Budget, most_dollars, price_of, prompt_tokens
from fedllm_bench.evaluation.judges.faults import NoReplyError, OverBudgetError, PassingError
from fedllm_bench.evaluation.judges.finishes import is_whole
from fedllm_bench.evaluation.judges.http import Endpoint, Options
from fedllm_bench.evaluation.judges.keeper import Keeper
from fedllm_bench.evaluation.judges.limiter import Limiter
from fedllm_bench.evaluation.judges.preset import Preset
from fedllm_bench.evaluation.judges.questions import Question, request_hash
from fedllm_bench.evaluation.judges.served import Served, served_judge
from fedllm_bench.evaluation.judges.store import ReplyStore
from fedllm_bench.evaluation.judges.templates import Messages
from fedllm_bench.evaluation.records import Reply

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0  # also of what a server asks for
PLAIN = "Reply with the word yes."  # what is asked where all else was refused
T = TypeVar("T")


class ChatClient:
    """Use as a context: leaving it ends what is under way. A request without a reply is made `limits.tries` times.

    `most` is what a request can cost at most, and `price` what a reply did, in US dollars; None where it is unknown.
    """

    def __init__(
        self,
        served: Served,
        budget: Budget | None = None,
        *,
        most: Callable[[Messages], float] = lambda messages: 0.0,
        price: Callable[[Reply], float | None] = lambda reply: 0.0,
    ) -> None:
        self.served, self.budget, self._most, self._price = served, budget or Budget(), most, price
        self._limiter = Limiter(served.limits)
        self._endpoint: Endpoint | None = None  # made for the first request: stored replies need no key
        self._refused: tuple[Messages, Options] | None = None
        self._slots = asyncio.Semaphore(served.limits.concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"ask {served.model}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Await `last`, drop what is under way, and end the event loop."""
        self.run(self._end(last)).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start `work` in the event loop, from any thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def reply(self, messages: Messages, options: Options, *, key: str = "") -> Reply:
        """A reply, whatever its end. Waits are spread by `key`, or by the messages.

        Raises :class:`NoReplyError` for what concerns this request alone, :class:`OverBudgetError` where the budget
        does not allow for it, and :class:`UserError` for what every request would meet.
        """
        async with self._slots:
            try:
                return await self._tries(messages, options, key or prompt_key(messages))
            except NoReplyError as error:
                if error.is_refusal:
                    self._refused = messages, options
                raise

    def check_any(self) -> None:
        """Ask something plain in the form of the last refused request. Raises a :class:`UserError` where that is
        refused too; where it gets no reply for another reason nothing is known, and nothing is raised."""
        if self._refused is not None:
            self.run(self._plain(*self._refused)).result()

    def lists(self, model: str) -> bool:
        """Whether the server's list of models has this name; False where it gives no list, and before any request."""
        return self._endpoint is not None and self.run(self._endpoint.lists(model)).result()

    async def _plain(self, messages: Messages, options: Options) -> None:
        system = tuple(message for message in messages[:1] if message["role"] == "system")
        plain = (*({**message, "content": "Be brief."} for message in system), {"role": "user", "content": PLAIN})
        try:
            await self.reply(plain, options)
        except NoReplyError as error:
            if error.shared is not None:
                raise error.shared from error
        except OverBudgetError:
            return

    async def _tries(self, messages: Messages, options: Options, key: str) -> Reply:
        tries, tokens = self.served.limits.tries, prompt_tokens(messages)
        for number in itertools.count(1):
            await self._limiter.wait(tokens)
            try:
                return await self._paid(messages, options)
            except PassingError as error:
                if number >= tries:
                    raise NoReplyError(f"{error}; gave up after {tries} tries", gave_up=True) from error
                await self._pause(error, key, number)
        raise AssertionError("the loop ends by itself")

    async def _pause(self, error: PassingError, key: str, number: int) -> None:
        if error.wait_seconds is None:
            await asyncio.sleep(backoff_seconds(key, number))
        else:  # the server speaks to all who ask
            self._limiter.hold(min(error.wait_seconds, LONGEST_WAIT_SECONDS))

    async def _paid(self, messages: Messages, options: Options) -> Reply:
        """One try, counted. What may have been charged without saying so counts with the most it can have cost."""
        most = self._most(messages)
        await self.budget.set_aside(most)
        cost: float | None = None
        try:
            self._endpoint = self._endpoint or Endpoint(self.served)
            reply = await self._endpoint.once(messages, options)
            cost = self._price(reply)
            return reply
        except PassingError as error:
            cost = None if error.is_charged else 0.0
            raise
        except (NoReplyError, UserError):
            cost = 0.0
            raise
        finally:
            self.budget.settle(most, most if cost is None else cost, is_uncertain=cost is None)

    async def _end(self, last: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
        if last is not None:
            await last()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._endpoint is not None:
            await self._endpoint.close()
        await self._loop.shutdown_default_executor()


def prompt_key(messages: Messages) -> str:
    return request_hash("", {}, messages, 0)


def store_of(preset: Preset) -> ReplyStore:
    """The replies of this judge that are kept on this machine."""
    return ReplyStore(files.cache_root() / "judgements" / preset.id)


class AskingJudge:
    """Use as a context: leaving it ends what is under way. `ask` and `submit` may be called from any thread.

    A reply counts as had when it is on disk. One that was not said to its end is returned and not kept.
    """

    def __init__(self, preset: Preset, *, store: ReplyStore | None = None, max_cost: float | None = None) -> None:
        """Raises a :class:`UserError` where `max_cost` dollars cannot be kept to."""
        _check_budget(preset, max_cost)
        self.preset = preset
        self.store = store_of(preset) if store is None else store
        self.budget = Budget(max_cost)
        self._client = ChatClient(
            served_judge(preset),
            self.budget,
            most=functools.partial(most_dollars, preset),
            price=functools.partial(price_of, preset),
        )
        self._keeper = Keeper(self.store)

    def __enter__(self) -> Self:
        self._client.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close(self._keeper.flush)  # what has come is kept

    @property
    def name(self) -> str:
        return self.preset.id

    def key(self, question: Question) -> str:
        return self._key(question.messages, question.slot.repeat)

    def ask(self, messages: Messages, *, repeat: int = 0) -> Reply:
        """The reply, stored or new. Another `repeat` is another sample of the same request.

        Raises what :meth:`ChatClient.reply` does.
        """
        return self._submitted(messages, repeat).result()

    def submit(self, question: Question) -> Future[Reply]:
        """The reply to come; see :meth:`ask` for what its result can raise."""
        return self._submitted(question.messages, question.slot.repeat)

    def check_any(self) -> None:
        """Raises a :class:`UserError` where the server refuses any request; see :class:`ChatClient`."""
        self._client.check_any()

    def stored(self, question: Question) -> Reply | None:
        return self.store.get(self.key(question))

    def _key(self, messages: Messages, repeat: int) -> str:
        return request_hash(self.preset.model, self.preset.options, messages, repeat)

    def _submitted(self, messages: Messages, repeat: int) -> Future[Reply]:
        return self._client.run(self._ask(messages, repeat))

    async def _ask(self, messages: Messages, repeat: int) -> Reply:
        key = self._key(messages, repeat)
        if stored := self.store.get(key):
            return stored
        reply = await self._client.reply(messages, self.preset.options, key=key)
        reply = replace(reply, price=price_of(self.preset, reply))
        if is_whole(reply.finish):
            await self._keeper.put((key, reply))
        return reply


def backoff_seconds(key: str, number: int) -> float:
    """The wait after the failed try `number` (from 1): 1, 2, 4 ... seconds, at most a minute, each shortened by up to
    half by the request's own hash, so that what failed together does not come back together."""
    jitter = int.from_bytes(hashlib.sha256(f"{key} {number}".encode()).digest()[:4]) / 2**32
    return min(FIRST_WAIT_SECONDS * 2.0 ** (number - 1), LONGEST_WAIT_SECONDS) * (1 - jitter / 2)


def _check_budget(preset: Preset, max_cost: float | None) -> None:
    if max_cost is None or preset.is_free:
        return
    missing = "no price" if preset.price is None else "no limit of a reply's tokens (max_tokens)"
    if preset.price is None or preset.reply_bound is None:
        raise UserError(
            f"--max-cost cannot be kept to: the judge {preset.title!r} states {missing}; add it to its file"
        )
