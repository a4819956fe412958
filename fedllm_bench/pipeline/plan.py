"""plan.json of a run folder: what its first session chose and each later one keeps, since the bits depend on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError

PLAN = "plan.json"
VERSION = 2  # 1 stacked the micro-batches of clients, padded to the longest row of all
Positive = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`threads` and `block_size` are the run's own.

    `pass_tokens` are the most tokens of a pass (`training/passes.py`), None where it holds one micro-batch of each
    client: under version 1, and where what a row becomes depends on who shares its pass. `packed`: whether sequences
    lie in it one behind another, without padding.
    `baseline_threads` are those of the baseline `local` in a process beside it, None where it is trained afterwards,
    in the run's process and with the run's threads.
    """

    threads: Positive
    block_size: Positive
    version: int = 1
    pass_tokens: Positive | None = None
    packed: bool | None = None
    baseline_threads: Positive | None = None


@dataclass(frozen=True)
class _Versioned:
    version: int = 1


_PLAN, _VERSION = TypeAdapter(Plan), TypeAdapter(_Versioned)


def read_plan(folder: Path) -> Plan | None:
    """The plan of a run folder; None where no session has begun it. Keys that are not known here are passed over.

    Raises a :class:`UserError` for a plan of a version that is not known here, and for a broken one.
    """
    path = folder / PLAN
    if not path.is_file():
        return None
    content = path.read_bytes()
    try:
        version = _VERSION.validate_json(content, strict=True).version
        if version in (1, VERSION):
            return _PLAN.validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise UserError(
            f"{path} is broken ({where}{first['msg']}); restore it, or remove it: the run then goes on, with sums that "
            "may be rounded otherwise"
        ) from error
    raise UserError(
        f"{path}: got version {version} of the plan, and this one knows 1 and {VERSION}; finish the run with the newer "
        "release that began it, or give another OUT"
    )


def write_plan(folder: Path, plan: Plan) -> Plan:
    """The plan of a run that begins."""
    files.write_json(folder / PLAN, {key: value for key, value in asdict(plan).items() if value is not None})
    return plan
