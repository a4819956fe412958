"""The search: trials are proposed, run several at once, and looked at, until there are as many as were asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import counted
from fedllm_bench.pipeline.grid_progress import Progress, Tell
from fedllm_bench.pipeline.grid_run import reasons_of, run_at_once
from fedllm_bench.runs.grid import GridCell, queue
from fedllm_bench.tuning.request import Opened
from fedllm_bench.tuning.search import Tried, next_count, promoted, propose
from fedllm_bench.tuning.space import Setting
from fedllm_bench.tuning.trials import DEFAULT, Trial, label_of, reason_of

Reached = Callable[[Sequence["Trial"]], None]  # called with all trials so far, each time some have ended


@dataclass
class Session:
    """Runs cells for a search, and keeps what is known of them. `codes` are exit codes of runs that failed."""

    opened: Opened
    jobs: int
    tell: Tell
    bar: bool = True
    codes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        total = self.num_runs()
        self.progress = Progress(total, total, min(self.jobs, total), self.tell, bar=self.bar)

    def num_runs(self) -> int:
        """How many runs the whole search has, those that confirm it among them; fewer where the space is small."""
        asked, count, total = self.opened.asked, self.opened.asked.trials, 0
        for _ in self.opened.budgets:
            total += count * len(asked.run.seeds)
            count = len(promoted([None] + [0.0] * (count - 1), least=True))
        return total + 2 * asked.confirm

    def run(self, cells: Sequence[GridCell]) -> dict[tuple[str, int], str]:
        """Run those that have not ended; why some have no results, by label and seed."""
        waiting = queue(cells)
        self.progress.found(len(cells) - len(waiting))
        reasons = _refused(waiting)
        able = [each for each in waiting if each.key not in reasons]
        self.progress.found(len(reasons))
        ended = run_at_once(able, self.opened.folder, self.jobs, self.progress) if able else []
        self.codes += [each.code for each in ended if each.reason]
        return reasons | reasons_of(ended)

    def trials(self, numbered: Sequence[tuple[int, Setting]], budget: int) -> list[Trial]:
        """These settings with this budget, run."""
        whole = budget == self.opened.budgets[-1]
        planned = [self._planned(number, setting, budget, whole=whole) for number, setting in numbered]
        reasons = self.run([cell for each in planned for cell in each.cells])
        return [replace(each, reason=reason_of(each.cells, reasons)) for each in planned]

    def _planned(self, number: int, setting: Setting, budget: int, *, whole: bool) -> Trial:
        label = label_of(number, budget, whole=whole)
        cells = self.opened.cells(setting, self.opened.asked.run.seeds, label, budget)
        return Trial(number=number, setting=setting, budget=budget, cells=tuple(cells))


def _refused(waiting: Sequence[GridCell]) -> dict[tuple[str, int], str]:
    """The cells that can be known to fail, and why. The default must be able to run, so of it this is raised."""
    if not waiting:
        return {}
    from fedllm_bench.runs.loading import check_cell  # loads torch

    reasons: dict[tuple[str, int], str] = {}
    for each in waiting:
        try:
            check_cell(each.cell)
        except UserError as error:
            if each.method.startswith(label_of(DEFAULT, 0, whole=True)):
                raise
            reasons[each.key] = str(error)
    return reasons


def search(session: Session, reached: Reached = lambda trials: None) -> list[Trial]:
    """All trials, those of small budgets first; fewer than asked for where the space has no more."""
    opened = session.opened
    found = _first_budget(session, reached)
    budgets = opened.budgets
    latest = found
    for budget in budgets[1:]:
        values = [each.value(opened.asked.metric) for each in latest]
        kept = [latest[place] for place in promoted(values, least=least(latest, opened.asked.metric))]
        session.tell(f"{counted(len(kept), 'trial', 'go')} on, the default among them: {opened.budget_key}={budget}")
        latest = session.trials([(each.number, each.setting) for each in kept], budget)
        found = [*found, *latest]
        reached(found)
    return found


def _first_budget(session: Session, reached: Reached) -> list[Trial]:
    """Trials at the smallest budget, which for all searches but halving is the whole one."""
    opened, asked = session.opened, session.opened.asked
    found: list[Trial] = []
    while (count := next_count(asked.search, len(found), asked.trials)) > 0:
        settings = _proposed(session, found, count)
        numbered = list(enumerate(settings, start=len(found)))
        if not numbered:
            session.tell(f"the space has no setting that was not tried: {counted(len(found), 'trial')} in place of "
                         f"{asked.trials}")  # fmt: skip
            break
        session.tell(_about(numbered))
        found += session.trials(numbered, opened.budgets[0])
        reached(found)
    return found


def _proposed(session: Session, found: Sequence[Trial], count: int) -> list[Setting]:
    """The default first; as many as `count`, or fewer where there are no more."""
    opened, asked = session.opened, session.opened.asked
    tried = [Tried(setting=each.setting, value=each.value(asked.metric)) for each in found]
    settings: list[Setting] = []
    while len(settings) < count:
        place = len(tried)
        setting: Setting | None = opened.default
        if place > DEFAULT:
            setting = propose(
                asked.space, tried, place, search=asked.search, seed=asked.run.seeds, least=least(found, asked.metric)
            )
        if setting is None:
            break
        settings.append(setting)
        tried.append(Tried(setting=setting, is_running=True))
    return settings


def least(trials: Sequence[Trial], metric: str) -> bool:
    """Whether a lower value is better, as the first trial with results says."""
    known = [each.metrics[metric]["higher_is_better"] for each in trials if each.metrics]
    return not known[0] if known else True


def _about(numbered: Sequence[tuple[int, Setting]]) -> str:
    first, last = numbered[0][0], numbered[-1][0]
    names = f"Trial {first}" if first == last else f"Trials {first} to {last}"
    return f"{names}{' (0 is the default)' if first == DEFAULT else ''}"


def best_of(trials: Sequence[Trial], metric: str, budget: int) -> Trial | None:
    """The best one with the whole budget, the first of equal ones; None where none has a value."""
    whole = [(each.value(metric), each) for each in trials if each.budget == budget]
    known = [(value, each) for value, each in whole if value is not None]
    sign = 1 if least(trials, metric) else -1
    return min(known, key=lambda pair: (sign * pair[0], pair[1].number))[1] if known else None
