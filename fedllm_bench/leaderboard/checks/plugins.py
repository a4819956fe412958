"""Plugins: their source is there, is text and is what the config names. It is read, and never imported or run."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from fedllm_bench.config import presets
from fedllm_bench.config.plugin_files import MOST_BYTES
from fedllm_bench.config.plugins import SOURCES
from fedllm_bench.config.sections import UsedPlugin
from fedllm_bench.leaderboard.checks.context import CheckContext
from fedllm_bench.leaderboard.submission.problems import Problem, Refused
from fedllm_bench.leaderboard.submission.reading import digest_of, read_plain
from fedllm_bench.leaderboard.submission.submitted import Submitted, SubmittedRun
from fedllm_bench.metrics.registry import METRICS, OfPlugin

KINDS = ("METHODS", "METRICS", "PIPELINES")


def plugins(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """Each plugin of a config has its source beside it, and there is no other; what hangs on it is told."""
    for run in submitted.runs:
        used = run.config.plugins if run.files.has("config.json") else ()
        there = {name for name in run.files.names() if name.startswith(f"{SOURCES}/")}
        for name in sorted(there - {f"{SOURCES}/{plugin.name}" for plugin in used}):
            yield Problem(code="plugin", message="its config names no such plugin", where=f"{run.where}/{name}")
        for plugin in used:
            where = f"{run.where}/config.json: plugins"
            yield from (Problem(code="plugin", message=text, where=where) for text in _names(plugin))
            yield from _source(run, plugin)
    yield from _not_run(submitted.runs[0])


def _names(plugin: UsedPlugin) -> Iterator[str]:
    """What a plugin says to give is of a kind that there is, and not of the suite itself."""
    suite = {
        "METHODS": presets.method_names(),
        "METRICS": [name for name, metric in METRICS.items() if not isinstance(metric, OfPlugin)],
        "PIPELINES": presets.every_dataset(),
    }
    for given in plugin.gives:
        kind, _, name = given.partition(":")
        if kind not in KINDS or not name:
            yield f"{given[:60]!a} is nothing that a plugin can give"
        elif name in suite[kind]:
            yield f"{given[:60]!a} is of the suite, not of {plugin.name[:60]!a}"


def _source(run: SubmittedRun, plugin: UsedPlugin) -> Iterator[Problem]:
    name = f"{SOURCES}/{plugin.name}"
    where = f"{run.where}/{name}"[:160]
    if not run.files.has(name):
        yield Problem(code="plugin", message="its source is not in the submission", where=where)
        return
    path = run.files.files[f"{run.where}/{name}"]
    try:
        sha256, _ = digest_of(path, MOST_BYTES)
        text = read_plain(path, MOST_BYTES, where).decode("utf-8")
    except Refused as refused:
        yield Problem(code="plugin", message=refused.problem.message, where=where)
        return
    except UnicodeDecodeError:
        yield Problem(code="plugin", message="its source is not UTF-8", where=where)
        return
    if sha256 != plugin.sha256:
        text = f"its sha256 is {sha256[:16]}, its config says {plugin.sha256[:16]!a}"
        yield Problem(code="plugin", message=text, where=where)
    elif hidden := next((c for c in text if unicodedata.category(c) in ("Cc", "Cf") and c not in "\t\n\r\ufeff"), ""):
        shown = f"U+{ord(hidden):04X}"
        yield Problem(code="plugin", message=f"its source has the character {shown}, which hides text", where=where)


def _not_run(run: SubmittedRun) -> Iterator[Problem]:
    """What was not computed again, in one line for all seeds."""
    if not run.files.has("config.json") or not run.config.plugins:
        return
    names = ", ".join(plugin.name for plugin in run.config.plugins)
    left = ["bytes sent and the method's own steps"] if run.has_own_method else []
    left += [f"the metric {name}" for name in sorted(run.files.own_metrics())]
    text = f"{names}: source that nobody runs here; not computed again: {', '.join(left) or 'nothing'}"
    yield Problem(code="plugin-not-run", message=text[:400], where=f"{run.where}/{SOURCES}", level="flagged")
