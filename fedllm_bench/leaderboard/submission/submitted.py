"""What a submission's runs say, read once for all checks. Everything here was written by a stranger."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked
from typing_extensions import TypedDict  # pydantic takes that of typing from Python 3.12 on

from fedllm_bench.common.errors import first_line
from fedllm_bench.common.files import canonical_json
from fedllm_bench.config.ranks import parsed
from fedllm_bench.config.run import Method, RunConfig
from fedllm_bench.evaluation.closed.closed_folder import ClosedMaterial, read_closed
from fedllm_bench.evaluation.scoring.answered import AnsweredBenchmark, read_folder
from fedllm_bench.leaderboard.submission.bundle import Bundle
from fedllm_bench.leaderboard.submission.problems import Refused
from fedllm_bench.leaderboard.submission.recompute import (
    SeedScores,
    closed_metrics,
    known_metrics,
    open_ended_metrics,
    rescored_set,
    suite_metrics,
)
from fedllm_bench.leaderboard.submission.run_files import RunFiles
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.registry import make_method
from fedllm_bench.results.budget import MB
from fedllm_bench.results.early_stop import has_stopped, kept_round
from fedllm_bench.results.run_results import ScoreSet
from fedllm_bench.results.schema import check_results
from fedllm_bench.runs.folder import BASELINE
from fedllm_bench.scores.score import Score

SIDES = ("before", "after", "local")
MOST_ROUNDS = 100_000  # of a config: more are not derived, whatever a file says
LENIENT = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class SubmittedCheck(TypedDict):
    """The check of a round, of a run with `federation.patience`."""

    loss: float | None
    clients: int
    rows: int
    bytes_down: int
    bytes_up: int
    seconds: float


@checked(frozen=True, kw_only=True, config=LENIENT)
class Round:
    """A line of rounds.jsonl: one entry of the lists for each client, in the order of clients."""

    round: int
    lr: float
    clients: list[int]
    client_ids: list[str]
    losses: list[float | None]
    num_examples: list[int]
    steps: list[int]
    failures: list[str | None]
    bytes_up: int
    bytes_down: int
    update_norm: float
    seconds: float
    kept: list[int] | None = None  # under a rule that chooses; older runs do not say
    ranks: list[int] = field(default_factory=list)  # of clients whose adapters differ in rank
    check: SubmittedCheck | None = None

    @property
    def is_even(self) -> bool:
        lists = (self.client_ids, self.losses, self.num_examples, self.steps, self.failures)
        return all(len(values) == len(self.clients) for values in lists)


@checked(frozen=True, kw_only=True, config=LENIENT)
class SubmittedPlan:
    """A stranger's plan.json: as `PlanHead` of answering, but no key may lack and no value is converted."""

    benchmark: dict[str, Any]
    overrides: dict[str, Any]
    model: dict[str, Any]
    sides: dict[str, str]
    seed: int
    template: dict[str, Any] = field(default_factory=dict)


ROUND: TypeAdapter[Round] = TypeAdapter(Round)
ANSWER_PLAN: TypeAdapter[SubmittedPlan] = TypeAdapter(SubmittedPlan)


@dataclass(frozen=True, kw_only=True)
class PersonalStandIn(FedAvg):
    """A method of which nothing is known but that it sends, and that clients have adapters of their own."""

    personal: ClassVar[bool] = True


