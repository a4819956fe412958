"""What is searched: settings with a range or a list each, as "method.mu=log:1e-3..1 local.lr=log:1e-5..1e-2".

KEY=log:A..B         a number between A and B, on a logarithmic scale; 0 < A < B
KEY=A..B             a number between A and B
KEY=int:A..B         a whole number from A to B
KEY=choice:X,Y,Z     one of these
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fedllm_bench.common.errors import UserError, shown
from fedllm_bench.config.assignments import assignment

Value = bool | int | float | str
Setting = Mapping[str, Value]  # by the key of the setting
Kind = Literal["log", "linear", "int", "choice"]
FORMS = "write KEY=log:A..B, KEY=A..B, KEY=int:A..B or KEY=choice:X,Y,Z, as in --space 'method.mu=log:1e-3..1'"
MOST_CHOICES = 100
DIGITS = 4  # of a number that is tried: enough to choose by, and short enough to be read in a preset
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
# Sections that say what is trained and measured, not how: trials that differ in them cannot be compared.
NOT_TUNED = {
    "data": "it says on what is trained",
    "model": "it says what is trained",
    "evaluation": "it says what is measured",
    "faults": "it says what goes wrong, and is no choice",
    "attack": "it says who attacks, and is no choice",
    "ray": "it says where clients are trained, and changes no result",
}
NOT_TUNED_KEYS = {
    "local.sequence_length": "it says which tokens are measured",
    "local.loss": "the data set has it",
    "local.on_divergence": "it changes no result",
    "communication.aggregation_error": "it changes no result",
}


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One setting that is searched. `low` and `high` are of numbers, `choices` of the kind "choice"."""

    key: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Value, ...] = ()

    @property
    def ends(self) -> tuple[Value, ...]:
        """Values that must all be allowed, so that every one between them is."""
        return self.choices or (self.rounded(self.low), self.rounded(self.high))

    def rounded(self, value: float) -> Value:
        """`value` with few digits, and still between the ends."""
        if self.kind == "int":
            return round(value)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def holds(self, value: object) -> bool:
        """Whether `value` is in the range, or among the choices."""
        if self.kind == "choice":
            return any(type(value) is type(each) and value == each for each in self.choices)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return self.low <= value <= self.high and (self.kind != "int" or value == int(value))

    @property
    def words(self) -> str:
        """For people: "local.lr between 1e-05 and 0.01 on a logarithmic scale"."""
        if self.kind == "choice":
            return f"{self.key} one of {', '.join(map(str, self.choices))}"
        scale = {"log": " on a logarithmic scale", "int": " in whole numbers"}.get(self.kind, "")
        return f"{self.key} between {self.low:g} and {self.high:g}{scale}"


def parse_space(text: str | Sequence[str]) -> tuple[Dimension, ...]:
    """The dimensions of words with spaces between. Raises a :class:`UserError` for what is none, or stands twice."""
    words = text.split() if isinstance(text, str) else [word for each in text for word in each.split()]
    if not words:
        raise UserError(f"--space: it is empty; {FORMS}")
    found = [_dimension(word) for word in words]
    keys = [each.key for each in found]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise UserError(f"--space: {twice[0]} stands twice; give each setting once")
    return tuple(found)


def _dimension(word: str) -> Dimension:
    key, equals, values = word.partition("=")
    if not (key and equals and values):
        raise UserError(f"--space {shown(word)}: no setting with values; {FORMS}")
    if ":" in key:
        raise UserError(f"--space {shown(key)}: a search is of one method; leave out what stands before the colon")
    why = NOT_TUNED_KEYS.get(key) or NOT_TUNED.get(key.partition(".")[0])
    if why:
        raise UserError(f"--space {key}: it is not searched, for {why}; give settings of method, local, federation, "
                        "lora, communication, aggregation or privacy, and --set for the others")  # fmt: skip
    kind, colon, rest = values.partition(":")
    if kind == "choice" and colon:
        return Dimension(key=key, kind="choice", choices=_choices(key, rest))
    if colon and kind not in ("log", "int"):
        raise UserError(f"--space {shown(word)}: no kind {shown(kind)}; {FORMS}")
    return _wide(_range(key, kind if colon else "linear", rest if colon else values))


def _choices(key: str, text: str) -> tuple[Value, ...]:
    words = text.split(",")
    given = f"--space {shown(f'{key}=choice:{text}')}"
    if len(words) > MOST_CHOICES:
        raise UserError(f"{given}: {len(words):,} values are too many; give at most {MOST_CHOICES}")
    values = tuple(assignment(f"{key}={word}")[1] for word in words)
    if None in values:
        raise UserError(f"{given}: none is not searched; leave it out, and give --set {key}=none to another search")
    if not all(words) or not all(isinstance(value, Value) for value in values):
        raise UserError(f"{given}: give single values with commas between, as choice:adamw,sgd")
    if len(words) < 2 or len({(type(value) is bool, value) for value in values}) < len(values):
        raise UserError(f"{given}: give two or more values, each once; --set is for a single one")
    return values


def _range(key: str, kind: str, text: str) -> Dimension:
    given = f"--space {shown(key)[1:-1]}: {shown(text)}"
    ends = text.split("..")
    if len(ends) != 2 or not all(NUMBER.fullmatch(end) for end in ends):
        raise UserError(f"{given} is no range of numbers A..B; {FORMS}")
    low, high = map(float, ends)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"{given}: the first number must be below the second one, and both must be finite")
    if kind == "log":
        if low <= 0:
            raise UserError(f"{given}: a logarithmic scale begins above 0; give another lower end, or no log:")
        return Dimension(key=key, kind="log", low=low, high=high)
    if kind == "int":
        if low != int(low) or high != int(high) or max(abs(low), abs(high)) >= 2**31:
            raise UserError(f"{given}: int: takes whole numbers below 2**31")
        return Dimension(key=key, kind="int", low=low, high=high)
    return Dimension(key=key, kind="linear", low=low, high=high)


def _wide(dimension: Dimension) -> Dimension:
    """The same; a :class:`UserError` where the numbers that are tried would all be one."""
    first, *_, last = dimension.ends
    if first == last:
        raise UserError(
            f"--space {shown(dimension.key)[1:-1]}: numbers are tried with {DIGITS} digits, and with these both ends "
            f"are {first}; give a wider range"
        )
    return dimension
