"""Votes of one's own on pairs of answers, from CSV or JSON lines: question, model_a, model_b, winner, judge.

`winner` is model_a, model_b, tie, or the name of one of the two models; empty where a judge gave no verdict. `turn` is
1 where there is no such column. Two votes of one judge on a pair, once in each order of the models, are one decision:
the same winner in both orders wins, and all else is a tie (Zheng et al., 2023, arXiv:2306.05685, section 3.4).
PandaLM's test set and rankings are read too (vote_forms.py).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.text import counted
from fedllm_bench.evaluation.judging.vote_forms import as_votes, whole_text
from fedllm_bench.evaluation.judging.votes import OTHER, JudgeVote, Match, Winner
from fedllm_bench.evaluation.outside_files import kind_of, name_value, parsed, text_of, text_value

NEEDED = ("question", "model_a", "model_b", "winner", "judge")
NAMES = {"question_id": "question"}  # another name of a column, as FastChat has it
SIDES: Mapping[str, Winner] = {"model_a": "a", "a": "a", "model_b": "b", "b": "b", "tie": "tie"}
DELIMITERS = (",", ";", "\t")
NO_VERDICT = "no verdict"


@dataclass(frozen=True, kw_only=True)
class VoteLine:
    """One vote as it stands in the file; `swapped` where its model_a sorts behind its model_b."""

    vote: JudgeVote
    swapped: bool
    where: str


def read_vote_file(path: Path) -> list[JudgeVote]:
    """The decisions of all judges. Raises a :class:`UserError` of one line for what is no such file."""
    lines = [_line(row, where) for where, row in _rows(path)]
    if not lines:
        raise UserError(f"--votes {path}: there is no vote in it")
    return [_decision(found) for found in _by_judge(lines).values()]


def _by_judge(lines: list[VoteLine]) -> dict[tuple[Match, str], list[VoteLine]]:
    found: dict[tuple[Match, str], list[VoteLine]] = {}
    for line in lines:
        found.setdefault((line.vote.match, line.vote.judge), []).append(line)
    return found


def _decision(lines: list[VoteLine]) -> JudgeVote:
    """One vote, or one for each order of the two models."""
    orders = [line.swapped for line in lines]
    if len(set(orders)) < len(orders):
        last, judge, match = lines[-1], lines[-1].vote.judge, lines[-1].vote.match
        raise UserError(f"{last.where}: {judge!a} has voted on question {match.question!a}, {match.model_a!a} and "
                        f"{match.model_b!a} before; give one vote for each order of the two")  # fmt: skip
    if len(lines) == 1:
        return lines[0].vote
    one, other = (line.vote for line in lines)
    if None in (one.winner, other.winner):
        return JudgeVote(one.match, one.judge, None, reason=NO_VERDICT)
    same = one.winner == other.winner
    return JudgeVote(one.match, one.judge, one.winner if same else "tie", consistent=same)


def _line(row: Mapping[str, Any], where: str) -> VoteLine:
    question, model_a, model_b, judge = (
        _name(row[key], key, where) for key in ("question", "model_a", "model_b", "judge")
    )
    if model_a == model_b:
        raise UserError(f"{where}: model_a and model_b are both {model_a!a}; give two models")
    winner = _winner(row["winner"], model_a, model_b, where)
    swapped = model_b < model_a
    match = Match(question, _turn(row.get("turn"), where), *sorted((model_a, model_b)))
    right = OTHER[winner] if winner and swapped else winner
    return VoteLine(
        vote=JudgeVote(match, judge, right, reason="" if right else NO_VERDICT), swapped=swapped, where=where
    )


def _name(value: Any, key: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not (text := str(value).strip()):
        raise UserError(f"{where}: {key} is {ascii(value)[:80]}; give a name or a number")
    try:
        return text_value(text, key) if key == "question" else name_value(text, key)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _turn(value: Any, where: str) -> int:
    text = "1" if value is None else whole_text(value) or "1"
    if text not in ("1", "2"):
        raise UserError(f"{where}: turn is {value!a}; give 1 or 2")
    return int(text)


def _winner(value: Any, model_a: str, model_b: str, where: str) -> Winner | None:
    """None for an empty cell or null."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    said = value.strip() if isinstance(value, str) else ""
    word = said.lower().partition(" (")[0]  # as in "tie (bothbad)", "tie (inconsistent)"
    named: dict[str, Winner] = {model_a: "a", model_b: "b"}
    found = {of[key] for of, key in ((named, said), (SIDES, word)) if key in of}
    if len(found) == 1:
        return found.pop()
    if found:
        raise UserError(f"{where}: winner is {value!a}, which is a model's name and the other one's column")
    raise UserError(f"{where}: winner is {value!a}; give model_a, model_b, tie, {model_a!a} or {model_b!a}")


# --- the file


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = text_of(path, f"--votes {path}")
    rows = _json_rows(text, path) if text.lstrip().startswith(("{", "[")) else _csv_rows(text, path)
    for where, row in as_votes(rows):
        named = {NAMES.get(key, key): value for key, value in row.items()}
        if missing := [key for key in NEEDED if key not in named]:
            raise UserError(f"{where}: no {', '.join(missing)}; a vote has {', '.join(NEEDED)}; also read are the "
                            "columns of PandaLM's test set, and rankings (docs/judges.md)")  # fmt: skip
        yield where, named


def _json_rows(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    whole = text.lstrip().startswith("[")
    for number, line in enumerate([text] if whole else text.split("\n"), 1):
        where = f"--votes {path}" + ("" if whole else f", line {number}")
        values = parsed(line, where, "give CSV, or one JSON object a line") if line.strip() else []
        for place, value in enumerate(values if isinstance(values, list) else [values], 1):
            at = f"{where}, entry {place}" if whole else where
            if not isinstance(value, dict):
                raise UserError(f"{at}: {kind_of(value)}, not an object")
            yield at, value


def _csv_rows(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Under a header, with commas, semicolons or tabs between cells."""
    header_line = text.split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=header_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if twice := next((name for name in header if header.count(name) > 1), None):
            raise UserError(f"--votes {path}: the column {twice!a} appears twice")
        for cells in reader:
            where = f"--votes {path}, line {reader.line_num}"
            if cells and len(cells) != len(header):
                raise UserError(f"{where}: {counted(len(cells), 'cell')}, the header has {len(header)}")
            if cells:
                yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"--votes {path}, line {reader.line_num}: no CSV ({first_line(error)[:80]})") from None
