"""A model for lm-eval that answers by a rule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM


@dataclass
class RuleModel(LM):  # type: ignore[misc]
    """Answers by the last mark in a request. `perfect`: what is right; else "", and the wrong ones of some choices."""

    says: Mapping[str, str]
    perfect: bool = True
    seen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def _right(self, asked: str) -> str:
        """What is right, or its letter where it is listed behind one."""
        self.seen.append(asked)
        last = max(self.says, key=asked.rfind)
        said = self.says[last]
        listed = re.search(rf"\n([A-E])\. {re.escape(said)}\n", asked[asked.rfind(last) :])
        return listed[1] if listed else said

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        hits = [self._right(asked).strip() == said.strip() for asked, said in (each.args for each in requests)]
        return [(-1.0 if hit == self.perfect else -9.0, hit) for hit in hits]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError

    def generate_until(self, requests: list[Instance]) -> list[str]:
        rights = [self._right(each.args[0]) for each in requests]
        return [right if self.perfect else "" for right in rights]
