"""Tables of rows with an instruction and a response, with pairs of answers, or with whole conversations.

A data set of this kind is one declaration, which may be the whole of its module:

    ALPACA = Declaration(
        dataset="alpaca", upstream="tatsu-lab/alpaca", licence="CC-BY-NC-4.0", version="1",
        recipe=Recipe(partition="iid:20"),
    )
    DECLARATION, build = table(
        ALPACA, Fields(instruction="instruction", input="input", response="output", join="space"), language="eng"
    )

and one line in `PIPELINES` (fedllm_bench/data/build/pipelines.py). :class:`Fields` says which column holds which part;
columns that stand nowhere in it are not read. What else an upstream needs:

- **Clients.** Without `client` the rows have no users, and the recipe's `partition` makes the clients: `iid:20`,
  `column:category`, `dirichlet:0.5:category:3`, `released:20:20000`. It may name any column of the raw rows.
- **A separate input.** `join` says how it goes behind the instruction. "turn" keeps it apart, as a turn with the role
  `input` behind the user's: [system,] user, input, assistant. A text cannot forge that turn, since the roles of
  upstream conversations are user and assistant alone. The template `alpaca_input` writes it below `### Input:`; under
  every other template it stands behind the instruction, after an empty line
  (:func:`fedllm_bench.data.chat.without_input`). "space", "line" and "paragraph" make one user turn of both, with that
  between them. An input that is blank is none.
- **Repeated questions.** `once="instruction"` drops rows that repeat that column of an earlier row.
- **Anything else.** `edit` is a function from the sample of a row to the one that is taken, such as
  `lambda sample: sample._replace(answers=...)`. A module that needs more than that makes its own `Builder`.

A pair has `instruction` (the prompt), `chosen` and `rejected`: text, or turns whose last one is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

from fedllm_bench.data.build.bad_rows import bad_cell
from fedllm_bench.data.build.build import Builder
from fedllm_bench.data.build.columns import USER_ID, Columns, Kind
from fedllm_bench.data.build.labels import REPEATED
from fedllm_bench.data.build.readers import RawRecord
from fedllm_bench.data.build.recipe import Declaration, Flag
from fedllm_bench.data.build.sample import NOBODY, Message, Note, Sample
from fedllm_bench.data.languages import any_language
from fedllm_bench.data.rows import INPUT

from .conversations import EQUAL, MALFORMED, ROLES, alternates, turns_of

Join = Literal["turn", "space", "line", "paragraph"]
JOINS: dict[Join, str | None] = {"turn": None, "space": " ", "line": "\n", "paragraph": "\n\n"}
UNKNOWN_LANGUAGE = (
    "language: {rows} with no known language code or English name, such as deu or German; taken as und: {values}"
)
SYSTEM_TURN = "conversation: {rows} with a system turn, which are left out; remove that turn to keep them"
OTHER_ROLES = "conversation: {rows} with other roles than user and assistant; roles found: {values}; rename them"
KINDS: dict[str, Kind] = {"messages": object, "chosen": object, "rejected": object, "client": USER_ID}


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Part of a row -> its column; "" for a part that no column holds.

    A row is `messages`, or `instruction` with `response`, or `instruction` with `chosen` and `rejected`; an `input`
    and a `system` text go with the last two. `split` is the column of the upstream split, which a file may lack.
    """

    messages: str = ""
    instruction: str = ""
    input: str = ""
    system: str = ""
    response: str = ""
    chosen: str = ""
    rejected: str = ""
    client: str = ""
    language: str = ""
    source: str = ""
    split: str | None = "split"
    join: Join = "turn"

    @property
    def named(self) -> dict[str, str]:
        """Part -> column, of those that are read in every row."""
        parts = (field.name for field in fields(self) if field.name not in ("split", "join"))
        return {part: column for part in parts if (column := getattr(self, part))}

    @property
    def checks(self) -> tuple[Flag, ...]:
        return (MALFORMED,) if self.messages else (EQUAL,) if self.chosen else ()


class TablePipeline(NamedTuple):
    """What a pipeline module offers."""

    DECLARATION: Declaration
    build: Builder


