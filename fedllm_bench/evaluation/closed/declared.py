"""The closed benchmarks by name, as closed.toml declares them. Nothing of lm-eval is loaded here."""

from __future__ import annotations

import importlib.util
import re
import string
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.evaluation.closed.closed_samples import Form

FILE = "closed.toml"
GROUPS = "groups"
VERSION = "1"  # of the benchmarks: it rises when equal models could answer otherwise
MINI_WORLD = "the mini world"  # `data` of what is made here
OURS = "fedllm_"  # how the names of our own tasks begin
INSTALL = "pip install 'fedllm-bench[closed]'"
PUNCTUATION = str.maketrans("", "", string.punctuation)
TemplateChoice = Literal["none", "model", "train"]  # bare texts, the base's own chat template, that of training
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,60}$")]
Tasks = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class MatchRule:
    """When a parsed text is the right one: both are equal without what the patterns `ignore` find, and without case or
    punctuation where these are ignored. lm-eval's `exact_match` has the same options. `own`: it is another rule than
    the task's, on purpose, so that lm-eval's value may be another one."""

    ignore: tuple[str, ...] = ()
    ignore_case: bool = False
    ignore_punctuation: bool = False
    own: bool = False

    def normal(self, text: str) -> str:
        for pattern in self.ignore:
            text = re.sub(pattern, "", text)
        text = text.lower() if self.ignore_case else text
        return text.translate(PUNCTUATION) if self.ignore_punctuation else text


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ClosedBenchmark:
    """Which tasks of lm-eval it is, and what of their items is the score.

    `template` is that of its questions where nobody chose one. `folder` is where lm-eval keeps the tasks, "" for our
    own. `metric` is lm-eval's value of an item behind `filter`.
    `also`: further scores of the same samples, by their names here; each is a value of the items ("metric", or
    "metric,filter" behind another filter), or a score of the whole set (measures.MEASURES). `match`: by which rule
    exact_match is computed again from the record; None where the task has a rule of its own, and lm-eval's value is
    taken. `context`: tokens of a request that are read, the last ones; 0 for all that the model holds. `data` is what
    the hub is asked for.
    """

    name: Name
    task: Tasks
    folder: str = ""
    shots: Annotated[int, Field(ge=0)]
    context: Annotated[int, Field(ge=0)] = 0
    template: TemplateChoice = "none"
    form: Form
    metric: str
    filter: str = "none"
    also: dict[Name, str] = Field(default_factory=dict)
    unit: str = "share"
    higher_is_better: bool = True
    match: MatchRule | None = None
    needs_code: bool = False
    data: str
    source: str


@cache
def closed_benchmarks() -> dict[str, ClosedBenchmark]:
    """Every declared benchmark by its name."""
    declared = {name: {"name": name, **about} for name, about in _declared().items() if name != GROUPS}
    return TypeAdapter(dict[str, ClosedBenchmark]).validate_python(declared)


@cache
def closed_groups() -> dict[str, tuple[str, ...]]:
    """Names that stand for several benchmarks, which may be open-ended ones too."""
    return TypeAdapter(dict[Name, tuple[str, ...]]).validate_python(_declared().get(GROUPS, {}))


def _declared() -> dict[str, dict[str, object]]:
    return tomllib.loads(files(__package__).joinpath(FILE).read_text(encoding="utf-8"))


def without_groups(names: Sequence[str]) -> list[str]:
    """The names with those of its benchmarks in place of each group, each once."""
    groups = closed_groups()
    return list(dict.fromkeys(member for name in names for member in groups.get(name, (name,))))


def is_closed(name: str) -> bool:
    return name in closed_benchmarks()


def closed_benchmark_of(metric: str) -> str | None:
    """The benchmark whose score, or further score, has this name; None for any other metric."""
    return next((name for name, one in closed_benchmarks().items() if metric == name or metric in one.also), None)


def closed_named(names: Sequence[str]) -> list[ClosedBenchmark]:
    """The benchmarks of these names and groups. Raises a :class:`UserError` for an unknown one."""
    known = closed_benchmarks()
    found = without_groups(names)
    for name in found:
        if name not in known:
            raise unknown("closed benchmark", name, [*known, *closed_groups()])
    return [known[name] for name in found]


def is_installed() -> bool:
    return importlib.util.find_spec("lm_eval") is not None


def check_installed() -> None:
    """Raise a :class:`UserError` where lm-eval is not installed."""
    if not is_installed():
        raise UserError(f"closed benchmarks are asked by lm-eval, which is not installed: {INSTALL}")
