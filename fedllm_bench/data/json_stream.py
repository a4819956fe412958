"""JSON of any size, one sample in memory at a time: an object {user id: [sample, ...]}, or a list."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import Any

from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.files import RepeatedKey, unique_keys

MAX_ID_CHARACTERS = 256  # a user with a longer id is no client, whatever the upstream
MAX_SAMPLE_CHARACTERS = 16 * 2**20
BLANK = " \t\n\r"


class _Reader:
    """A window on the text: `peek` and `value` read on when they have to."""

    def __init__(self, chunks: Iterable[bytes], where: str) -> None:
        self.where = where
        self._text = self._decoded(chunks)
        self._window, self._at, self._ended = "", 0, False
        self._scan = json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode

    def _decoded(self, chunks: Iterable[bytes]) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        try:
            for chunk in chunks:
                yield decoder.decode(chunk)
            yield decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise UserError(f"{self.where} is not UTF-8 ({error.reason})") from error

    def _more(self) -> None:
        """At least double what is left of the window, so that a long value is not tried once for each chunk."""
        left = self._window[self._at :]
        pieces, size = [left], len(left)
        while size < 2 * len(left) + 1 and not self._ended:
            piece = next(self._text, None)
            self._ended = piece is None
            pieces.append(piece or "")
            size += len(piece or "")
        self._window, self._at = "".join(pieces), 0

    def peek(self) -> str:
        """The next character that is not blank; "" at the end."""
        while True:
            while self._at < len(self._window) and self._window[self._at] in BLANK:
                self._at += 1
            if self._at < len(self._window):
                return self._window[self._at]
            if self._ended:
                return ""
            self._more()

    def take(self, allowed: str, wanted: str) -> str:
        got = self.peek()
        if not got or got not in allowed:
            raise UserError(f"{self.where}: {wanted} is expected, not {self._window[self._at : self._at + 20]!r}")
        self._at += 1
        return got

    def value(self, most: int, what: str) -> Any:
        """The next JSON string, array or object, of at most about `most` characters."""
        self.peek()
        while True:
            try:
                value, end = self._scan(self._window, self._at)
            except RepeatedKey as error:
                raise UserError(f"{self.where}: {what} has {error}") from error
            except (ValueError, RecursionError) as error:
                reason = "nested too deeply" if isinstance(error, RecursionError) else first_line(error)
                if isinstance(error, RecursionError) or self._ended:
                    raise UserError(f"{self.where}: broken JSON in {what} ({reason})") from error
                if len(self._window) - self._at > most:
                    raise UserError(f"{self.where}: {what} is longer than {most} characters, or broken") from error
                self._more()
                continue
            if end - self._at > most:
                raise UserError(f"{self.where}: {what} is longer than {most} characters")
            self._at = end
            return value


def users(chunks: Iterable[bytes], where: str) -> Iterator[tuple[str, Iterator[Any]]]:
    """Each user id with its samples, which must be used up before the next user is asked for.

    Raises :class:`UserError` for anything but UTF-8 JSON of this shape with distinct ids of at most
    256 characters of whole Unicode.
    """
    reader = _Reader(chunks, where)
    seen: set[str] = set()
    reader.take("{", "a JSON object of users")
    closing = reader.peek() == "}"
    while not closing:
        user = _user(reader)
        if user in seen:
            raise UserError(f"{where}: user id {user!r} stands there twice")
        seen.add(user)
        reader.take(":", "':' after a user id")
        yield user, _samples(reader, user)
        closing = reader.take(",}", "',' or '}' after a user") == "}"
    if not seen:
        raise UserError(f"{where}: there are no users in it")
    if reader.peek():
        raise UserError(f"{where}: there is more after the JSON object")


def items(chunks: Iterable[bytes], where: str, most: int) -> Iterator[Any]:
    """The values of a JSON list, each of at most about `most` characters; a :class:`UserError` for anything else."""
    reader = _Reader(chunks, where)
    reader.take("[", "a JSON list")
    number, closing = 0, reader.peek() == "]"
    if closing:
        reader.take("]", "']'")
    while not closing:
        number += 1
        yield reader.value(most, f"value {number} of the list")
        closing = reader.take(",]", f"',' or ']' after value {number} of the list") == "]"
    if reader.peek():
        raise UserError(f"{where}: there is more after the JSON list")


def _user(reader: _Reader) -> str:
    if reader.peek() != '"':
        reader.take('"', "a user id")
    user = reader.value(8 * MAX_ID_CHARACTERS, "a user id")
    broken = not is_unicode(user) or not user.strip()
    if len(user) > MAX_ID_CHARACTERS or broken:
        problem = "is blank or broken text" if broken else f"is longer than {MAX_ID_CHARACTERS} characters"
        raise UserError(f"{reader.where}: the user id {user[:20]!a} {problem}")
    return str(user)


def _samples(reader: _Reader, user: str) -> Iterator[Any]:
    reader.take("[", f"a list of samples of user {user!r}")
    closing = reader.peek() == "]"
    if closing:
        reader.take("]", "']'")
    while not closing:
        if reader.peek() != "{":
            reader.take("{", f"a sample (a JSON object) of user {user!r}")
        yield reader.value(MAX_SAMPLE_CHARACTERS, f"a sample of user {user!r}")
        closing = reader.take(",]", f"',' or ']' after a sample of user {user!r}") == "]"


def is_unicode(text: str) -> bool:
    """False for half a surrogate pair, which JSON can spell and no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
