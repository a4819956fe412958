"""Whether the chosen setting beats the default on seeds that were not used for it, paired as `compare` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import number
from fedllm_bench.comparison.run_scores import side_of
from fedllm_bench.report.page.comparison import compared
from fedllm_bench.tuning.searching import Session
from fedllm_bench.tuning.trials import DEFAULT, Trial, reason_of

Verdict = Literal["better", "worse", "not told apart", "the default", "not asked", "failed"]
VERDICTS: Mapping[str, Verdict] = {"A": "better", "B": "worse"}


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """`comparison` is that of `compare` (docs/comparing.md), A the chosen setting and B the default, or None."""

    verdict: Verdict
    sentence: str
    seeds: tuple[int, ...] = ()
    comparison: Mapping[str, Any] | None = None


def confirm(session: Session, chosen: Trial) -> Confirmation:
    """Run the chosen setting and the default on the seeds that confirm, and compare them."""
    asked, opened = session.opened.asked, session.opened
    if chosen.number == DEFAULT:
        text = "No trial was better than the default, which is chosen; there is nothing to confirm."
        return Confirmation(verdict="the default", sentence=text)
    if not asked.confirm:
        return Confirmation(verdict="not asked", sentence="Not compared with the default on other seeds (--confirm 0).")
    seeds = asked.confirm_seeds
    session.tell(f"Trial {chosen.number} and the default on {_seeds(seeds)}, which the search has not seen")
    ours = opened.cells(chosen.setting, seeds, "chosen")
    theirs = opened.cells(opened.default, seeds, "default")
    reasons = session.run([*theirs, *ours])
    if reasons:
        side = "the chosen setting" if (why := reason_of(ours, reasons)) else "the default"
        text = f"Not compared with the default: {side} failed with {why or reason_of(theirs, reasons)}."
        return Confirmation(verdict="failed", sentence=text, seeds=seeds)
    try:
        chosen_runs, default_runs = (side_of([each.folder for each in cells]) for cells in (ours, theirs))
        return confirmed(compared(chosen_runs, default_runs, [asked.metric]), seeds)
    except UserError as error:  # both sides were asked for alike, so one of them was changed
        raise UserError(f"{error}; delete the folder of that run, and give the same command to run it again") from error


def confirmed(comparison: Mapping[str, Any], seeds: Sequence[int]) -> Confirmation:
    """The verdict over seeds; with one seed that of its clients, and nothing is said of other seeds."""
    row = (comparison["methods"] or comparison["models"])[0]
    verdict = VERDICTS.get(row["verdict"], "not told apart")
    was = "was" if len(seeds) == 1 else "were"
    says = {
        "better": f"The chosen setting beats the default on {_seeds(seeds)}, which {was} not used to choose it",
        "worse": f"The chosen setting does not beat the default: it is worse on {_seeds(seeds)}",
        "not told apart": f"The chosen setting does not beat the default on {_seeds(seeds)}: nothing tells them apart",
    }[verdict]
    means = f"{row['metric']} {number(row['mean_a'])} against {number(row['mean_b'])}"
    alone = "" if comparison["methods"] else "; one seed says nothing about other seeds"
    sentence = f"{says} ({means}; A is the chosen one, B the default: {row['sentence']}{alone})."
    return Confirmation(verdict=verdict, sentence=sentence, seeds=tuple(seeds), comparison=comparison)


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
