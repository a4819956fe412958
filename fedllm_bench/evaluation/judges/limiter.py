"""When the next request may go out: requests and tokens per minute, and pauses that a server asked for."""

from __future__ import annotations

import asyncio
import time

from fedllm_bench.evaluation.judges.preset import RequestLimits


class Limiter:
    """Requests are spaced evenly, so that no minute, wherever it begins, holds more than is allowed.

    For the tasks of one event loop.
    """

    def __init__(self, limits: RequestLimits) -> None:
        self._seconds_a_request = 60.0 / limits.requests_per_minute if limits.requests_per_minute else 0.0
        self._seconds_a_token = 60.0 / limits.tokens_per_minute if limits.tokens_per_minute else 0.0
        self._next_request = self._next_tokens = self._held_until = 0.0

    async def wait(self, tokens: float) -> None:
        """Until a request of about so many tokens may be sent."""
        start = max(time.monotonic(), self._next_request, self._next_tokens)
        self._next_request = start + self._seconds_a_request
        self._next_tokens = start + self._seconds_a_token * tokens
        while (now := time.monotonic()) < (ready := max(start, self._held_until)):
            await asyncio.sleep(ready - now)

    def hold(self, seconds: float) -> None:
        """Nobody sends for so long: the server said when to come back."""
        self._held_until = max(self._held_until, time.monotonic() + seconds)
