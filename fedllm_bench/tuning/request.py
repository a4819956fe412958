"""What was asked of a search, and what of it can be known to be wrong before anything is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError, shown, unknown
from fedllm_bench.config import presets
from fedllm_bench.config.option_names import no_method
from fedllm_bench.config.run import RunConfig, dotted
from fedllm_bench.config.setting_words import setting_words
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.grid import GridCell, Request, check_overrides, parse_seeds
from fedllm_bench.scores.tuning_seeds import FIRST_FOR_TUNING, reported
from fedllm_bench.tuning.search import Search, rungs
from fedllm_bench.tuning.space import Dimension, Setting

Fidelity = Literal["rounds", "clients"]
FIDELITIES = {"rounds": "federation.rounds", "clients": "federation.clients_per_round"}  # the keys of each
WORLD = "data.world_seed"
MOST_TRIALS = 10_000
MOST_CONFIRM = 1000


def parse_tuning_seeds(text: str) -> tuple[int, ...]:
    """As :func:`parse_seeds`; a :class:`UserError` for a seed with which results may be reported."""
    seeds = parse_seeds(text)
    if found := reported(seeds):
        raise UserError(
            f"--seeds {text}: seeds below {FIRST_FOR_TUNING} are reported, {found[0]} among them, and settings are "
            f"never chosen on them; give seeds from {FIRST_FOR_TUNING} on, such as {FIRST_FOR_TUNING}"
        )
    return seeds


def check_fidelity(name: str) -> Fidelity:
    for known in get_args(Fidelity):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise unknown("fidelity", name, FIDELITIES, "--fidelity")


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """`run` has the data set, the one method, the seeds of the search and the words of --set, which all trials share.

    `trials` counts the default, which is the first. `confirm`: how many more seeds the chosen setting and the default
    are compared on.
    """

    run: Request
    space: tuple[Dimension, ...]
    trials: int
    search: Search
    fidelity: Fidelity = "rounds"
    metric: str = "heldout"
    confirm: int = 3

    @property
    def method(self) -> str:
        return self.run.methods[0]

    @property
    def confirm_seeds(self) -> tuple[int, ...]:
        """Seeds that the search does not see, and that are not reported either."""
        first = max(self.run.seeds) + 1
        return tuple(range(first, first + self.confirm))

    def with_words(self, words: Sequence[str]) -> Request:
        """`run` with more words of --set, which win."""
        return replace(self.run, overrides=(*self.run.overrides, *words))


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A search whose split is open. `first` is the default's cell with the first seed."""

    asked: TuneRequest
    first: Cell

    @cached_property
    def default(self) -> Setting:
        """The preset's values of what is searched."""
        return values_at(self.first.config, [each.key for each in self.asked.space])

    @property
    def budget_key(self) -> str:
        return FIDELITIES[self.asked.fidelity]

    @property
    def budgets(self) -> tuple[int, ...]:
        """Rounds, or clients of a round, that trials get, in ascending order; of all but halving there is one."""
        federation = self.first.config.federation
        whole = federation.rounds if self.asked.fidelity == "rounds" else federation.clients_per_round
        return rungs(self.asked.search, whole, self.asked.trials)

    @cached_property
    def folder(self) -> Path:
        """OUT/<data set>/tune-<hash>: more trials, or more seeds that confirm, go on in the same folder."""
        asked = self.asked
        about = {
            "cell": self.first.hash,
            "space": [vars(each) for each in asked.space],
            "search": [asked.search, asked.fidelity if asked.search == "halving" else ""],
            "metric": asked.metric,
            "seeds": asked.run.seeds,
        }
        return self.first.root / self.first.split.name / f"tune-{files.sha256_json(about)[:10]}"

    def cells(self, setting: Setting, seeds: Sequence[int], label: str, budget: int | None = None) -> list[GridCell]:
        """One cell for each seed; `budget` is None for the whole one. The default's are runs of the preset itself."""
        words = () if setting == self.default else setting_words(setting)
        if budget is not None and budget != self.budgets[-1]:
            words = (*words, f"{self.budget_key}={budget}")
        request, method = self.asked.with_words(words), self.asked.method
        return [
            GridCell(cell=self.first.like(request.config(method, seed)), words=request.words(method, seed), label=label)
            for seed in seeds
        ]


def values_at(config: RunConfig, keys: Sequence[str]) -> Setting:
    """The values of these keys of --set; a setting that is off, and has no value, is "none"."""
    flat = dotted(config.every_value())
    found = {key: flat[key.replace("method.", "method.constants.", 1)] for key in keys}
    return {key: "none" if value is None else value for key, value in found.items()}


def own_words(run: Request, *, personal: bool) -> tuple[str, ...]:
    """What a trial has otherwise than a run of the preset, unless the user says otherwise.

    A world of its own, whose users are not those that are reported; and one client of the baseline `local`, which no
    trial needs. A personal method is scored on the clients of the baseline, so there it stays.
    """
    world = [f"{WORLD}={FIRST_FOR_TUNING}"] if run.profile == "mini" and run.split is None else []
    return (*world, *([] if personal else ["evaluation.local_clients=1"]))