@dataclass(frozen=True)
class SubmittedRun:
    """The run of one seed. Each property raises a :class:`UserError` where its file is no such record."""

    files: RunFiles
    place: Path  # an empty folder, removed with the submission
    read: dict[tuple[str, str], list[Score]] = field(default_factory=dict)  # by metric and side

    @property
    def seed(self) -> int:
        return self.files.seed

    @property
    def where(self) -> str:
        return f"runs/{self.seed}"

    @cached_property
    def config(self) -> RunConfig:
        return self.files.config()

    @cached_property
    def method(self) -> FedAvg:
        """With the number of clients that results.json names, on which the noise of private runs hangs.

        A method of a plugin is never made here. FedAvg, which has the same log of rounds, stands in for it; where
        clients have adapters of their own, one that says so, or `local` where nothing was sent.
        """
        config = self.config
        if not self.has_own_method:
            return make_method(config, self.num_clients)
        personal, sent = self.results["run"]["personal"], self.results["cost"]["bytes_up"]
        if personal and sent:
            return PersonalStandIn(weighting=config.federation.weighting)
        config = replace(config, method=Method(name=BASELINE if personal else "fedavg", constants={}))
        return make_method(config, self.num_clients)

    @property
    def has_own_method(self) -> bool:
        """Whether the method is of a plugin, whose source nobody runs here."""
        return self.config.plugin_of("METHODS", self.config.method.name) is not None

    @cached_property
    def environment(self) -> dict[str, Any]:
        return _object(self.files.json("environment.json"), f"{self.where}/environment.json")

    @cached_property
    def results(self) -> dict[str, Any]:
        value = _object(self.files.json("results.json"), f"{self.where}/results.json.gz")
        try:
            check_results(value)
        except ValueError as error:
            raise Refused("record", first_line(error)[:300], f"{self.where}/results.json.gz") from error
        return value

    def plan(self, benchmark: str, kind: str = "answers") -> SubmittedPlan:
        """What a benchmark's answers were made with; `kind` "closed" for what lm-eval asked."""
        name = f"{kind}/{benchmark}/plan.json"
        try:
            return ANSWER_PLAN.validate_json(canonical_json(self.files.json(name)))
        except ValidationError as error:
            first = error.errors()[0]
            text = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise Refused("record", text[:300], f"{self.where}/{name}") from error

    @property
    def num_clients(self) -> int:
        return int(self.results["data"]["num_clients"])

    @cached_property
    def rounds(self) -> list[Round]:
        return [self._round(line, number) for number, line in enumerate(self.files.lines("rounds.jsonl"), 1)]

    @property
    def kept_rounds(self) -> list[Round]:
        """Those up to the round whose adapter the run leaves: the best one where it looked for it."""
        return self.rounds[: kept_round([vars(line) for line in self.rounds])]

    @property
    def num_bytes(self) -> int:
        """Up and down, in all rounds."""
        return sum(line.bytes_up + line.bytes_down for line in self.rounds)

    @property
    def has_its_rounds(self) -> bool:
        """Whether the log has the rounds of its config, or as many of them as its budget of bytes has room for, or
        those until its validation loss got no better.
        """
        config, done = self.config, len(self.rounds)
        if has_stopped(config, [vars(line) for line in self.rounds]):
            return done <= config.federation.rounds
        planned, allowed = config.federation.rounds, config.communication.budget_mb
        if done == planned or allowed is None or not 0 < done < planned:
            return done == planned
        of_client = max((line.bytes_down + line.bytes_up) / max(len(line.clients), 1) for line in self.rounds)
        # with privacy the number of a round's clients is drawn, so that the next round may have many
        most = config.federation.clients_per_round if config.privacy.clip is None else self.num_clients
        # with clients of several ranks the next round may be of the largest alone
        spread = (
            1.0
            if (ranks := config.lora.ranks) is None
            else config.lora.rank / min(parsed(ranks, config.lora.rank).values)
        )
        return self.num_bytes + of_client * most * spread > allowed * MB

    def _round(self, line: Any, number: int) -> Round:
        where = f"{self.where}/rounds.jsonl.gz, line {number}"
        try:
            found = ROUND.validate_json(canonical_json(line))  # JSON mode: a strict dataclass takes no dict of Python
        except ValidationError as error:
            first = error.errors()[0]
            raise Refused("record", f"{'.'.join(map(str, first['loc']))}: {first['msg']}", where) from error
        if not found.is_even:
            raise Refused("record", "lists of clients, losses, steps and failures of unequal lengths", where)
        return found

    @cached_property
    def sets(self) -> dict[str, ScoreSet]:
        """Metric -> its scores, computed again where their evidence decides them."""
        names = known_metrics(self.files)
        return {name: rescored_set(name, *(self.stored(name, side) for side in SIDES)) for name in names}

    def stored(self, metric: str, side: str) -> list[Score]:
        """The scores as they stand in the file; [] where there is none."""
        if (metric, side) not in self.read:
            self.read[metric, side] = self.files.scores(metric, side)
        return self.read[metric, side]

    @cached_property
    def folder(self) -> Path:
        """The run as a folder that the suite's own functions read."""
        return self.files.unpacked(self.place / str(self.seed))

    @cached_property
    def materials(self) -> dict[str, AnsweredBenchmark]:
        return read_folder(self.folder)

    @cached_property
    def closed(self) -> dict[str, ClosedMaterial]:
        """Closed benchmark -> its samples, each checked line by line as every other record."""
        for benchmark, side in self.files.closed_sides():
            self.files.samples(benchmark, side)
        return read_closed(self.folder)

    @cached_property
    def scores(self) -> SeedScores:
        answered = {**closed_metrics(self.closed), **open_ended_metrics(self.materials)}
        metrics = {**suite_metrics(self.sets), **answered}
        return SeedScores(seed=self.seed, metrics=metrics)


@dataclass(frozen=True)
class Submitted:
    bundle: Bundle
    runs: Sequence[SubmittedRun] = field(default_factory=list)

    @property
    def is_canary(self) -> bool:
        return self.bundle.submission.kind == "canary"

    @property
    def is_of_suite(self) -> bool:
        """Whether the runs say that this suite made them; other work can enter open tracks only."""
        return bool(self.bundle.submission.suite.version)


@contextmanager
def reading(bundle: Bundle) -> Iterator[Submitted]:
    """The submission with room to unpack its runs."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedllm-bench-")))
        yield Submitted(bundle, [SubmittedRun(files, place) for files in bundle.runs()])


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused("record", "not a JSON object", where)
    return value
