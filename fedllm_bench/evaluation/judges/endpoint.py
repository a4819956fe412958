"""One request to an endpoint that speaks chat completions, with `openai`'s client: a Reply or a named failure.

The client itself never retries (`max_retries=0`): it would do so silently, and twice with the retries of `asking`.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fedllm_bench.errors import UserError
from fedllm_bench.evaluation.judges.cost import price_of
from fedllm_bench.evaluation.judges.errors import NoReplyError, PassingError
from fedllm_bench.evaluation.judges.faults import TooLongError, named
from fedllm_bench.evaluation.judges.preset import Preset
from fedllm_bench.evaluation.judges.templates import Messages
from fedllm_bench.evaluation.records import Reply

if TYPE_CHECKING:
    import openai

MOST_BYTES = 4 * 2**20  # of a response, unpacked
MOST_TOKENS = 10**9
OFFICIAL = "https://api.openai.com/"


class Endpoint:
    """For the tasks of one event loop; close it there."""

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        self._key = api_key(preset)
        self._client = _client(preset, self._key)

    async def once(self, messages: Messages) -> Reply:
        """One try, bounded in time and bytes.

        Raises :class:`PassingError` for what may pass, :class:`NoReplyError` for what concerns this request alone,
        and :class:`UserError` for what every request would meet (a wrong key, model or option).
        """
        import openai

        started = time.perf_counter()
        try:
            async with asyncio.timeout(self.preset.limits.timeout_seconds):
                response = await self._client.chat.completions.with_raw_response.create(
                    model=self.preset.model,
                    messages=(),
                    extra_body=self._body(messages),
                )
        except TimeoutError as error:
            seconds = self.preset.limits.timeout_seconds
            raise PassingError(f"no reply within {seconds:g} s", is_charged=True) from error
        except TooLongError as error:  # with openai 2 it is the cause of an APIConnectionError
            raise NoReplyError(str(error)) from error
        except openai.APIError as error:
            raise named(error, self.preset, self._key) from error
        reply = read_reply(response.http_response.content)
        reply = replace(reply, seconds=round(time.perf_counter() - started, 3))
        return replace(reply, price=price_of(self.preset, reply))

    def _body(self, messages: Messages) -> dict[str, Any]:
        """What is sent beside the model. Messages given by name would be walked through type by type, a millisecond."""
        return {"messages": [dict(message) for message in messages], **self.preset.options}

    async def close(self) -> None:
        await self._client.close()


def api_key(preset: Preset) -> str:
    """The key in the environment. Raises a :class:`UserError` where it is needed and not there."""
    if not preset.key_env:
        return "none"  # the client insists on one
    key = os.environ.get(preset.key_env, "").strip()
    if not key or not (key.isascii() and key.isprintable()):
        what = "which holds no plain text" if key else "which is not set"
        raise UserError(f"the judge {preset.name!r} needs an API key in the variable {preset.key_env}, {what}")
    return key


def _client(preset: Preset, key: str) -> openai.AsyncOpenAI:
    import openai

    from fedllm_bench.evaluation.judges.bounded import bounded_client

    limits = preset.limits
    http = bounded_client(MOST_BYTES, connections=limits.concurrency, seconds=limits.timeout_seconds)
    client = openai.AsyncOpenAI(api_key=key, base_url=preset.base_url, max_retries=0, http_client=http)
    if not preset.base_url.startswith(OFFICIAL):  # read from the environment, and nobody else's business
        client.organization = client.project = None
    return client


def read_reply(body: bytes) -> Reply:
    """The reply in a response. Raises :class:`PassingError` for what is no chat completion."""
    try:
        found = json.loads(body)
        choice = found["choices"][0]
        text, finish = _text(choice["message"]), choice.get("finish_reason")
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise PassingError(f"the response is no chat completion ({_shape(body)})", is_charged=True) from error
    usage = found.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
        text=text,
        model=_name(found.get("model")),
        fingerprint=_name(found.get("system_fingerprint")),
        finish=_name(finish),
        prompt_tokens=_tokens(usage.get("prompt_tokens")),
        completion_tokens=_tokens(usage.get("completion_tokens")),
    )


def _text(message: dict[str, Any]) -> str:
    """What was said: content as text or in parts, or the refusal in its place; "" where there is neither."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    if content is None:
        content = message.get("refusal") or ""
    if not isinstance(content, str):
        raise TypeError
    return _valid(content)


def _valid(text: str) -> str:
    """JSON can spell half a surrogate pair, which no file can hold."""
    return text.encode("utf-8", "replace").decode()


def _name(value: object) -> str:
    return _valid(value)[:200] if isinstance(value, str) else ""


def _tokens(value: object) -> int:
    return min(value, MOST_TOKENS) if isinstance(value, int) and value > 0 else 0


def _shape(body: bytes) -> str:
    start = body[:60].decode("utf-8", "replace")
    return f"{len(body)} bytes, {''.join(c if c.isprintable() else ' ' for c in start)!r}" if body else "empty"