def table(
    declaration: Declaration,
    parts: Fields,
    *,
    language: str = "und",
    source: str = "",
    once: str = "",
    edit: Callable[[Sample], Sample] | None = None,
    is_own: bool = False,
    advice: dict[str, str] | None = None,
) -> TablePipeline:
    """The pipeline of a table; its declaration gains the checks, the task and whether there are users.

    `language`: of all rows, where no column says it; `source` likewise, by default the data set's name.
    `advice`: column -> what else to say where it is missing. `is_own`: the user declared these very rows.
    """
    declared = replace(
        declaration,
        task="preference" if parts.chosen else "sft",
        checks=(*declaration.checks, *parts.checks, *((REPEATED,) if once else ())),
        has_users=bool(parts.client),
    )
    kinds = {column: KINDS.get(part, str) for part, column in parts.named.items()} | ({once: str} if once else {})
    if is_own and parts.split:
        kinds[parts.split] = str  # the user says that it is there
    columns = Columns(kinds, {}, split=parts.split, advice=advice or {})

    def sample_of(record: RawRecord) -> Sample:
        sample = _sample(record, parts, language, source or declared.dataset)
        return edit(sample) if edit else sample

    return TablePipeline(declared, Builder(declared, columns, sample_of, is_own=is_own, once=once))


def _sample(record: RawRecord, parts: Fields, language: str, source: str) -> Sample:
    values = record.values
    talk = turns_of(record, parts.messages) if parts.messages else tuple(_prompt(values, parts))
    turns, last = (talk[:-1], talk[-1:]) if parts.messages else (talk, ())
    answers = tuple(said for _, said in last) if parts.messages else tuple(_answers(record, parts))
    word = values[parts.language] if parts.language else ""
    return Sample(
        client=values[parts.client] if parts.client else NOBODY,
        turns=turns,
        answers=answers,
        language=any_language(word) if parts.language else language,
        source=(values[parts.source] if parts.source else "") or source,
        upstream_split=record.split,
        file=record.file,
        flags=frozenset(_failed(talk, answers, parts)),
        notes=(*_role_notes(talk, parts), *(_language_notes(word) if parts.language else ())),
    )


def _prompt(values: dict[str, Any], parts: Fields) -> Iterator[Message]:
    asked, given = values[parts.instruction], values[parts.input] if parts.input else ""
    system = values[parts.system] if parts.system else ""
    if system.strip():
        yield "system", system
    between = JOINS[parts.join]
    if not given.strip():
        yield "user", asked
    elif between is None:
        yield "user", asked
        yield INPUT, given
    else:
        yield "user", asked + between + given if asked.strip() else asked


def _answers(record: RawRecord, parts: Fields) -> Iterator[str]:
    for column in (parts.chosen, parts.rejected) if parts.chosen else (parts.response,):
        value = record.values[column]
        yield (value or "") if isinstance(value, str | None) else _last_answer(record, column)


def _last_answer(record: RawRecord, column: str) -> str:
    turns = turns_of(record, column)
    if not turns or turns[-1][0] != "assistant":
        raise bad_cell(record.number, f"column {column!r} holds turns that do not end with the assistant's")
    if sum(role == "assistant" for role, _ in turns) > 1:  # the earlier ones would be in no prompt
        raise bad_cell(record.number, f"column {column!r} holds more than one answer; only the last may be in it")
    return turns[-1][1]


def _failed(talk: Sequence[Message], answers: Sequence[str], parts: Fields) -> Iterator[str]:
    """The checks that the row fails."""
    if parts.messages and not alternates(tuple(talk)):
        yield MALFORMED.name
    if parts.chosen and len({answer.strip() for answer in answers}) < 2:
        yield EQUAL.name


def _role_notes(talk: Sequence[Message], parts: Fields) -> Iterator[Note]:
    for role in dict.fromkeys(role for role, _ in talk if parts.messages and role not in ROLES):
        yield Note(SYSTEM_TURN if role == "system" else OTHER_ROLES, role)


def _language_notes(word: str) -> Iterator[Note]:
    if any_language(word) == "und" and word.strip().lower() != "und":
        yield Note(UNKNOWN_LANGUAGE, word)
