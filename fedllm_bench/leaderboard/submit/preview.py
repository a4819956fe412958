"""What a submission makes public, for the eyes of whoever is about to make it so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.leaderboard.submission.layout import submissions_in
from fedllm_bench.leaderboard.submission.names import Known
from fedllm_bench.leaderboard.submission.reading import read_plain
from fedllm_bench.leaderboard.submission.schema import MOST_BYTES, SUBMISSION, Submission, examine
from fedllm_bench.leaderboard.submit.own_runs import OwnRun
from fedllm_bench.leaderboard.submit.placing import Draft, folder_name
from fedllm_bench.leaderboard.submit.track_fit import note_on_seeds

KIB = 1024
LABEL = 10  # columns


def lines(made: Draft, runs: Sequence[OwnRun]) -> Iterator[str]:
    """Everything that readers will see, and notes on what they will not."""
    said = made.submission
    yield _line(
        "Public", f"{folder_name(said)}  ({len(made.contents)} files, {_kib(sum(map(len, made.contents.values())))})"
    )
    yield _line("Track", said.track)
    yield _line("Method", f"{said.method}" + (" (canary: shown, not ranked)" if said.kind == "canary" else ""))
    yield _line("Team", " · ".join(filter(None, (said.team, said.url, said.contact))))
    yield _line("Tuning", _short(said.tuning))
    yield _line("Data", _short(said.training_data))
    yield _line("Seeds", ", ".join(map(str, said.seeds)))
    if said.suite.version:
        yield _line("Made on", _hardware(runs[0]))
        yield _line("Code", f"fedllm-bench {said.suite.version}, commit {(said.suite.commit or 'not known')[:10]}")
    yield from (_line("File", text) for text in _files(made))
    yield from (_line("Note", note) for note in (_notes(said, runs) if said.suite.version else ()))
    yield _line("Digest", made.digest)


def flags(made: Draft, root: Path) -> Iterator[str]:
    """What `board validate` will flag in the names, beside those of the submissions below `root`."""
    own = root / folder_name(made.submission)
    others = [found for path in submissions_in(root) if path != own and (found := _said(path)) is not None]
    for text in Known.of(others).notes(made.submission):
        yield _line("Flagged", f"{text}; a reviewer will look at this")


def _said(folder: Path) -> Submission | None:
    """What a submission says of itself; None where it cannot be read."""
    try:
        return examine(read_plain(folder / SUBMISSION, MOST_BYTES, SUBMISSION))[0]
    except UserError:
        return None


def _files(made: Draft) -> Iterator[str]:
    """One line for each kind of file: those of other seeds are alike."""
    sizes: dict[str, list[int]] = {}
    for name, content in made.contents.items():
        parts = name.split("/")
        kind = "/".join(["runs/<seed>", *parts[2:]]) if parts[0] == "runs" else name
        sizes.setdefault(kind, []).append(len(content))
    for kind, found in sorted(sizes.items()):
        yield f"{kind}  {_kib(sum(found))}" + (f" in {len(found)} files" if len(found) > 1 else "")


def _hardware(run: OwnRun) -> str:
    cpu: Any = run.environment.get("cpu") or {}
    gpus = run.environment.get("gpus") or []
    parts = [
        f"{cpu.get('name')} with {cpu.get('count')} cores",
        ", ".join(map(str, gpus)),
        run.environment.get("platform"),
    ]
    return "; ".join(str(part) for part in parts if part)


def _notes(said: Submission, runs: Sequence[OwnRun]) -> Iterator[str]:
    if (note := note_on_seeds(runs, said.track)) and said.kind == "method":
        yield note
    if any(run.environment.get("dirty") for run in runs):
        yield "the code had changes that no commit has; the row's page tells so"
    if said.suite.commit is None:
        yield "no commit names the code of all runs; the row's page tells so"
    if any(run.baseline is None and any(e["local"] for e in run.results["metrics"].values()) for run in runs):
        yield "the run of `local` that results.json compares with is not beside RUN; it is not checked"
    if lost := [run.seed for run in said.runs if run.adapter and not run.adapter.inside and not run.adapter.address]:
        listed = ", ".join(map(str, lost))
        yield f"adapters of seeds {listed} stay with you; without --adapter-url nobody else can answer with them"


def _line(label: str, text: str) -> str:
    return f"{label:<{LABEL}}{text}"


def _short(text: str, most: int = 100) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[:most]}..."


def _kib(size: int) -> str:
    return f"{size / KIB:.1f} KiB"
