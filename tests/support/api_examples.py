"""The examples in the docstrings of the front door, in an order in which each finds what it needs."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench_runs import TINY

import fedllm_bench as fb
from fedllm_bench import api
from fedllm_bench.data.manifest import Split

ORDER = (
    *("load_split", "Split", "ClientRows", "bench", "Run", "open_run", "evaluate", "Evaluated"),
    *("compare", "RunComparison", "diversity", "Diversity"),
)
IN_PROCESSES = ("grid", "Grid", "tune", "Tuned", "submit", "PackedRuns")  # these take half a minute


def settings() -> dict[str, Any]:
    """The smallest run there is: one round of one step."""
    words = dict(word.split("=") for word in TINY)
    return {key: int(value) for key, value in words.items()} | {"federation.rounds": 1, "local.steps": 1}


def names_of(split: Split) -> dict[str, Any]:
    """What the examples take for granted: `fb`, a small split, and the settings of a tiny run."""
    more = {"dry_run": True, "allow_dirty": True}
    return {"fb": fb, "small": split, "tiny": settings(), "more": more}


def examples_of(name: str) -> Iterator[doctest.DocTest]:
    """Those of a function or class and of its members, in the order of the file."""
    found = doctest.DocTestFinder(recurse=True).find(vars(api)[name], name, module=False)
    yield from sorted((test for test in found if test.examples), key=lambda test: test.lineno or 0)


def run_examples(names: tuple[str, ...], known: dict[str, Any], folder: Path) -> int:
    """How many examples there were; an assertion fails for one that shows something else."""
    count = 0
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for name in names:
        assert inspect.getdoc(vars(api)[name])
        for test in examples_of(name):
            test.globs = known
            said: list[str] = []
            failed = runner.run(test, out=said.append, clear_globs=False).failed
            assert not failed, "".join(said)
            count += len(test.examples)
    return count
