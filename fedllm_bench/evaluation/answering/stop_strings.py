"""Strings that end an answer: they may begin and end inside tokens, so they are looked for in text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MORE = 2  # tokens that are looked at beside as many as a string can have: a first one may lose its space
# B rows of a batch, T tokens that are new in them


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of these strings in it."""
    for stop in filter(None, stops):
        text = text.split(stop, 1)[0]
    return text


def has_any(tokenizer: Any, made: Sequence[int], stops: Sequence[str]) -> bool:
    """Whether one of the strings stands in what was made."""
    text: str = tokenizer.decode(list(made), skip_special_tokens=True) if stops else ""
    return any(stop in text for stop in filter(None, stops))


class StopTexts:
    """Which rows have just written one of their strings. `made` are the tokens that each row had before.

    Only the end of a row is looked at: a string of n bytes has at most n tokens.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[Sequence[str]], made: Sequence[Sequence[int]]) -> None:
        self.tokenizer, self.stops = tokenizer, [[stop for stop in found if stop] for found in stops]
        self.rows = [row for row, found in enumerate(self.stops) if found]
        self.widths = [max((len(stop.encode()) for stop in found), default=0) + MORE for found in self.stops]
        self.made = [list(tokens[-width:]) for tokens, width in zip(made, self.widths, strict=True)]

    def __call__(self, new: Tensor) -> Tensor:
        """Shape (B,), from the new tokens of each row, shape (B, T)."""
        found = [False] * len(self.stops)
        if self.rows:
            tails = new[:, -max(self.widths) :].tolist()
            ends = [(self.made[row] + tails[row])[-self.widths[row] :] for row in self.rows]
            texts = self.tokenizer.batch_decode(ends, skip_special_tokens=True)
            for row, text in zip(self.rows, texts, strict=True):
                found[row] = any(stop in text for stop in self.stops[row])
        return torch.tensor(found, device=new.device)
