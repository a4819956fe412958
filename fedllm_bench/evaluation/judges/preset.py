"""Judges as declarations: benchmarks/judges/<name>.toml, or a file of one's own in the same form.

    model = "gpt-4-1106-preview"            # a dated snapshot where there is one
    base_url = "https://api.openai.com/v1"  # any endpoint that speaks chat completions
    key_env = "OPENAI_API_KEY"              # the environment variable that holds the key; "" for none
    note = "..."                            # shown before it is asked; optional
    reply_tokens = 300                      # what a reply is expected to have, for the estimate of the cost; optional
    system_role = false                     # for a chat template without one: system prompts go into the user's turn
    [options]                               # sent as they stand: temperature may be absent, limits be named otherwise
    [price]                                 # US dollars per million tokens, and when that was read
    [limits]                                # how it is asked

Its id follows from the model, the options, the prompt templates of the suite and whether they have a system role.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.resources import files as package_files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError, escaped, unknown
from fedllm_bench.common.network import checked_address
from fedllm_bench.config.plugins import ADVICE
from fedllm_bench.config.preset_words import read_toml
from fedllm_bench.evaluation.judges.templates import templates_hash
from fedllm_bench.evaluation.records import STRICT

IMPORTED: Literal["imported"] = "imported"
LOCAL = "local"  # the preset for a server of one's own
PACKAGE = "fedllm_bench.benchmarks"  # named, not imported: in a checkout it lies outside fedllm_bench/
REPLY_BOUNDS = ("max_tokens", "max_completion_tokens")
NEAR_HOST = re.compile(r"https?://(localhost|127\.[\d.]+|\[::1\]|0\.0\.0\.0)(:\d+)?(/|$)")
Dollars = Annotated[float, Field(ge=0, le=1e6)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Price:
    """US dollars per million tokens, as read on `date`."""

    input: Dollars
    output: Dollars
    date: str = ""

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RequestLimits:
    """`timeout_seconds` bounds a whole request, however slowly it arrives; `tries` is the first one and its retries."""

    concurrency: Annotated[int, Field(ge=1, le=1000)] = 8
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 180.0
    tries: Annotated[int, Field(ge=1, le=20)] = 6


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Preset:
    """A judge. `kind` "rule" is one that knows the right answers and asks nobody, "imported" one whose replies were
    recorded elsewhere.

    `reply_tokens` is what a reply is expected to have, for the estimate of the cost.
    """

    name: str
    model: str
    kind: Literal["http", "rule", "imported"] = "http"
    base_url: str = ""
    key_env: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    price: Price | None = None
    limits: RequestLimits = RequestLimits()
    reply_tokens: Annotated[int, Field(ge=1)] = 300
    note: str = ""
    system_role: bool = True

    @property
    def id(self) -> str:
        """The model's name and a hash of its options and of all prompt templates: what a reply depends on."""
        asked: dict[str, Any] = {"model": self.model, "options": self.options, "templates": templates_hash()}
        asked |= {} if self.system_role else {"system_role": False}
        asked |= {"kind": IMPORTED} if self.kind == IMPORTED else {}
        name = f"{IMPORTED}-{self.model}" if self.kind == IMPORTED else self.model
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "judge"
        return f"{slug[:80]}-{files.sha256_json(asked)[:8]}"

    @property
    def title(self) -> str:
        """What tables and messages call it: by its name, and a server of one's own by the model that is asked there."""
        return self.model if self.name == LOCAL and self.model else self.name

    @property
    def is_free(self) -> bool:
        """Whether nobody is paid: so declared, a rule, or a server on this machine without a price."""
        if self.price is not None:
            return self.price.input == self.price.output == 0
        return self.kind == "rule" or bool(NEAR_HOST.match(self.base_url))

    @property
    def plugin(self) -> str:
        """The file of the plugin whose function judges; "" for another judge."""
        return str(self.options.get("plugin", "")) if self.kind == "rule" else ""

    @property
    def reply_bound(self) -> int | None:
        """The most tokens that a reply may have; None where the options do not say."""
        given = [self.options[name] for name in REPLY_BOUNDS if isinstance(self.options.get(name), int)]
        return max(given) if given else None

    def sending(self, *, without: Sequence[str] = (), limit_name: str | None = None) -> Preset:
        """With other options: some left out, and the limit of a reply's tokens, if there is one, called otherwise."""
        kept = {name: value for name, value in self.options.items() if name not in without}
        if limit_name:
            kept = {limit_name if name in REPLY_BOUNDS else name: value for name, value in kept.items()}
        return replace(self, options=kept)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


Rule = Callable[[Any], object]  # from a Question to the text of a reply, or None
OF_PLUGINS: dict[str, tuple[Preset, Rule | None]] = {}  # with the function that judges, where it is one


def judge_names() -> list[str]:
    """The presets of the suite and of the plugins in use."""
    entries = package_files(PACKAGE).joinpath("judges").iterdir()
    own = [entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml")]
    return sorted([*own, *OF_PLUGINS])


def load_judge(given: str | None, *, model: str | None = None, base_url: str | None = None) -> Preset:
    """The judge of a preset's name or of a TOML file; `model` and `base_url` take the place of its own.

    Without a name the preset `local` is meant. A preset that is asked another model than its own is named by that.
    Raises a :class:`UserError` for what is no judge.
    """
    preset = _from_file(Path(given)) if given and given.endswith(".toml") else _packaged(given or LOCAL)
    name = model if model and preset.model not in ("", model) else preset.name
    preset = replace(preset, name=name, model=model or preset.model, base_url=base_url or preset.base_url)
    if preset.kind == "http":
        _check_address(preset)
    return preset


def _packaged(name: str) -> Preset:
    if name in OF_PLUGINS:
        return OF_PLUGINS[name][0]
    if name not in judge_names():
        files = "or give a .toml file, or --judge-url and --judge-model"
        raise unknown("judge", name, judge_names(), f"{files}; {ADVICE}")
    source = package_files(PACKAGE).joinpath("judges", f"{name}.toml")
    return _checked(source.read_text(encoding="utf-8"), name, f"benchmarks/judges/{name}.toml")


def _from_file(path: Path) -> Preset:
    advice = f"give a TOML file of a judge, or one of {', '.join(judge_names())}"
    return preset_of(read_toml(path, f"the judge {escaped(str(path))}", advice), path.stem, str(path))


def _checked(text: str, name: str, where: str) -> Preset:
    try:
        return preset_of(tomllib.loads(text), name, where)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{where} is not TOML: {error}") from error


def preset_of(table: dict[str, Any], name: str, where: str) -> Preset:
    """The judge of a table as a TOML file has it. Raises a :class:`UserError` that begins with `where`."""
    try:
        files.canonical_json(table.get("options", {}))  # no dates: options are sent as JSON
        preset: Preset = TypeAdapter(Preset).validate_python({"name": name, **table})
    except (TypeError, ValueError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": ("options",), "msg": str(error)}
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{where}: {place}: {first['msg']}; see docs/judges.md for the form of a judge") from error
    taken = sorted({"model", "messages", "stream", "n"} & preset.options.keys())
    if taken:
        raise UserError(f"{where}: options.{taken[0]} is set by the suite; remove it")
    return preset


def _check_address(preset: Preset) -> None:
    if not preset.model:
        raise UserError(f"the judge {preset.name!r} names no model; give --judge-model, as the server lists it")
    checked_address(preset.base_url, "the judge's address")
