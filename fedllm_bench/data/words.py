"""Words of any script, and the one form in which texts are compared."""

from __future__ import annotations

import re
import unicodedata

# A script without spaces gives no words: each of its characters is one.
WORD = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]|[^\W\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]+")


def normal(text: str) -> tuple[str, ...]:
    """The words of a text, without case, punctuation, width and spacing."""
    return tuple(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def normal_text(text: str) -> str:
    """The words as one text; of a text without words, as one of emoji, all signs."""
    return " ".join(normal(text)) or "".join(unicodedata.normalize("NFKC", text).split())
