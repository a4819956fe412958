"""Votes in other forms as rows of question, model_a, model_b, winner and judge: PandaLM's test set, and rankings.

    PandaLM (Wang et al., 2024, arXiv:2306.05087)   instruction, input, response1, response2, cmp_key "one_other", and
                                                    annotator1, annotator2, ...: 0 a tie, 1 and 2 the better response
    rankings, as of WMT (Bojar et al., 2016)        source, system, judge, and rank (1 is best) or score (most is best)

Every two systems that a judge ranked for one source are a vote; equal ranks are a tie. Instructions that are equal are
one question, so that intervals are over questions.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedllm_bench.common.errors import UserError

Placed = tuple[str, dict[str, Any]]  # where a row stands, and the row
ANNOTATOR = re.compile(r"annotator_?\d{1,4}", re.IGNORECASE)
WITH_POINT = re.compile(r"[0-9]\.0")
RESPONSES = ("response1", "response2")
VERDICTS = {"0": "tie", "1": "model_a", "2": "model_b", "": ""}
SOURCES, SYSTEMS, JUDGES = ("source", "question", "question_id", "segment"), ("system", "model"), ("judge", "annotator")
OF_RANKING = "a ranking has source, system, judge, and rank or score"
MOST_VOTES = 1_000_000


def as_votes(rows: Iterable[Placed]) -> Iterator[Placed]:
    """The rows, or the votes that rows of another form are. Raises a :class:`UserError` for a row of another form."""
    rest = iter(rows)
    first = next(rest, None)
    if first is None:
        return iter(())
    every = itertools.chain([first], rest)
    if all(key in first[1] for key in RESPONSES):
        return _of_pandalm(every)
    if any(key in first[1] for key in SYSTEMS) and ("rank" in first[1] or "score" in first[1]):
        return _of_rankings(every)
    return every


# --- PandaLM


def _of_pandalm(rows: Iterable[Placed]) -> Iterator[Placed]:
    times: Counter[tuple[str, ...]] = Counter()
    for where, row in rows:
        judges = [key for key in row if ANNOTATOR.fullmatch(key)]
        missing = [key for key in RESPONSES if key not in row] if judges else ["annotator1"]
        if missing:
            raise UserError(f"{where}: no {missing[0]}; a vote as of PandaLM has response1, response2, annotator1, ...")
        question, models = _question(row), _models(row)
        times[question, *models] += 1
        name = question if times[question, *models] == 1 else f"{question}#{times[question, *models]}"
        for judge in judges:
            said = dict(zip(("model_a", "model_b"), models, strict=True))
            yield where, {"question": name, **said, "judge": judge, "winner": _verdict(row[judge], judge, where)}


def _question(row: Mapping[str, Any]) -> str:
    """Of equal instructions one; of the responses too where nobody is named, since they may be of other models."""
    keys = ("instruction", "input") if _named(row) else ("idx", "instruction", "input", *RESPONSES)
    text = "\0".join(str(row.get(key, "")) for key in keys)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _named(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """The two models that `cmp_key` names."""
    parts = row["cmp_key"].split("_") if isinstance(row.get("cmp_key"), str) else []
    return (parts[0], parts[1]) if len(parts) == 2 and all(part.strip() for part in parts) else None


def _models(row: Mapping[str, Any]) -> tuple[str, str]:
    return _named(row) or (RESPONSES[0], RESPONSES[1])


def _verdict(value: Any, judge: str, where: str) -> str:
    text = "" if value is None else whole_text(value)
    if isinstance(value, bool) or text not in VERDICTS:
        raise UserError(f"{where}: {judge} is {ascii(value)[:80]}; give 0 (a tie), 1 or 2")
    return VERDICTS[text]


def whole_text(value: Any) -> str:
    """Of a cell; pandas writes 1 as 1.0 where a cell of the column is empty."""
    text = str(value).strip()
    return text.removesuffix(".0") if WITH_POINT.fullmatch(text) else text


# --- rankings


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """`place`: the lower, the better; None where the judge gave none."""

    where: str
    system: Any
    place: float | None


def _of_rankings(rows: Iterable[Placed]) -> Iterator[Placed]:
    groups: dict[tuple[str, str, str], list[Ranked]] = {}
    named: dict[tuple[str, str, str], dict[str, Any]] = {}
    for where, row in rows:
        source, system, judge = (_column(row, keys, where) for keys in (SOURCES, SYSTEMS, JUDGES))
        about = {"question": source, "judge": judge, "turn": row.get("turn")}
        key = (str(source), str(judge), str(row.get("turn")))
        named.setdefault(key, about)
        _add(groups.setdefault(key, []), Ranked(where=where, system=system, place=_place(row, where)), about)
    votes = sum(math.comb(len(group), 2) for group in groups.values())
    if votes > MOST_VOTES:
        where = next(iter(groups.values()))[0].where.partition(", ")[0]
        raise UserError(f"{where}: {votes:,} pairs of systems, more than {MOST_VOTES:,}; give fewer rows")
    for key, group in groups.items():
        yield from (_vote(one, other, named[key]) for one, other in itertools.combinations(group, 2))


def _column(row: Mapping[str, Any], keys: tuple[str, ...], where: str) -> Any:
    key = next((key for key in keys if key in row), None)
    if key is None:
        raise UserError(f"{where}: no {keys[0]}; {OF_RANKING}")
    return row[key]


def _add(group: list[Ranked], ranked: Ranked, about: Mapping[str, Any]) -> None:
    if any(str(ranked.system) == str(other.system) for other in group):
        what = f"{about['judge']!a} has ranked {ranked.system!a} for {about['question']!a} before"
        raise UserError(f"{ranked.where}: {what[:300]}; give one rank for each system")
    group.append(ranked)


def _place(row: Mapping[str, Any], where: str) -> float | None:
    key, sign = ("rank", 1) if "rank" in row else ("score", -1)
    value = row.get(key)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}: {key} is {ascii(value)[:80]}; give a number")
    return sign * number


def _vote(one: Ranked, other: Ranked, about: Mapping[str, Any]) -> Placed:
    if one.place is None or other.place is None:
        winner = ""
    else:
        winner = "tie" if one.place == other.place else "model_a" if one.place < other.place else "model_b"
    return other.where, {**about, "model_a": one.system, "model_b": other.system, "winner": winner}
