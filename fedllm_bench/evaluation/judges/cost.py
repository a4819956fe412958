"""What judging costs: an estimate before, a limit while, and real usage after."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from fedllm_bench.evaluation.judges.faults import OverBudgetError
from fedllm_bench.evaluation.judges.preset import Preset
from fedllm_bench.evaluation.judges.templates import Messages
from fedllm_bench.evaluation.records import Reply

BYTES_A_TOKEN = 3.5  # English has about 4 bytes a token, code and other scripts 2 to 3
TOKENS_A_MESSAGE = 8  # role and separators


def prompt_bytes(messages: Messages) -> int:
    return sum(len(message["content"].encode()) for message in messages)


def prompt_tokens(messages: Messages) -> float:
    """An estimate, from the number of bytes."""
    return prompt_bytes(messages) / BYTES_A_TOKEN + TOKENS_A_MESSAGE * len(messages)


@dataclass(frozen=True)
class CostEstimate:
    """Of what is still to be asked. `dollars` is None where the judge has no price."""

    requests: int
    prompt_tokens: float
    completion_tokens: float
    dollars: float | None


def estimate(preset: Preset, prompts: list[float]) -> CostEstimate:
    """From the estimated tokens of each request, and those a reply is expected to have, at most its limit."""
    completion = len(prompts) * float(min(preset.reply_tokens, preset.reply_bound or preset.reply_tokens))
    total = sum(prompts)
    if preset.is_free:
        return CostEstimate(len(prompts), total, completion, 0.0)
    dollars = preset.price.of(total, completion) if preset.price else None
    return CostEstimate(len(prompts), total, completion, dollars)


def most_dollars(preset: Preset, messages: Messages) -> float:
    """What one request can cost at most: a token has at least one byte, and a reply is bounded by the options."""
    if preset.price is None:
        return 0.0
    tokens = prompt_bytes(messages) + TOKENS_A_MESSAGE * len(messages)
    return preset.price.of(tokens, preset.reply_bound or 0)


def price_of(preset: Preset, reply: Reply) -> float | None:
    """Of a reply by its usage; None where the server did not report it or the judge has no price."""
    if preset.is_free:
        return 0.0
    if preset.price is None or not reply.prompt_tokens:
        return None
    return preset.price.of(reply.prompt_tokens, reply.completion_tokens)


@dataclass
class Budget:
    """`spent` dollars of at most `limit` (None: no limit); `uncertain` of them are for requests whose reply got lost.

    What a request can cost at most is set aside before it goes out, so that the limit is not exceeded whatever comes
    back. For the tasks of one event loop.
    """

    limit: float | None = None
    spent: float = 0.0
    uncertain: float = 0.0
    _set_aside: float = 0.0
    _freed: asyncio.Event = field(default_factory=asyncio.Event)

    async def set_aside(self, dollars: float) -> None:
        """Wait until that much is left. Raises :class:`OverBudgetError` where it will not be."""
        while self.limit is not None and self.spent + self._set_aside + dollars > self.limit:
            if self._set_aside <= 0:
                raise OverBudgetError
            self._freed.clear()
            await self._freed.wait()
        self._set_aside += dollars

    def settle(self, set_aside: float, dollars: float, *, is_uncertain: bool = False) -> None:
        """A request is done: it cost `dollars`."""
        self._set_aside = max(0.0, self._set_aside - set_aside)
        if self._set_aside < 1e-12:  # rounding: nothing is in flight
            self._set_aside = 0.0
        self.spent += dollars
        self.uncertain += dollars if is_uncertain else 0.0
        self._freed.set()
