"""Control tokens: the tokens of a tokenizer that only a chat template may write, and text in which they are none.

A tokenizer looks for its added tokens in any text. So `<|end|>` in what a user wrote would end a turn. Here a copy of
the tokenizer is made in which every control token has a name that nobody can guess: the strings of old are text in it,
and the template's own marks are written under the new names.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What marks look like: <|end|>, <start_of_turn>, </think>, [INST], <<SYS>>. Bytes as <0x0A> are text.
MARK = re.compile(r"<[|\uff5c].*[|\uff5c]>|<<.+>>|</?(?!0x)\w[\w.:-]*>|\[/?[A-Z][A-Z0-9_]*\]")
# Some tokenizers have tags of HTML as words.
HTML = re.compile(
    "</?(a|b|blockquote|body|br|caption|code|div|em|h[1-6]|head|hr|html|i|img|li|ol|p|pre|s|span|strong|sub|sup|table|"
    "tbody|td|tfoot|th|thead|tr|u|ul)>"
)
LETTERS = str.maketrans("0123456789abcdef", "qwxzjkvyghmnprst")
NAME_BYTES = 16  # as many as make a name that cannot be guessed


def control_tokens(backend: Tokenizer, templates: Iterable[str] = ()) -> dict[int, str]:
    """The control tokens by id: special ones, and added ones that look like marks or stand in one of the `templates`.

    Other added tokens, such as runs of spaces or new words, are words of the tokenizer.
    """
    source = "\0".join(templates)
    added = backend.get_added_tokens_decoder()
    return {
        number: token.content
        for number, token in added.items()
        if not token.content.isspace() and (token.special or _is_mark(token.content, source))
    }


def _is_mark(content: str, source: str) -> bool:
    if HTML.fullmatch(content):
        return False
    has_both = any(map(str.isalnum, content)) and not content.replace(" ", "").isalnum()  # as "USER:" has
    return MARK.fullmatch(content) is not None or (len(content) > 2 and has_both and content in source)


@dataclass(frozen=True)
class PlainTokenizer:
    """A tokenizer that knows its control tokens, by id, under secret `names` alone; all ids stay."""

    backend: Tokenizer
    names: Mapping[int, str]

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids


def plain(backend: Tokenizer, control: Mapping[int, str]) -> PlainTokenizer:
    """The copy of `backend` for which the control tokens are text."""
    return _plain(backend.to_str(), tuple(sorted(control.items())))


@lru_cache(maxsize=2)  # a vocabulary of 250,000 tokens takes seconds
def _plain(source: str, control: tuple[tuple[int, str], ...]) -> PlainTokenizer:
    from tokenizers import Tokenizer

    names = {number: _secret_name() for number, _ in control}
    described = json.loads(source)
    _rename(described, {content: names[number] for number, content in control})
    copy = Tokenizer.from_str(json.dumps(described))
    assert all(copy.token_to_id(name) == number for number, name in names.items()), "a control token lost its id"
    return PlainTokenizer(copy, names)


def _secret_name() -> str:
    """Letters alone, in lower case: no normaliser changes them."""
    return secrets.token_hex(NAME_BYTES).translate(LETTERS)


def _rename(described: dict[str, Any], names: Mapping[str, str]) -> None:
    """Give tokens other names in a tokenizer.json: among added tokens, and in a vocabulary that has them too.

    Unigram finds "</s>" in text by its vocabulary alone. So would BPE, if merges led there: these go.
    """
    for token in described["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = described["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): number for token, number in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if names.keys().isdisjoint(_parts(pair))]
    described.update(post_processor=None, truncation=None, padding=None)


def _parts(merge: str | list[str]) -> tuple[str, str, str]:
    """Both parts of a merge and what it makes; older files have it as a text with a space."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right, left + right
