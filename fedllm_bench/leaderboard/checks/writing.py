"""Answers that no model gives to questions: nothing, always the same, the references, or words to the judge.

A constant answer once won 86.5% against GPT-4 (Zheng et al., 2024, arXiv:2410.07137); hence these checks.
"""

from __future__ import annotations

import functools
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files

from fedllm_bench.common.text import counted, part_of
from fedllm_bench.comparison.open_scores import GLOBAL
from fedllm_bench.evaluation.records import Answer, Prompt
from fedllm_bench.evaluation.thoughts import without_thoughts
from fedllm_bench.leaderboard.checks.context import CheckContext
from fedllm_bench.leaderboard.checks.fingerprints import SHORTEST, plain
from fedllm_bench.leaderboard.submission.problems import Level, Problem
from fedllm_bench.leaderboard.submission.submitted import Submitted, SubmittedRun

FEWEST = 5  # answers: fewer say nothing about the rest
EMPTY, ALIKE, REFERENCES = 0.05, 0.1, 0.1  # shares of answers from which on a person looks
REFUSALS = ("advbench",)  # where a safe model may say one sentence to everything
NO_INJECTION = ("advbench", "harmless")  # no judge reads a rating of a refusal there: a rule does

LONGEST_READ = 20_000  # characters of an answer


def answers(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """Empty, constant and duplicated answers, and copies of references."""
    for run in submitted.runs:
        for benchmark in run.files.benchmarks():
            asked = {prompt.item_id: prompt for prompt in run.files.prompts(benchmark)}
            for side in _trained(run, benchmark):
                given = run.files.answers(benchmark, side)
                where = f"{run.where}/answers/{benchmark}/{side}.jsonl.gz"
                if len(given) >= FEWEST:
                    yield from _alike(given, where, submitted.is_canary or benchmark in REFUSALS)
                    yield from _references(given, asked, where)


def _trained(run: SubmittedRun, benchmark: str) -> list[str]:
    return [side for side in run.files.sides(benchmark) if side == GLOBAL or side.startswith("client-")]


def _alike(given: Sequence[Answer], where: str, is_expected: bool) -> Iterator[Problem]:
    texts = [plain("\n".join(without_thoughts(answer.turns))) for answer in given]  # as scores read them
    empty = sum(not text for text in texts)
    if empty == len(texts):
        yield Problem(code="answers-empty", message="every answer is empty", where=where, level=_unless(is_expected))
        return
    if empty > EMPTY * len(texts):
        yield Problem(
            code="answers-empty",
            message=f"{part_of(empty, len(texts), 'answer', 'are')} empty",
            where=where,
            level="flagged",
        )
    counts = Counter(text for text in texts if text)
    text = next(iter(counts))
    if len(counts) == 1:
        yield Problem(
            code="answers-constant", message=f"every answer is {text[:60]!a}", where=where, level=_unless(is_expected)
        )
    long = Counter(text for text in texts if len(text) >= SHORTEST)
    twice = sum(count for count in long.values() if count > 1)
    if len(counts) > 1 and twice > ALIKE * len(texts):
        what = f"{part_of(twice, len(texts), 'answer', 'stand')} there more than once, "
        what += f"as {long.most_common(1)[0][0][:60]!a}"
        yield Problem(code="answers-duplicated", message=what, where=where, level="flagged")


def _unless(is_expected: bool) -> Level:
    return "flagged" if is_expected else "refused"


def _references(given: Sequence[Answer], asked: Mapping[str, Prompt], where: str) -> Iterator[Problem]:
    """Long answers that are the reference word for word."""
    copied, long = [], 0
    for answer in given:
        references = [plain(text) for text in asked[answer.item_id].references] if answer.item_id in asked else []
        right = {text for text in references if len(text) >= SHORTEST}
        long += bool(right)
        if right & {plain(text) for text in without_thoughts(answer.turns)}:
            copied.append(answer.item_id)
    if long >= FEWEST and len(copied) > REFERENCES * long:
        text = f"{part_of(len(copied), long, 'answer', 'are')} the reference, as {copied[0][:40]!a}"
        level: Level = "refused" if len(copied) > long / 2 else "flagged"
        yield Problem(code="answers-as-references", message=text, where=where, level=level)


def injections(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """Words in an answer that are meant for the judge."""
    for run in submitted.runs:
        for benchmark in run.files.benchmarks():
            if benchmark in NO_INJECTION and not run.files.judges():
                continue
            for side in _trained(run, benchmark):
                found = suspicious(run.files.answers(benchmark, side))
                if found:
                    item, kind = found[0]
                    text = f"{counted(len(found), 'answer', 'speak')} to the judge, as {item[:40]!a}: {kind}"
                    where = f"{run.where}/answers/{benchmark}/{side}.jsonl.gz"
                    yield Problem(code="judge-injection", message=text, where=where, level="flagged")


@functools.cache
def patterns() -> dict[str, re.Pattern[str]]:
    """What it looks like -> a pattern, of injections.toml."""
    text = files("fedllm_bench.leaderboard.checks").joinpath("injections.toml").read_text(encoding="utf-8")
    flags = re.IGNORECASE | re.DOTALL | re.MULTILINE
    return {
        name: re.compile("|".join(f"(?:{one})" for one in any_of), flags)
        for name, any_of in tomllib.loads(text).items()
    }


def suspicious(given: Sequence[Answer]) -> list[tuple[str, str]]:
    """(item, what it looks like) of answers that a person should read."""
    found = []
    for answer in given:
        text = visible("\n".join(answer.turns)[:LONGEST_READ])
        kind = next((name for name, pattern in patterns().items() if pattern.search(text)), None)
        if kind is not None:
            found.append((answer.item_id, kind))
    return found


def visible(text: str) -> str:
    """As a judge may read it: compatible forms as plain ones, without characters that show nothing."""
    folded = unicodedata.normalize("NFKC", text)
    return "".join(c for c in folded if unicodedata.category(c) != "Cf")
