"""submission.json, version 1: what a submission says of itself. Its JSON Schema is submission-1.schema.json."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from fedllm_bench.common.errors import UserError
from fedllm_bench.leaderboard.submission.problems import Problem, Refused
from fedllm_bench.leaderboard.submission.untrusted import checked_name, checked_text, loads

SCHEMA_VERSION = 1
SUBMISSION = "submission.json"
MOST_BYTES = 2**20
MOST_RUNS, MOST_FILES = 20, 2000
HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]", re.ASCII)
EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,190}", re.ASCII)
ADDRESS = re.compile(r"https://[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]{1,290}", re.ASCII)


def _https(text: str) -> str:
    """An address that a page can link to and a reader can check; "" for none."""
    if not text:
        return text
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not ADDRESS.fullmatch(text) or not HOST.fullmatch(host) or "@" in parts.netloc or port not in (None, 443):
        raise ValueError("it should be an https:// address of a public host, without user name, or empty")
    return text


def _contact(text: str) -> str:
    name, at, host = text.rpartition("@")
    if at and name and EMAIL.fullmatch(text) and HOST.fullmatch(host.lower()):
        return text
    if not text.startswith("https://"):
        raise ValueError("it should be an e-mail or https:// address; it is shown publicly")
    return _https(text)


def _statement(text: str) -> str:
    return checked_text(text, lines=True)


def _number(value: Any) -> Any:
    """`value`, unless it is a truth value, which equals a number."""
    if isinstance(value, bool):
        raise ValueError("Input should be 1")
    return value


def _day(text: str) -> str:
    datetime.date.fromisoformat(text)
    return text


STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
HashOrNone = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
ShortHash = Annotated[str, Field(pattern=r"^([0-9a-f]{10})?$")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Name = Annotated[str, Field(min_length=1, max_length=60), AfterValidator(checked_name)]
Statement = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(_statement)]
Https = Annotated[str, Field(max_length=300), AfterValidator(_https)]
Contact = Annotated[str, Field(min_length=3, max_length=300), AfterValidator(_contact)]
Day = Annotated[str, Field(pattern=r"^20[0-9]{2}-[0-9]{2}-[0-9]{2}$"), AfterValidator(_day)]
Bytes = Annotated[int, Field(ge=0, lt=2**40)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
SeedText = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,9})$")]
Metric = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,119}$")]
RelativePath = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,101}(/[A-Za-z0-9._-]{1,101}){0,6}$")]
TrackId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}/[a-z0-9][a-z0-9_-]{0,39}$")]


class SubmissionPart(BaseModel):
    model_config = STRICT


class Suite(SubmissionPart):
    """Which fedllm-bench made the runs; version "" where they were made outside of it."""

    version: Annotated[str, Field(pattern=r"^([0-9][0-9A-Za-z.+-]{0,39})?$")]
    commit: Commit | None


class Adapter(SubmissionPart):
    """sha256 and size of adapter_model.safetensors, and where it is: `inside` the folder, at an address, or nowhere."""

    sha256: Hash
    bytes: Bytes
    address: Https
    inside: bool


class RunEntry(SubmissionPart):
    """`config_hash` is that of the run folder's name; "" where the run was made outside of the suite."""

    seed: Seed
    config_hash: ShortHash
    base_hash: HashOrNone
    split_hash: HashOrNone
    adapter: Adapter | None


class FileEntry(SubmissionPart):
    sha256: Hash
    bytes: Bytes


class Submission(SubmissionPart):
    """`claims` are for the reader; validation computes every mean again from the records in `files`."""

    version: Annotated[Literal[1], BeforeValidator(_number)]
    suite: Suite
    track: TrackId
    kind: Literal["method", "canary"]
    method: Name
    team: Name
    url: Https
    contact: Contact
    date: Day
    runs: Annotated[list[RunEntry], Field(min_length=1, max_length=MOST_RUNS)]
    tuning: Statement
    training_data: Statement
    claims: dict[Metric, dict[SeedText, float | None]]
    files: Annotated[dict[RelativePath, FileEntry], Field(min_length=1, max_length=MOST_FILES)]

    @model_validator(mode="after")
    def _one_run_a_seed(self) -> Submission:
        seeds = [run.seed for run in self.runs]
        if len(set(seeds)) < len(seeds):
            twice = next(seed for seed in seeds if seeds.count(seed) > 1)
            raise PydanticCustomError("seed-twice", f"two runs have seed {twice}; give one run for each seed")
        return self

    @property
    def seeds(self) -> list[int]:
        return sorted(run.seed for run in self.runs)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of submission.json; NFC, hosts and dates are checked by :func:`parse` alone."""
    schema = Submission.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def parse(text: bytes) -> Submission:
    """Raises a :class:`UserError` of one line that names all that is wrong."""
    submission, _, problems = examine(text)
    if submission is None:
        raise UserError("; ".join(f"{problem.where}: {problem.message}" for problem in problems))
    return submission


def examine(text: bytes) -> tuple[Submission | None, Any, list[Problem]]:
    """The submission and its JSON value, or None and all problems."""
    try:
        if len(text) > MOST_BYTES:
            raise Refused("too-large", f"{len(text)} bytes; at most {MOST_BYTES} are allowed", SUBMISSION)
        value = loads(text, SUBMISSION)
        return Submission.model_validate(value), value, []
    except Refused as refused:
        return None, None, [refused.problem]
    except ValidationError as error:
        return None, None, [_problem(item) for item in error.errors(include_url=False, include_input=False)]


def _problem(item: Any) -> Problem:
    code = "seed-twice" if item["type"] == "seed-twice" else "schema"
    keys = ".".join(ascii(part)[1:-1][:60] if isinstance(part, str) else str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    return Problem(code=code, message=message, where=f"{SUBMISSION}: {keys}" if keys else SUBMISSION)
