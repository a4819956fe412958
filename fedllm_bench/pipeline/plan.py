"""plan.json of a run folder: what its first session chose and each later one keeps, since the bits depend on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError

PLAN = "plan.json"
VERSION = 2  # 1 stacked the micro-batches of clients, padded to the longest row of all


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`threads` and `block_size` are the run's own.

    `pass_tokens` are the most tokens of a pass (`training/passes.py`), None where it holds one micro-batch of each
    client: under version 1, and where what a row becomes depends on who shares its pass.
    `baseline_threads` are those of the baseline `local` in a process beside it, None where it is trained afterwards,
    in the run's process and with the run's threads.
    """

    threads: int
    block_size: int
    version: int = 1
    pass_tokens: int | None = None
    baseline_threads: int | None = None


def read_plan(folder: Path) -> Plan | None:
    """The plan of a run folder; None where no session has begun it. Keys that are not known here are passed over.

    Raises a :class:`UserError` for a plan of a version that is not known here.
    """
    path = folder / PLAN
    if not path.is_file():
        return None
    values: dict[str, Any] = files.read_json(path)
    if values.get("version", 1) not in (1, VERSION):
        raise UserError(
            f"{path}: got version {values['version']!r} of the plan, and this one knows 1 and {VERSION}; finish the "
            "run with the newer release that began it, or give another OUT"
        )
    return Plan(**{key: values[key] for key in Plan.__dataclass_fields__ if key in values})


def write_plan(folder: Path, plan: Plan) -> Plan:
    """The plan of a run that begins."""
    files.write_json(folder / PLAN, {key: value for key, value in asdict(plan).items() if value is not None})
    return plan
