"""`openai`'s HTTP client, which reads a response of any length, with a bound on it.

The bound is set in `send`, where errors and replies, with a stated length and without one, all pass.
"""

from __future__ import annotations

from typing import Any

import openai

from fedllm_bench.evaluation.judges.faults import TooLongError

PACKED = ("content-encoding", "content-length", "transfer-encoding")  # of a body that is now unpacked and whole


class BoundedClient(openai.DefaultAsyncHttpxClient):
    most_bytes: int = 0

    async def send(self, request: Any, **options: Any) -> Any:
        """The response, read. Raises :class:`TooLongError` as soon as there are more bytes than allowed."""
        response = await super().send(request, **{**options, "stream": True})
        body = bytearray()
        try:
            async for part in response.aiter_bytes():
                body += part
                if len(body) > self.most_bytes:
                    raise TooLongError(f"a response of more than {self.most_bytes // 2**20} MiB")
        finally:
            await response.aclose()
        head = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in PACKED]
        return type(response)(response.status_code, headers=head, content=bytes(body), request=request)


def bounded_client(most_bytes: int, *, connections: int, seconds: float) -> BoundedClient:
    """`connections` at once; `seconds` bounds each single read, the caller bounds the whole."""
    client = BoundedClient(timeout=seconds)
    client.most_bytes = most_bytes
    return client
