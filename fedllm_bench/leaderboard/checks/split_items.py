"""What a split says that a run must have: its clients and their rows, and the items of each metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fedllm_bench.common.files import read_json
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.dealing.kept_apart import num_apart
from fedllm_bench.data.manifest import Split
from fedllm_bench.data.published import ORDER_FILE
from fedllm_bench.data.rows import PreferenceRow
from fedllm_bench.leaderboard.submission.problems import Refused
from fedllm_bench.leaderboard.submission.submitted import MOST_ROUNDS, SubmittedRun
from fedllm_bench.metrics.items import HELDOUT, Item
from fedllm_bench.metrics.sample import is_sampled, sampled, trained_alone
from fedllm_bench.metrics.user_answers import EditF05
from fedllm_bench.mini.probes import Probe, load_probes, probe_key
from fedllm_bench.training.faults import participants

Key = tuple[str, str]  # client, row
AnyItem = Item[Any, Any]  # here without tokens


def _every(_: AnyItem) -> bool:
    return True


# Metrics that score some of the rows.
WANTED: dict[str, Callable[[AnyItem], bool]] = {
    "mini_exact": lambda item: bool(item.task),
    "mini_choice": lambda item: len(item.choices) > 1,
    "mini_refusal": lambda item: item.task == "harmful",
    "edit_f05": lambda item: EditF05().asks(item.row),
}


@dataclass(frozen=True)
class Expected:
    """One item that a metric must score: its group, and what its evidence must say, where that is known."""

    group: Mapping[str, str]
    prompt: str
    right: str


@dataclass(frozen=True)
class SplitItems:
    """A split without its tokens: nothing of a base model is needed to read it.

    `config`: of the run that is checked, which may score a sample of the held-out rows; None where all are to be there.
    """

    split: Split
    config: RunConfig | None = None

    @property
    def ids(self) -> list[str]:
        return [client.id for client in self.split.manifest.clients]

    @property
    def sizes(self) -> list[int]:
        """Rows of each client that a run trains on, without those that it keeps apart, and with those that it may have
        skipped as without a counted token.
        """
        share = self.config.federation.kept_apart if self.config else 0.0
        return [client.train - num_apart(client.train, share) for client in self.split.manifest.clients]

    @cached_property
    def file_order(self) -> tuple[int, ...]:
        """As `Clients.file_order`: the published schedule counts clients in the order of the published file."""
        if ORDER_FILE not in self.split.manifest.files:
            return ()
        place = {client: index for index, client in enumerate(self.ids)}
        return tuple(place[client] for client in read_json(self.split.folder / ORDER_FILE) if client in place)

    @cached_property
    def items(self) -> list[AnyItem]:
        """The held-out rows that the run must have scored: all, or the sample that its config gives."""
        every = list(self._items())
        return every if self.config is None else sampled(every, self.split, self.config.evaluation)

    def _items(self) -> Iterator[AnyItem]:
        probes = load_probes(self.split)
        for part in HELDOUT:
            for row in self.split.task_rows(part):
                probe = probes.get(probe_key(row), Probe())
                kind = "heldout" if part == "heldout" else "unseen"
                yield Item(row, None, kind, probe.task, probe.holder, probe.choices)  # type: ignore[arg-type]

    def of_metric(self, metric: str) -> dict[Key, Expected]:
        """The items that a metric scores, of clients and unseen users."""
        wanted = WANTED.get(metric, _every)
        return {(i.row.client_id, i.row.row_id): _expected(i) for i in self.items if wanted(i)}

    def local_sample(self, run: SubmittedRun) -> list[int]:
        """The clients of the baseline `local`, as `Bench.local_sample` chooses them."""
        config = run.config
        if config.federation.rounds > MOST_ROUNDS:
            raise Refused("rounds", f"more than {MOST_ROUNDS} rounds", f"{run.where}/config.json")
        count = config.evaluation.local_clients
        visited = participants(config, len(self.ids), self.file_order) if count else ()
        return trained_alone(self.sizes, visited, count, self._scored if is_sampled(config.evaluation) else None)

    @property
    def _scored(self) -> set[int]:
        named = {item.row.client_id for item in self.items}
        return {place for place, client in enumerate(self.ids) if client in named}


def _expected(item: AnyItem) -> Expected:
    row = item.row
    if isinstance(row, PreferenceRow):
        return Expected(item.group, "", "")
    return Expected(item.group, row.prompt, row.completion.strip())