def check_request(asked: TuneRequest) -> RunConfig:
    """The default's config with the first seed.

    Raises a :class:`UserError` for what cannot be searched, for ends of a range that no run takes, and for a world or
    metric that cannot be chosen on.
    """
    run, method = asked.run, asked.method
    if asked.trials > MOST_TRIALS:
        raise UserError(f"--trials {asked.trials}: that is too many; give 2 to {MOST_TRIALS:,}")
    if asked.trials < 2:
        raise UserError(f"--trials {asked.trials}: the first trial is the default; give 2 or more")
    if asked.confirm > MOST_CONFIRM or max(run.seeds) + asked.confirm >= 2**31:
        raise UserError(f"--confirm {asked.confirm}: seeds that confirm follow {max(run.seeds)}, must be below 2**31, "
                        f"and at most {MOST_CONFIRM} of them; give fewer, or smaller --seeds")  # fmt: skip
    if method not in presets.method_names():
        raise no_method(method, presets.method_names())
    check_overrides(run.overrides, run.names)
    config = run.config(method, run.seeds[0])
    _check_keys(asked)
    world = config.data.world_seed
    if run.profile == "mini" and run.split is None and reported([world]):
        raise UserError(
            f"--set {WORLD}={world}: worlds below {FIRST_FOR_TUNING} are reported, and settings are never chosen on "
            f"them; give {FIRST_FOR_TUNING} or more, or leave it out"
        )
    if asked.metric not in config.evaluation.metrics:
        raise unknown("metric", asked.metric, config.evaluation.metrics, "--metric is one of --metrics of the run")
    check_ends(asked, lambda config: None)
    return config


def _check_keys(asked: TuneRequest) -> None:
    """What the search sets is set by nothing else."""
    keys = {each.key for each in asked.space}
    given = {word.partition("=")[0].strip() for word in asked.run.settings_of(asked.method)}
    if both := sorted(keys & given):
        raise UserError(f"{both[0]} is in --space and in --set; give it in one of them")
    budget = FIDELITIES[asked.fidelity]
    if asked.search != "halving" and asked.fidelity != "rounds":
        raise UserError(
            f"--fidelity {asked.fidelity}: it is for --search halving, and the search is {asked.search}; leave it out, "
            "or give --search halving"
        )
    if asked.search == "halving" and budget in keys:
        raise UserError(f"--space {budget}: --search halving sets it; leave it out, or give another --fidelity")


def check_ends(asked: TuneRequest, check: Callable[[RunConfig], object]) -> None:
    """Each end of the space, and each choice, is a value that some run takes, as far as its config and `check` say.

    Some settings are allowed only beside others. So the others of the space are at the default, then at their first
    values, then at their last ones. Raises the :class:`UserError` of the first of these where all are refused.
    """
    for dimension in asked.space:
        others = [each for each in asked.space if each is not dimension]
        beside = [{}, *({each.key: each.ends[place] for each in others} for place in (0, -1) if others)]
        for value in dimension.ends:
            problems = [_problem(asked, {**setting, dimension.key: value}, check) for setting in beside]
            if problems[0] and all(problems):
                hint = "; write int: before a range of whole numbers" if "valid integer" in problems[0] else ""
                raise UserError(f"--space {shown(dimension.key)[1:-1]}: {problems[0]}{hint}")


def check_effects(opened: Opened) -> None:
    """Raise a :class:`UserError` for a setting of the space that changes no run: its trials would all be the same."""
    asked = opened.asked
    for dimension in asked.space:
        configs = [
            asked.with_words(setting_words({dimension.key: value})).config(asked.method, asked.run.seeds[0])
            for value in dimension.ends
            if not _problem(asked, {dimension.key: value}, lambda config: None)
        ]
        if len({opened.first.like(config).hash for config in configs}) < len(configs):
            raise UserError(f"--space {dimension.key}: it changes no result of {asked.method}; leave it out")


def check_default(opened: Opened, check: Callable[[Cell], object]) -> None:
    """The default is run with each budget, so what is wrong with it is said before anything is run."""
    for budget in opened.budgets:
        (found,) = opened.cells(opened.default, opened.asked.run.seeds[:1], "default", budget)
        try:
            check(found.cell)
        except UserError as error:
            if budget == opened.budgets[-1]:
                raise
            raise UserError(f"--search halving begins with {opened.budget_key}={budget}: {error}") from error


def _problem(asked: TuneRequest, setting: Setting, check: Callable[[RunConfig], object]) -> str:
    """Why no run takes this setting; "" where one does."""
    try:
        check(asked.with_words(setting_words(setting)).config(asked.method, asked.run.seeds[0]))
    except UserError as error:
        return str(error)
    return ""
