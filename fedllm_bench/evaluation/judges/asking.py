"""A judge that is asked: stored replies first, then the endpoint, with bounded retries, rate limits and a budget.

Requests run in an event loop in a thread of its own, so that any thread may ask, and wait or not.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import threading
from concurrent.futures import Future
from typing import Self

from fedllm_bench import files
from fedllm_bench.errors import UserError
from fedllm_bench.evaluation.judges.cost import Budget, most_dollars, prompt_tokens
from fedllm_bench.evaluation.judges.endpoint import Endpoint
from fedllm_bench.evaluation.judges.errors import NoReplyError, PassingError
from fedllm_bench.evaluation.judges.keeper import Keeper
from fedllm_bench.evaluation.judges.limiter import Limiter
from fedllm_bench.evaluation.judges.preset import Preset
from fedllm_bench.evaluation.judges.questions import Question, request_hash
from fedllm_bench.evaluation.judges.store import ReplyStore
from fedllm_bench.evaluation.judges.templates import Messages
from fedllm_bench.evaluation.records import Reply

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0  # also of what a server asks for


def store_of(preset: Preset) -> ReplyStore:
    """The replies of this judge that are kept on this machine."""
    return ReplyStore(files.cache_root() / "judgements" / preset.id)


class AskingJudge:
    """Use as a context: leaving it ends what is under way. `ask` and `submit` may be called from any thread.

    A reply counts as had when it is on disk. A request that has none is made at most `limits.tries` times.
    """

    def __init__(self, preset: Preset, *, store: ReplyStore | None = None, max_cost: float | None = None) -> None:
        """Raises a :class:`UserError` where `max_cost` dollars cannot be kept to."""
        _check_budget(preset, max_cost)
        self.preset = preset
        self.store = store_of(preset) if store is None else store
        self.budget = Budget(max_cost)
        self._limiter, self._keeper = Limiter(preset.limits), Keeper(self.store)
        self._endpoint: Endpoint | None = None  # made for the first request: stored replies need no key
        self._slots = asyncio.Semaphore(preset.limits.concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"judge {preset.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def name(self) -> str:
        return self.preset.id

    def key(self, question: Question) -> str:
        return self._key(question.messages, question.slot.repeat)

    def ask(self, messages: Messages, *, repeat: int = 0) -> Reply:
        """The reply, stored or new. Another `repeat` is another sample of the same request.

        Raises :class:`NoReplyError` for what concerns this request alone, :class:`OverBudgetError` where `max_cost`
        does not allow for it, and :class:`UserError` for what every request would meet.
        """
        return self._submitted(messages, repeat).result()

    def submit(self, question: Question) -> Future[Reply]:
        """The reply to come; see :meth:`ask` for what its result can raise."""
        return self._submitted(question.messages, question.slot.repeat)

    def stored(self, question: Question) -> Reply | None:
        return self.store.get(self.key(question))

    def _key(self, messages: Messages, repeat: int) -> str:
        return request_hash(self.preset.model, self.preset.options, messages, repeat)

    def _submitted(self, messages: Messages, repeat: int) -> Future[Reply]:
        return asyncio.run_coroutine_threadsafe(self._ask(messages, repeat), self._loop)

    async def _ask(self, messages: Messages, repeat: int) -> Reply:
        key = self._key(messages, repeat)
        if stored := self.store.get(key):
            return stored
        async with self._slots:
            reply = await self._tries(key, messages)
        await self._keeper.put((key, reply))
        return reply

    async def _tries(self, key: str, messages: Messages) -> Reply:
        tries, tokens = self.preset.limits.tries, prompt_tokens(messages)
        for number in itertools.count(1):
            await self._limiter.wait(tokens)
            try:
                return await self._paid(messages)
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

    async def _paid(self, messages: Messages) -> Reply:
        """One try, counted. What may have been charged without saying so counts with the most it can have cost."""
        most = most_dollars(self.preset, messages)
        await self.budget.set_aside(most)
        cost: float | None = None
        try:
            self._endpoint = self._endpoint or Endpoint(self.preset)
            reply = await self._endpoint.once(messages)
            cost = reply.price
            return reply
        except PassingError as error:
            cost = None if error.is_charged else 0.0
            raise
        except (NoReplyError, UserError):
            cost = 0.0
            raise
        finally:
            self.budget.settle(most, most if cost is None else cost, is_uncertain=cost is None)

    async def _end(self) -> None:
        """Keep what has come, drop what is under way."""
        await self._keeper.flush()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._endpoint is not None:
            await self._endpoint.close()
        await self._loop.shutdown_default_executor()


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
        raise UserError(f"--max-cost cannot be kept to: the judge {preset.name!r} states {missing}; add it to its file")
