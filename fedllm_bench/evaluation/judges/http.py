"""One request to an endpoint that speaks chat completions, with `openai`'s client: a Reply or a named failure.

The client itself never retries (`max_retries=0`): it would do so silently, and twice with the retries of `asking`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.evaluation.judges.faults import NoReplyError, PassingError, TooLongError, announced, named
from fedllm_bench.evaluation.judges.finishes import ending
from fedllm_bench.evaluation.judges.served import Served
from fedllm_bench.evaluation.judges.templates import Messages
from fedllm_bench.evaluation.records import Reply

if TYPE_CHECKING:
    import openai

MOST_BYTES = 4 * 2**20  # of a response, unpacked
MOST_TOKENS = 10**9
OFFICIAL = "https://api.openai.com/"
TEXT_PARTS = ("text", "output_text")  # of content in parts; others, as thoughts, are not what was said
Options = Mapping[str, Any]


class Endpoint:
    """For the tasks of one event loop; close it there. Raises a :class:`UserError` where no client can be made."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self._key = served.key()
        self._client = _client(served, self._key)

    async def once(self, messages: Messages, options: Options) -> Reply:
        """One try, bounded in time and bytes.

        Raises :class:`PassingError` for what may pass, :class:`NoReplyError` for what concerns this request alone,
        and :class:`UserError` for what every request would meet (a wrong key, a model that is not there).
        """
        import openai

        started, seconds = time.perf_counter(), self.served.limits.timeout_seconds
        request = self._request(messages, options)
        try:
            async with asyncio.timeout(seconds):
                response = await self._client.chat.completions.with_raw_response.create(
                    model=self.served.model,
                    messages=(),
                    extra_body=request,
                )
        except TimeoutError as error:
            raise PassingError(f"no reply within {seconds:g} s", is_charged=True) from error
        except TooLongError as error:  # with openai 2 it is the cause of an APIConnectionError
            raise NoReplyError(str(error)) from error
        except openai.APIError as error:
            raise named(error, self.served, self._key, request) from error
        reply = self._read(response.http_response.content, request)
        return replace(reply, seconds=round(time.perf_counter() - started, 3))

    def _request(self, messages: Messages, options: Options) -> dict[str, Any]:
        """What is sent beside the model. Messages given by name would be walked through type by type, a millisecond."""
        return {"messages": self.served.sent(messages), **options}

    def _read(self, body: bytes, request: Options) -> Reply:
        if error := announced_error(body):
            raise announced(error, self.served, self._key, request)
        return read_reply(body, self._key)

    async def lists(self, model: str) -> bool:
        """Whether the server's list of models has this name; False where it gives no list."""
        import openai

        try:
            async with asyncio.timeout(self.served.limits.timeout_seconds):
                response = await self._client.models.with_raw_response.list()
            listed = json.loads(response.http_response.content)["data"]
            return any(isinstance(one, dict) and one.get("id") == model for one in listed)
        except (openai.APIError, TooLongError, TimeoutError, ValueError, KeyError, TypeError, RecursionError):
            return False

    async def close(self) -> None:
        await self._client.close()


def _client(served: Served, key: str) -> openai.AsyncOpenAI:
    import openai

    from fedllm_bench.evaluation.judges.bounded import bounded_client

    limits = served.limits
    try:
        http = bounded_client(
            served.base_url, MOST_BYTES, connections=limits.concurrency, seconds=limits.timeout_seconds
        )
        client = openai.AsyncOpenAI(
            api_key=key or "none",  # the client insists on one
            base_url=served.base_url,
            max_retries=0,
            http_client=http,
        )
    except UserError:
        raise
    except Exception as error:  # of four libraries, some without a base of their own; it ends the command either way
        raise UserError(f"{served.place}: no connection can be made ({first_line(error)}); check "
                        f"{served.url_option}, and proxies and certificates in the environment") from error  # fmt: skip
    if not served.base_url.startswith(OFFICIAL):  # read from the environment, and nobody else's business
        client.organization = client.project = None
    return client


def announced_error(body: bytes) -> Any:
    """The error inside a response that says that all is well (status 200): at its top or in its choice; else None."""
    try:
        found = json.loads(body)
        if found.get("error"):
            return found["error"]
        choice = found["choices"][0]
        is_error = ending(_name(choice.get("finish_reason"))) == "error"
        return choice.get("error") or ("it ended with finish_reason 'error'" if is_error else None)
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError):
        return None


def read_reply(body: bytes, key: str = "") -> Reply:
    """The reply in a response. Raises :class:`PassingError` for what is no chat completion, without the `key`."""
    try:
        found = json.loads(body)
        choice = found["choices"][0]
        text, finish = _text(choice["message"]), choice.get("finish_reason")
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise PassingError(f"the response is no chat completion ({_shape(body, key)})", is_charged=True) from error
    usage = found.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
        text=text,
        model=_name(found.get("model")),
        fingerprint=_name(found.get("system_fingerprint")),
        finish=_name("" if finish is None else str(finish)),
        prompt_tokens=_tokens(usage.get("prompt_tokens")),
        completion_tokens=_tokens(usage.get("completion_tokens")),
    )


def _text(message: dict[str, Any]) -> str:
    """What was said: content as text or in parts, or the refusal in its place; "" where there is neither.

    Thoughts are no part of it, whether they are parts of the content or fields of their own (`reasoning_content`).
    """
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part(part) for part in content)
    if content is None:
        content = message.get("refusal") or ""
    if not isinstance(content, str):
        raise TypeError
    return _valid(content)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    is_text = part.get("type") in TEXT_PARTS or ("type" not in part and "text" in part)
    said = part["text"] if is_text else part.get("refusal") or ""
    if not isinstance(said, str):
        raise TypeError
    return said


def _valid(text: str) -> str:
    """JSON can spell half a surrogate pair, which no file can hold."""
    return text.encode("utf-8", "replace").decode()


def _name(value: object) -> str:
    return _valid(value)[:200] if isinstance(value, str) else ""


def _tokens(value: object) -> int:
    return min(value, MOST_TOKENS) if isinstance(value, int) and value > 0 else 0


def _shape(body: bytes, key: str) -> str:
    start = (body.replace(key.encode(), b"***") if key else body)[:60].decode("utf-8", "replace")
    return f"{len(body)} bytes, {''.join(c if c.isprintable() else ' ' for c in start)!r}" if body else "empty"
