"""What evaluation keeps: prompts, answers and judges' replies, as JSON lines in a run's folder.

Scores are never kept alone: they are computed again from these records, here and by a leaderboard, so a record holds
what was said and not what was made of it. A folder may come from someone else; reading checks every line.

    FOLDER/answers/<benchmark>/prompts.jsonl             the Prompts that were asked
    FOLDER/answers/<benchmark>/<side>.jsonl              an Answer a line
    FOLDER/judgements/<judge>/<benchmark>/<side>.jsonl   a Judgement a line

A side is who answers: `base`, `global` (the trained adapter), or `client-<name>` (one with an adapter of its own).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

STRICT = ConfigDict(extra="forbid", strict=False, allow_inf_nan=False)
Finish = Literal["stop", "length", "filtered", "failed"]
Order = Literal["", "ab", "ba"]
NOT_OURS = "the file was not written by this suite, or was changed; remove it and run again"
MOST_REPEATS = 1000  # of one question; whoever reads judgements looks at every repeat up to the highest


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Prompt:
    """One item of a benchmark: `turns` are the user's; the model's own answers stand between them.

    `references`: right answers, one for each turn, or none. `temperature` 0 is greedy.
    """

    item_id: str
    turns: tuple[str, ...]
    category: str = ""
    language: str = ""
    references: tuple[str, ...] = ()
    temperature: float = 0.0
    max_new_tokens: int = 1024

    @property
    def hash(self) -> str:
        """Of all that an answer depends on, beside the model."""
        asked = {"turns": self.turns, "temperature": self.temperature, "max_new_tokens": self.max_new_tokens}
        return files.sha256_json(asked)[:16]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Answer:
    """A model's answer to each turn of a prompt, with its number of new tokens and why it ended.

    `finish` "failed": there is no answer to that turn (its text is empty), and `reason` says why; later turns too.
    """

    item_id: str
    prompt_hash: str
    turns: tuple[str, ...]
    tokens: tuple[int, ...]
    finish: tuple[Finish, ...]
    reason: str = ""

    def hash_to(self, turn: int) -> str:
        """Of the answers up to `turn` (from 1) and of what they answer."""
        return files.sha256_json({"prompt": self.prompt_hash, "turns": self.turns[:turn]})[:16]

    @property
    def is_whole(self) -> bool:
        return "failed" not in self.finish


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Reply:
    """What a judge said, word for word, and what that took. `price` is in US dollars; None where unknown."""

    text: str
    model: str = ""
    fingerprint: str = ""
    finish: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    price: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Judgement:
    """One question to a judge. `turn` counts from 1; `repeat` from 0; `order` is "" in single grading.

    `request_hash` names the whole request (judge, messages, options, repeat). Without a reply `reason` says why.
    `answer_hash`, in pairs: `hash_to` of the side's own answer, since the request also hangs on another run's.
    """

    item_id: str
    turn: int
    request_hash: str
    repeat: Annotated[int, Field(ge=0, lt=MOST_REPEATS)] = 0
    order: Order = ""
    reply: Reply | None = None
    reason: str = ""
    answer_hash: str = ""


R = TypeVar("R", bound="DataclassInstance")  # of pydantic, as those above


def prompts_file(folder: Path, benchmark: str) -> Path:
    return answers_file(folder, benchmark, "prompts")


def answers_file(folder: Path, benchmark: str, side: str) -> Path:
    return folder / "answers" / checked_name(benchmark) / f"{checked_name(side)}.jsonl"


def judgements_file(folder: Path, judge: str, benchmark: str, side: str) -> Path:
    return folder / "judgements" / checked_name(judge) / checked_name(benchmark) / f"{checked_name(side)}.jsonl"


def checked_name(name: str) -> str:
    """`name`, which can name a file on every system. Raises a :class:`UserError` for any other."""
    if not files.SAFE_NAME.fullmatch(name) or name.endswith("."):
        raise UserError(f"{name!r} cannot name a file; give up to 100 letters, digits, '.', '_' or '-'")
    return name


def checked_side(name: str) -> str:
    """`name`, which can name a side. Raises a :class:`UserError` for any other, as that of the file of prompts.

    "Base" is none either: it would be another side than "base", and on some systems the same file.
    """
    if (lower := checked_name(name).lower()) == "prompts":
        raise UserError(f"{name!r} cannot name a side: the questions are kept under it; give another name, as global")
    if name != lower and lower in ("base", "global"):
        raise UserError(f"{name!r} cannot name a side; did you mean {lower!r}?")
    return name


def write_records(path: Path, records: Iterable[R]) -> None:
    files.make_folder(path.parent)
    files.write_jsonl(path, (asdict(record) for record in records))


def read_records(path: Path, kind: type[R]) -> list[R]:
    """The records of a file, in order; [] where there is no file.

    Raises a :class:`UserError` that names the line for what is no such record.
    """
    return list(_read(path, kind)) if path.is_file() else []


def _read(path: Path, kind: type[R]) -> Iterator[R]:
    adapter: TypeAdapter[R] = TypeAdapter(kind)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield adapter.validate_json(line.decode())
            except UnicodeDecodeError as error:
                raise UserError(f"{path}, line {number}: Invalid JSON, as it is not UTF-8; {NOT_OURS}") from error
            except ValidationError as error:
                raise UserError(f"{path}, line {number}: {_what(error)}; {NOT_OURS}") from error


def _what(error: ValidationError) -> str:
    first: Any = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
