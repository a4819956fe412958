"""The clients of a round by the model that they began from, and the older models that are kept for those at work.

A model that somebody at work began from is a file of its own beside the checkpoint, written whole or not at all before
the checkpoint that replaces it, and removed once the checkpoint stands after which nobody needs it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedllm_bench.config.clock.section import VirtualClock
from fedllm_bench.methods.base import Server
from fedllm_bench.training.checkpoint import changed, read_server, write_server
from fedllm_bench.training.clock.timeline import Timeline

LEAST_WEIGHT = 1e-6  # of the freshest upload of a round


@dataclass(frozen=True)
class Cohort:
    """Clients who began from the same `server`.

    Their uploads are added up by their weights times `discount`, and the sum is divided by that of the weights times
    `counts`.
    """

    server: Server
    clients: Sequence[int]
    discount: float = 1.0
    counts: float = 1.0


@dataclass(frozen=True)
class Versions:
    """Older servers on disk, by the number of aggregations that they had made."""

    folder: Path

    def keep(self, server: Server) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_server(self._of(server.round), server)

    def get(self, version: int, like: Server) -> Server:
        """That with the names and shapes of `like`.

        Raises a :class:`UserError` where there is another one or none, so that the folder was changed.
        """
        path = self._of(version)
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise changed(path, "it is no file")
        try:
            server = read_server(path, like)
        except OSError as error:
            raise changed(
                path, f"the model that clients at work began from cannot be read ({error.strerror})"
            ) from error
        if server.round != version:
            raise changed(path, "it is of another round than its name says")
        return server

    def keep_only(self, needed: Collection[int]) -> None:
        """Remove all others; call it once the checkpoint stands after which nobody needs them."""
        wanted = {self._of(version) for version in needed}
        for path in self.folder.glob("v*.safetensors"):
            if path not in wanted:
                path.unlink()

    def _of(self, version: int) -> Path:
        return self.folder / f"v{version:06d}.safetensors"


def versions_of(folder: Path) -> Versions:
    """Those of the run in `folder`."""
    return Versions(folder / "checkpoint" / "versions")


def cohorts_of(
    clock: VirtualClock, timeline: Timeline | None, versions: Versions, server: Server, present: Sequence[int]
) -> Iterator[Cohort]:
    """Those of the round that `server` begins: one after another, as each may be another model in memory.

    Without a clock all the clients who are `present` are one.
    """
    if timeline is None:
        yield Cohort(server, present)
        return
    found = timeline.cohorts(server.round)
    least = _counted_from(clock, [server.round - version for version in found])
    for version, clients in found.items():
        factor = discount(clock, server.round - version, least)
        began = server if version == server.round else versions.get(version, server)
        yield Cohort(began, clients, factor, 1.0 if clock.published else factor)


def _counted_from(clock: VirtualClock, ages: Sequence[int]) -> int:
    """The staleness whose discount is 1: none, but where a float32 would lose uploads that all weigh very little.

    What is divided by the sum of its weights may be weighed by the ratios of these.
    """
    freshest = min(ages, default=0)
    return freshest if not clock.published and discount(clock, freshest) < LEAST_WEIGHT else 0


def discount(clock: VirtualClock, staleness: int, least: int = 0) -> float:
    """(1 + tau)^-a over that of the `least` staleness; exactly 1 for what is not staler than that."""
    return float(((1 + staleness) / (1 + least)) ** -clock.staleness_discount)


def kept_version(timeline: Timeline | None, versions: Versions, before: Server) -> None:
    """Keep the server that a round began with, where somebody who is still at work began from it.

    Call it before the checkpoint of the round is written.
    """
    if timeline is not None and before.round in timeline.needed_after(before.round):
        versions.keep(before)


def without_old(timeline: Timeline | None, versions: Versions, round_num: int) -> None:
    """Remove the servers that no round behind `round_num` needs; call it once the checkpoint of that one stands."""
    if timeline is not None:
        versions.keep_only(timeline.needed_after(round_num))
