"""Which setting is tried next: a pure function of the space, of what was tried, and of the trial's number.

Each proposal has a sampler of optuna of its own, seeded by the number of the trial, and is told all that ended before.
So a search that was killed is done again from its trials, and proposes the same: nothing is stored but the trials.

random   (Bergstra and Bengio, 2012) values drawn at random.
tpe      the Tree-structured Parzen Estimator (Bergstra et al., 2011): where good trials are denser than bad ones.
halving  successive halving (Jamieson and Talwalkar, 2016, arXiv:1502.07943), on values drawn at random: all trials at
         a small budget, the best third of them at three times as much, and so on to the whole budget. optuna's own
         pruner is the asynchronous one, whose choice hangs on which run ends first; a resumed search would differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.tuning.space import Dimension, Setting, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

Search = Literal["tpe", "random", "halving"]
SEARCHES: tuple[Search, ...] = get_args(Search)
AT_RANDOM = 5  # trials of tpe beside the default that are drawn before anything is known
AT_ONCE = 4  # trials of tpe that are proposed from the same knowledge, on any machine, so that they can run at once
REDUCTION = 3  # of the trials, from one budget of successive halving to the next
MOST_RUNGS = 3  # below a ninth of the rounds little is left of a training
TRIES = 50  # to draw a setting that was not tried; after as many the space has no more


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A setting that was tried. `value` is None where it has none; `is_running`: it is proposed, and has not ended."""

    setting: Setting
    value: float | None = None
    is_running: bool = False


def check_installed() -> None:
    """Raise a :class:`UserError` where optuna is missing; asked before anything is run."""
    if find_spec("optuna") is None:
        raise UserError("tune needs the package optuna; type: pip install 'fedllm-bench[tune]'")


def check_search(name: str) -> Search:
    for known in SEARCHES:
        if name == known:
            return known
    raise unknown("search", name, SEARCHES, "--search")


def next_count(search: Search, done: int, trials: int) -> int:
    """How many trials are proposed together after `done` of `trials`; the default is the first one."""
    if search != "tpe":
        return trials - done
    return min(AT_RANDOM + 1 if done < AT_RANDOM + 1 else AT_ONCE, trials - done)


def propose(
    space: Sequence[Dimension], tried: Sequence[Tried], number: int, *, search: Search, seed: Sequence[int], least: bool
) -> dict[str, Value] | None:
    """The setting of trial `number`, which nobody tried; None where the space seems to have no other.

    `seed` are those that the trials run with; `least`: whether a lower value is better.
    """
    for attempt in range(TRIES):
        entropy = np.random.SeedSequence([*seed, number, attempt])
        sampler = _sampler(search, number, int(entropy.generate_state(1)[0]))
        # a draw at random looks at nothing, and to tell it all that was tried takes hours in ten thousand trials
        found = _drawn(space, tried if _learns(search, number) else (), sampler, least=least)
        if not any(found == each.setting for each in tried):
            return found
    return None


def _sampler(search: Search, number: int, seed: int) -> BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    if _learns(search, number):
        return TPESampler(seed=seed, n_startup_trials=1, constant_liar=True)
    return RandomSampler(seed=seed)


def _learns(search: Search, number: int) -> bool:
    return search == "tpe" and number > AT_RANDOM


def _drawn(
    space: Sequence[Dimension], tried: Sequence[Tried], sampler: BaseSampler, *, least: bool
) -> dict[str, Value]:
    """One draw of `sampler`, which is told what was tried within the space."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler, direction="minimize" if least else "maximize")
    distributions = {each.key: _distribution(each) for each in space}
    inside = [each for each in tried if all(one.holds(each.setting[one.key]) for one in space)]
    study.add_trials([_frozen(each, space, distributions) for each in inside])
    drawn = study.ask(distributions).params
    return {each.key: drawn[each.key] if each.kind == "choice" else each.rounded(drawn[each.key]) for each in space}


def _distribution(dimension: Dimension) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.kind == "choice":
        return CategoricalDistribution(dimension.choices)
    if dimension.kind == "int":
        return IntDistribution(int(dimension.low), int(dimension.high))
    return FloatDistribution(dimension.low, dimension.high, log=dimension.kind == "log")


def _frozen(each: Tried, space: Sequence[Dimension], distributions: dict[str, BaseDistribution]) -> FrozenTrial:
    """What optuna is told. A trial without a value failed, and says nothing."""
    from optuna.trial import TrialState, create_trial

    states = {(True, True): TrialState.RUNNING, (True, False): TrialState.FAIL, (False, False): TrialState.COMPLETE}
    return create_trial(
        state=states[each.value is None, each.is_running],
        value=each.value,
        params={one.key: each.setting[one.key] for one in space},
        distributions=distributions,
    )


# --- successive halving


def rungs(search: Search, whole: int, trials: int) -> tuple[int, ...]:
    """Budgets (rounds, or clients of a round) in ascending order, the last one is the whole.

    No more than the trials can be thinned out for, and none below 1.
    """
    if search != "halving":
        return (whole,)
    count = min(MOST_RUNGS, 1 + math.floor(math.log(max(1, trials), REDUCTION)))
    return tuple(sorted({max(1, round(whole / REDUCTION**step)) for step in range(count)}))


def promoted(values: Sequence[float | None], *, least: bool) -> list[int]:
    """The places of the best third of the values, at least one and the first, in order; those without one are last.

    The first trial is the default, with which the others are compared in the end.
    """
    known = [(value if least else -value, place) for place, value in enumerate(values) if value is not None]
    best = [place for _, place in sorted(known)[: math.ceil(len(values) / REDUCTION)]]
    return sorted({0, *best})
