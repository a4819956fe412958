"""The site from submissions only: equal submissions give equal bytes, whatever the day, the machine or their order.

A submission that cannot be read is left out with its reason; the others are shown. docs/board.md has the files.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fedllm_bench.common import files, progress
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.leaderboard.ranking.board import Board, BoardEntry
from fedllm_bench.leaderboard.ranking.standing import boards_of
from fedllm_bench.leaderboard.site import read_cache
from fedllm_bench.leaderboard.site.board_csv import board_csv
from fedllm_bench.leaderboard.site.board_page import board_json, board_page, empty_page
from fedllm_bench.leaderboard.site.details import Details
from fedllm_bench.leaderboard.site.submission_page import Place, submission_page
from fedllm_bench.leaderboard.submission.bundle import open_bundle
from fedllm_bench.leaderboard.submission.internal import own_errors
from fedllm_bench.leaderboard.submission.layout import submissions_in
from fedllm_bench.leaderboard.submission.problems import refusals
from fedllm_bench.leaderboard.submission.recompute import seed_scores

FEW = 24  # submissions that one process reads sooner than others have loaded their libraries
INDEX, BOARD, ANSWERS = "index.html", "board.json", "answers.html"


@dataclass(frozen=True, kw_only=True)
class Read:
    """A submission as the site shows it. `refused`: why it is left out; then there is nothing else."""

    slug: str
    entry: BoardEntry | None = None
    details: Details | None = None
    has_answers: bool = False
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Built:
    """`left_out`: submission -> why. `num_rows` counts a submission once for each board that it is on."""

    index: Path
    num_submissions: int
    num_boards: int
    num_rows: int
    alarms: tuple[str, ...]
    left_out: dict[str, str]


def build(submissions: Path, out: Path, *, jobs: int = 1) -> Built:
    """Write the site into the folder `out`, whole or not at all; an older site there is replaced.

    Raises a :class:`UserError` where `submissions` is no folder, or `out` has something else in it.
    """
    if not submissions.is_dir():
        raise UserError(f"{submissions} is no folder; give the one with the submissions: --submissions DIR")
    _check_target(out)
    with files.new_folder(out) as part:
        read = list(_read_all(list(submissions_in(submissions)), part, jobs))
        shown = [one for one in read if one.entry is not None]
        boards = boards_of([one.entry for one in shown if one.entry is not None])
        _write_boards(part, boards)
        _write_submissions(part, shown, boards)
    return Built(
        index=out / INDEX,
        num_submissions=len(shown),
        num_boards=len(boards),
        num_rows=sum(len(board.rows) for board in boards),
        alarms=tuple(f"{board.track}: {line}" for board in boards for line in board.alarms),
        left_out={one.slug: one.refused for one in read if one.refused},
    )


def _check_target(out: Path) -> None:
    if out.exists() and not (out / BOARD).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there and is no site of a board (no {BOARD}); give another folder: --out DIR")


# --- reading


def _read_all(paths: Sequence[Path], part: Path, jobs: int) -> Iterator[Read]:
    """In the order of `paths`."""
    read = partial(_read, part=part)
    if jobs < 2 or len(paths) < FEW:
        yield from progress.track(map(read, paths), "submissions", len(paths))
        return
    context = multiprocessing.get_context("spawn")  # threads of libraries do not survive a fork
    with ProcessPoolExecutor(min(jobs, len(paths)), mp_context=context, initializer=_ready) as pool:
        try:
            yield from progress.track(pool.map(read, paths, chunksize=4), "submissions", len(paths))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _ready() -> None:
    """In a new process: its libraries stay for good, so that no collection of garbage walks through them."""
    gc.freeze()


def _read(path: Path, *, part: Path) -> Read:
    """One submission; its page of answers is written at once, for it is the one thing that is large."""
    slug = path.name
    if not files.SAFE_NAME.fullmatch(slug):
        return Read(slug=ascii(slug)[1:-1], refused="the name of the folder has other letters than A-Z a-z 0-9 . _ -")
    try:
        with own_errors(f"reading {slug} for the site"):
            return _opened(path, part / "submissions" / slug)
    except UserError as error:
        return Read(slug=slug, refused=first_line(error))


def _opened(path: Path, folder: Path) -> Read:
    bundle, problems = open_bundle(path, contents=False)
    if found := refusals(problems):
        raise UserError(found[0].line + (f" (and {len(found) - 1} more)" if len(found) > 1 else ""))
    assert bundle is not None  # else there would be a refusal
    whole = read_cache.load(bundle)
    if whole is None:
        whole = read_cache.kept_of(bundle, [seed_scores(run) for run in bundle.runs()])
        read_cache.save(bundle, whole)
    folder.mkdir(parents=True)
    if whole.answers is not None:
        _write(folder / ANSWERS, whole.answers)
    return Read(slug=path.name, entry=whole.entry, details=whole.details, has_answers=whole.answers is not None)


# --- writing


def _write_boards(part: Path, boards: Sequence[Board]) -> None:
    folder = part / "boards"
    folder.mkdir()
    for board in boards:
        _write(folder / f"{board.id}.html", board_page(board, boards, root="../"))
        _write(folder / f"{board.id}.json", _json(board.to_dict()))
        _write(folder / f"{board.id}.csv", board_csv([board]))
    first = max(boards, key=lambda board: len(board.rows), default=None)  # of equal ones the first
    _write(part / INDEX, empty_page() if first is None else board_page(first, boards, root=""))
    _write(part / BOARD, _json(board_json(boards)))
    _write(part / "board.csv", board_csv(boards))


def _write_submissions(part: Path, read: Iterable[Read], boards: Sequence[Board]) -> None:
    places: dict[str, list[Place]] = {}
    for board in boards:
        for row in board.rows:
            places.setdefault(row.slug, []).append(Place(board=board, row=row))
    for one in read:
        assert one.details is not None
        text = submission_page(one.details, places[one.slug], slug=one.slug, answers=one.has_answers)
        _write(part / "submissions" / one.slug / INDEX, text)


def _write(path: Path, text: str) -> None:
    """The whole folder takes its place at the end, so no file needs to be flushed by itself."""
    path.write_bytes(text.encode("utf-8", "replace"))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True) + "\n"
