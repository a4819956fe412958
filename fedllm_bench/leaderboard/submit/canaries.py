"""Canaries: rows that no useful method should fall below. They are shown on every board and never ranked.

`local` and `central` are ordinary runs. The others are made of a run's records: of the base model (its scores before
training), of somebody who says the same whatever is asked, of an adapter of random numbers. All are submissions like
any other, so that validation computes their scores again. One that does better than most methods is an alarm: the
metric, not the method, is at fault (a constant answer has won a popular board of judged answers, Zheng et al., 2024,
arXiv:2410.07137).
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.comparison.open_scores import GLOBAL
from fedllm_bench.evaluation.scoring.answered import BASE, PLAN, PROMPTS
from fedllm_bench.leaderboard.submit.assemble import DraftRun, Statement, assemble, draft, identity
from fedllm_bench.leaderboard.submit.own_runs import OwnRun
from fedllm_bench.leaderboard.submit.packing import TENSORS, contents_of, encoded, listed, packed_rows
from fedllm_bench.leaderboard.submit.placing import Draft
from fedllm_bench.leaderboard.submit.track_fit import check_track, default_track

NOWHERE = {"version": "", "commit": None}  # no run of the suite: nothing was trained
SENTENCE = "I am not able to say."  # where no right answers are known


@dataclass(frozen=True, kw_only=True)
class Canary:
    """`make` gives an entry for each of the runs it is made of; None: the runs themselves, of the method `name`."""

    title: str
    tuning: str
    training_data: str
    make: Callable[[Sequence[OwnRun]], list[DraftRun]] | None = None


def canary(name: str, runs: Sequence[OwnRun], said: Statement) -> Draft:
    """The submission of a canary. What `said` does not say of method, tuning and data is the canary's own.

    Raises a :class:`UserError` for a name that is none, and for runs that it cannot be made of.
    """
    if name not in CANARIES:
        raise unknown("canary", name, CANARIES)
    kind = CANARIES[name]
    said = replace(said, kind="canary", method=said.method or kind.title, tuning=said.tuning or kind.tuning,
                   training_data=kind.training_data, track=said.track or default_track(runs[0]))  # fmt: skip
    check_track(said.track, runs, "canary")
    if kind.make is not None:
        if own := ", ".join(plugin.name for plugin in runs[0].config.plugins):
            raise UserError(f"--canary {name}: these runs need {own}; give runs of the suite's own methods and metrics")
        return assemble(kind.make(runs), said, NOWHERE)
    if (method := runs[0].config.method.name) != name:
        raise UserError(f"--canary {name}: these runs are of {method}; give runs of the method {name}")
    return draft(runs, said)


def _base(runs: Sequence[OwnRun]) -> list[DraftRun]:
    """The base model: of one run, for it does not depend on the seed."""
    run = runs[0]
    given = contents_of(run, with_adapter=False)
    scores = {name: given[name] for name in given if name.endswith(".before.jsonl.gz")}
    scores |= {name.replace(".before.", ".after."): content for name, content in scores.items()}
    return [_made(run, scores | _of_side(given, lambda name, content: content))]


def _constant(runs: Sequence[OwnRun]) -> list[DraftRun]:
    """One answer to every question: the right answer that most questions have, where right answers are known."""
    run = runs[0]
    given = contents_of(run, with_adapter=False)
    exact = f"runs/{run.seed}/scores/mini_exact.before.jsonl.gz"
    rows = _rows(given[exact]) if exact in given else []
    right = Counter(row["evidence"]["right"] for row in rows)
    sentence = min(right, key=lambda text: (-right[text], text)) if right else SENTENCE
    scores = {}
    if rows:
        scores = {exact: given[exact], exact.replace(".before.", ".after."): packed_rows(_saying(rows, sentence))}
    judged = {name: content for name, content in given.items() if "/judgements/" not in name}
    answers = _of_side(judged, lambda name, content: packed_rows(_constantly(_rows(content), sentence)))
    if not scores and not answers:
        raise UserError(f"RUN={run.folder}: it has no answers to questions; give a run with the metric mini_exact, or "
                        "with open-ended answers (fedllm-bench answer)")  # fmt: skip
    return [_made(run, scores | answers)]


def _random(runs: Sequence[OwnRun]) -> list[DraftRun]:
    """An adapter of normal numbers in place of each run's, every tensor as long as the trained one."""
    from fedllm_bench.leaderboard.submit.random_adapter import random_contents  # loads torch

    return [_entry_of(run, random_contents(run)) for run in runs]


def _of_side(given: Mapping[str, bytes], change: Callable[[str, bytes], bytes]) -> dict[str, bytes]:
    """The base's answers and judgements, and those again as the ones that are compared."""
    kept: dict[str, bytes] = {}
    for name, content in given.items():
        part, file = name.split("/")[2], name.rsplit("/", 1)[1].removesuffix(".jsonl.gz")
        if part in ("answers", "judgements") and (file in (BASE, PROMPTS) or file.endswith(".json")):
            kept[name] = _without_adapter(content) if file == PLAN else content
            if file == BASE:
                kept[name.replace(f"/{BASE}.jsonl.gz", f"/{GLOBAL}.jsonl.gz")] = change(name, content)
    return kept


def _without_adapter(plan: bytes) -> bytes:
    """A plan of answers under which nobody has an adapter."""
    value = json.loads(plan)
    return encoded({**value, "sides": {BASE: "", GLOBAL: ""}})


def _saying(rows: Iterable[dict[str, Any]], sentence: str) -> Iterable[dict[str, Any]]:
    for row in rows:
        evidence = {**row["evidence"], "answer": sentence}
        yield {**row, "evidence": evidence, "value": float(sentence == evidence["right"]), "reason": ""}


def _constantly(rows: Iterable[dict[str, Any]], sentence: str) -> Iterable[dict[str, Any]]:
    tokens = len(sentence.split())  # roughly: no tokenizer made it
    for row in rows:
        turns = len(row["turns"])
        yield {**row, "turns": [sentence] * turns, "tokens": [tokens] * turns, "finish": ["stop"] * turns, "reason": ""}


def _rows(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(content).decode().split("\n") if line]


def _made(run: OwnRun, contents: Mapping[str, bytes]) -> DraftRun:
    """An entry that is no run of the suite, but stands on its base and split."""
    return DraftRun(about={"config_hash": "", **identity(run), "adapter": None}, contents=dict(contents))


def _entry_of(run: OwnRun, contents: Mapping[str, bytes]) -> DraftRun:
    """As :func:`_made`, with an adapter inside."""
    where = f"runs/{run.seed}/adapter/{TENSORS}"
    found = listed({where: contents[where]})[where]
    made = _made(run, contents)
    return replace(made, about={**made.about, "adapter": {**found, "address": "", "inside": True}})


NOTHING = "nothing: no training was done"
CANARIES: dict[str, Canary] = {
    "base": Canary(title="base model", tuning="nothing is tuned", training_data=NOTHING, make=_base),
    "constant": Canary(
        title="constant answer",
        tuning="the right answer that most held-out questions have, where right answers are known; else one sentence",
        training_data=NOTHING,
        make=_constant,
    ),
    "random": Canary(
        title="random adapter",
        tuning="every tensor is normal noise of the norm that FedAvg's trained tensor has",
        training_data=NOTHING,
        make=_random,
    ),
    "local": Canary(title="local", tuning="as the preset", training_data="each client's own rows of the split alone"),
    "central": Canary(title="central", tuning="as the preset", training_data="the rows of all clients together"),
}
