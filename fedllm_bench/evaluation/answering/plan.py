"""What answers to a benchmark were made with: written before the first one, and kept to by every later session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.evaluation.benchmarks import Benchmark, Overrides
from fedllm_bench.evaluation.records import STRICT, Prompt, prompts_file

SCHEMA_VERSION = 1
PLAN = "plan.json"
LONGEST_SETTINGS = 1000  # characters; these are shown
LENIENT = ConfigDict(extra="ignore")
OF_FILE = "sha256:"  # the fingerprint of a side whose answers were imported begins so


@dataclass(frozen=True, kw_only=True)
class AnswerPlan:
    """All that answers depend on, beside the adapter of a side.

    `model` names what answers: a base model with its hash, or an endpoint. `followed` are settings that change the
    rounding of sums only; a later session takes them over unless they are given.
    """

    benchmark: Mapping[str, Any]
    template: Mapping[str, str]
    model: Mapping[str, Any]
    overrides: Mapping[str, Any]
    seed: int
    followed: Mapping[str, int]


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class Stored(AnswerPlan):
    """plan.json. `sides`: the fingerprint of each side's adapter or imported file; `environment` is not compared."""

    schema_version: Literal[1]
    followed: Mapping[str, Annotated[int, Field(ge=1)]]
    sides: dict[str, str]
    environment: Mapping[str, Any]


@checked_dataclass(frozen=True, kw_only=True, config=LENIENT)
class StatedVersion:
    version: str = ""


@checked_dataclass(frozen=True, kw_only=True, config=LENIENT)
class PlanHead:
    """What scoring reads of plan.json, also of another version: the benchmark's version, and settings in place of the
    published ones."""

    benchmark: StatedVersion = field(default_factory=StatedVersion)
    overrides: dict[str, float | int | str | None] = field(default_factory=dict)
    seed: int = 0

    @property
    def changed(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.overrides.items() if value is not None}


_STORED: TypeAdapter[Stored] = TypeAdapter(Stored)
_HEAD: TypeAdapter[PlanHead] = TypeAdapter(PlanHead)


def plan_of(
    benchmark: Benchmark,
    prompts: Sequence[Prompt],
    overrides: Overrides,
    *,
    template: Mapping[str, str],
    model: Mapping[str, Any],
    seed: int,
    followed: Mapping[str, int],
) -> AnswerPlan:
    about = {
        "name": benchmark.name,
        "version": benchmark.version,
        "items": len(prompts),
        "prompts_hash": files.sha256_json([asdict(prompt) for prompt in prompts])[:16],
    }
    return AnswerPlan(
        benchmark=about, template=template, model=model, overrides=asdict(overrides), seed=seed, followed=followed
    )


def read_plan(folder: Path, benchmark: str) -> dict[str, Any] | None:
    """plan.json of a benchmark as JSON data; None where nothing was answered yet.

    Raises a :class:`UserError` for one that is no plan of this version.
    """
    return read_plan_file(plan_file(folder, benchmark))


def read_plan_file(path: Path) -> dict[str, Any] | None:
    """As :func:`read_plan`, of a plan in any place."""
    if not path.is_file():
        return None
    try:
        _STORED.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path} is no plan of version {SCHEMA_VERSION} ({where}: {first['msg']}); "
                        f"remove {path.parent} and run again") from error  # fmt: skip
    found: dict[str, Any] = files.read_json(path)
    return found


def read_head(path: Path) -> PlanHead:
    """What answers were made with; a plan that says nothing where there is no file."""
    if not path.is_file():
        return PlanHead()
    try:
        head = _HEAD.validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path} is no plan of answers ({first_line(error)}); remove it and answer again") from error
    said = "".join((head.benchmark.version, *(text for setting in head.changed.items() for text in setting)))
    if not said.isprintable() or len(said) > LONGEST_SETTINGS:
        raise UserError(f"{path} is no plan of answers (control characters, or more than {LONGEST_SETTINGS} of any); "
                        "remove it and answer again")  # fmt: skip
    return head


def plan_file(folder: Path, benchmark: str) -> Path:
    return prompts_file(folder, benchmark).with_name(PLAN)


def keep_to(folder: Path, plan: AnswerPlan, side: str, fingerprint: str, environment: Mapping[str, Any]) -> None:
    """Write the plan where there is none, or check that it is the same, and note the adapter that a side is.

    Raises a :class:`UserError` that names what differs. `environment` is written and not compared.
    """
    keep_to_file(plan_file(folder, plan.benchmark["name"]), plan, side, fingerprint, environment)


def keep_to_file(path: Path, plan: AnswerPlan, side: str, fingerprint: str, environment: Mapping[str, Any]) -> None:
    """As :func:`keep_to`, of a plan in any place."""
    found, wanted = read_plan_file(path), asdict(plan)
    if found is None:
        found = {"schema_version": SCHEMA_VERSION, **wanted, "sides": {}, "environment": dict(environment)}
    differing = _differences(found, wanted)
    if found["sides"].get(side, fingerprint) != fingerprint:
        what = "imported file" if fingerprint.startswith(OF_FILE) else "adapter"
        differing.append(f"the {what} of side {side} is another one")
    if differing:
        raise UserError(
            f"{path.parent} holds answers made otherwise: {'; '.join(differing)}. Give the same settings, or another "
            "--out, or remove that folder"
        )
    if side not in found["sides"]:
        found["sides"][side] = fingerprint
        files.make_folder(path.parent)
        files.write_json(path, found)


def forget_unused(folder: Path, benchmark: str) -> None:
    """Remove a plan by which nothing was answered, as of a server that refused its settings."""
    path = plan_file(folder, benchmark)
    there = [*path.parent.glob("*.jsonl"), *path.parent.glob("*.jsonl.partial")]
    if not any(found.stat().st_size for found in there if found != prompts_file(folder, benchmark)):
        path.unlink(missing_ok=True)


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """ "key is X, was Y" for each value of `wanted` that `found` has otherwise, and for each that it alone has in a
    table of `wanted`."""
    texts = []
    for key, value in wanted.items():
        if isinstance(value, Mapping):
            inner = found.get(key)
            inner = inner if isinstance(inner, Mapping) else {}
            texts += [f"{key}.{text}" for text in _differences(inner, {**dict.fromkeys(inner), **value})]
        elif found.get(key) != value:
            texts.append(f"{key} is {value!r}, was {found.get(key)!r}")
    return texts
