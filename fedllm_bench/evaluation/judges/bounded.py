"""`openai`'s HTTP client, which reads a response of any length, with a bound on it.

The bound is set in `send`, where errors and replies, with a stated length and without one, all pass. Proxy and
certificates are chosen by `network`, which names a wrong variable of the environment. A module of its own, since its
class can only be made where `openai` is loaded, which a judge that is a rule does not need.
"""

from __future__ import annotations

from typing import Any

import openai

from fedllm_bench.common import network
from fedllm_bench.evaluation.judges.faults import TooLongError

PACKED = ("content-encoding", "content-length", "transfer-encoding")  # of a body that is now unpacked and whole
HttpLimits = type(openai.DEFAULT_CONNECTION_LIMITS)


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


def bounded_client(address: str, most_bytes: int, *, connections: int, seconds: float) -> BoundedClient:
    """For requests to `address`, over at most `connections` at once; further requests wait for one of them.

    `seconds` bounds each single read, the caller bounds the whole. Raises a :class:`UserError` for a proxy or for
    certificates of the environment that are none.
    """
    proxy, context = network.proxy_of(address), network.ssl_context(address)
    client = BoundedClient(
        timeout=seconds,
        limits=HttpLimits(max_connections=connections, max_keepalive_connections=connections),
        trust_env=False,  # what the environment says is read above, where an error can name the variable
        proxy=proxy.address if proxy else None,
        verify=True if context is None else context,
    )
    client.most_bytes = most_bytes
    return client
