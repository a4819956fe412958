"""The timeline in words, and as the file of a run folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import canonical_json, read_jsonl, write_jsonl
from fedllm_bench.common.text import counted
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.clients import Clients
from fedllm_bench.training.clock.timeline import USED, Timeline, summary
from fedllm_bench.training.faults import participants

FILE = "timeline.jsonl"
HOUR = 3600.0


def keep_timeline(folder: Path, timeline: Timeline | None, ids: Sequence[str]) -> None:
    """Write timeline.jsonl, one line for each trip, unless it is there.

    Raises a :class:`UserError` where another one is there: what is trained already belongs to that one.
    """
    if timeline is None:
        return
    lines = timeline.lines(ids)
    path = folder / FILE
    if not path.exists():
        write_jsonl(path, lines)
    elif not _is_of(path, lines):
        raise UserError(
            f"{path}: it is not the timeline of this run as it is planned now, so that it was changed, or made by "
            f"another version; delete the folder {folder}, and give the same command to run it again"
        )


def _is_of(path: Path, lines: Sequence[object]) -> bool:
    """Whether a file, which anyone may have changed, has these lines."""
    try:
        return path.is_file() and list(map(canonical_json, read_jsonl(path))) == list(map(canonical_json, lines))
    except (ValueError, RecursionError):  # no JSON, no text, or a number that is none
        return False


def trained_by(timeline: Timeline | None, config: RunConfig, clients: Clients, rounds: int) -> frozenset[int]:
    """The clients whose answer is in the model after so many rounds, where no training fails."""
    if timeline is not None:
        return timeline.used_by(rounds)
    return participants(config, len(clients), clients.file_order, rounds)


def in_words(timeline: Timeline) -> Iterator[str]:
    """What `bench --dry-run` says of the clock."""
    found, rounds = summary(timeline), len(timeline.steps)
    yield (
        f"Virtual clock: {found['virtual_seconds'] / HOUR:.3g} hours for {counted(rounds, 'aggregation')}, "
        f"{found['virtual_seconds'] / rounds:.3g} seconds each"
    )
    at_work = found["trips"] - sum(found[fate] for fate in ("used", "late", "surplus", "lost"))
    parts = {**{fate: found[fate] for fate in ("used", "late", "surplus", "lost")}, "still at work": at_work}
    shown = ", ".join(f"{count:,} {what}" for what, count in parts.items() if count)
    yield f"  {counted(found['trips'], 'trip')} of clients: {shown}"
    yield f"  staleness of what is used: mean {found['mean_staleness']:.2f}, at most {found['max_staleness']}"
    if found["notes"]:
        first = next(step for step in timeline.steps if step.note)
        what = f"{counted(found['notes'], 'aggregation')} otherwise than asked"
        yield f"  {what}; the first, {first.number + 1}: {first.note}"
    empty = sum(not step.of(USED) for step in timeline.steps)
    if empty == rounds:
        yield "  no upload is ever used: nothing would be trained"
