"""Whether a judge may be paid, and whether it was stopped because of its cost."""

from __future__ import annotations

from collections.abc import Mapping

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.judges.preset import Preset
from fedllm_bench.evaluation.judges.window import NOT_AFFORDED
from fedllm_bench.evaluation.judging.judging import Judge


def is_allowed(preset: Preset, *, max_cost: float | None, is_unlimited: bool = False) -> bool:
    """A judge that costs nothing always is; another one with a limit in US dollars, or without one where asked for."""
    return preset.is_free or is_unlimited or max_cost is not None


def check_allowed_now(preset: Preset, *, max_cost: float | None, is_unlimited: bool = False) -> None:
    """Raise a :class:`UserError` now for what would be refused after hours of answering."""
    if not is_allowed(preset, max_cost=max_cost, is_unlimited=is_unlimited):
        raise UserError(f"the judge {preset.id} is paid: add --max-cost USD or --yes")


def check_stopped(judge: Judge, max_cost: float | None, reasons: Mapping[str, str]) -> None:
    """Raise a :class:`UserError` where questions were not asked because `max_cost` US dollars would not suffice."""
    if NOT_AFFORDED in reasons.values():
        raise UserError(f"stopped before --max-cost {max_cost:g} was exceeded (${judge.budget.spent:.4f} spent); what "
                        "came is kept: give the same command with more")  # fmt: skip
