"""A board: the rows of one track, benchmark version and judge, with intervals, rank bands, tests and alarms.

Plain data from the measures of submissions; docs/board.md has the rules. A row that lacks a ranked metric is shown with
the reason and is not ranked: nothing missing is ever a number.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.leaderboard.ranking import ranking
from fedllm_bench.leaderboard.ranking.board import Board, BoardCell, BoardColumn, BoardEntry, BoardRow
from fedllm_bench.leaderboard.ranking.cells import cells_of, not_scored, reference_of, with_tests
from fedllm_bench.leaderboard.ranking.measures import Measure
from fedllm_bench.leaderboard.ranking.relations import Compared, Signs, clearly_better, seed_values
from fedllm_bench.leaderboard.submission.names import Known
from fedllm_bench.leaderboard.submission.tracks import REFERENCE_METHOD, Track, load_tracks, pinned_baselines, winners
from fedllm_bench.runs.folder import BASELINE


def boards_of(entries: Sequence[BoardEntry]) -> list[Board]:
    """Every board that the entries make: by track, split, kind of adapters and judge, in the order of the tracks."""
    tracks, grouped = load_tracks(), dict[tuple[str, str], list[BoardEntry]]()
    for entry in entries:
        if entry.track not in tracks:
            raise UserError(f"{entry.slug}: no track {entry.track!r}")
        grouped.setdefault((entry.track, entry.split_hash), []).append(entry)
    order = {name: place for place, name in enumerate(tracks)}
    boards = []
    for (name, _), found in sorted(grouped.items(), key=lambda item: (order[item[0][0]], item[0][1])):
        for personal in (False, True):
            own = _on_board(found, personal=personal)
            judges = _judges(own) if own else []
            boards += [board_of(own, tracks[name], judge=judge, personal=personal) for judge in judges]
    return boards


def _on_board(entries: Sequence[BoardEntry], *, personal: bool) -> list[BoardEntry]:
    """Scores under a global adapter and under clients' own are never on one board, but for canaries.

    These stand on that of global adapters, and the canary `local` on the other one too, where it has a method.
    """
    if not personal:
        return [entry for entry in entries if not entry.personal or entry.kind != "method"]
    own = [entry for entry in entries if entry.personal]
    return own if any(entry.kind == "method" for entry in own) else []


def _judges(entries: Sequence[BoardEntry]) -> list[str]:
    """ "" first: the board of what needs no judge shows every submission."""
    return ["", *sorted({measure.judge for entry in entries for measure in entry.measures.values()} - {""})]


def board_of(entries: Sequence[BoardEntry], track: Track, *, judge: str = "", personal: bool = False) -> Board:
    """The board of entries that all are of `track`, of one split and of one kind of adapters. At least one entry."""
    entries = sorted(entries, key=lambda entry: entry.slug)
    baseline = baseline_of(entries, track, judge, personal=personal)
    reference = {name: reference_of(name, entries, baseline) for name in track.metrics(judge)}
    cells = {entry.slug: cells_of(entry, reference) for entry in entries}
    cells = with_tests(entries, baseline, cells)
    ranked = [e for e in entries if not _unranked(e, track, cells[e.slug])]
    rows = _ranked_rows(ranked, list(reference), cells, track)
    rows += [_row(e, cells[e.slug], _unranked(e, track, cells[e.slug]), baseline) for e in entries if e not in ranked]
    columns = tuple(_column(name, measure) for name, measure in reference.items() if measure is not None)
    known = Known.of(entries)
    rows = [
        replace(
            row,
            is_baseline=baseline is not None and row.slug == baseline.slug,
            names=tuple(known.notes(row)),
        )
        for row in rows
    ]
    return Board(
        track=track.id,
        title=track.title,
        description=track.description,
        version=board_version(track, entries[0].split_hash),
        judge=judge,
        split_hash=entries[0].split_hash,
        columns=columns,
        rows=tuple(sorted(rows, key=lambda row: _order(row, columns))),
        baseline=baseline.slug if baseline else "",
        alarms=tuple(alarms(rows, columns)),
        personal=personal,
    )


def board_version(track: Track, split_hash: str) -> str:
    """Scores on two splits are never on one board."""
    return f"{track.version}-{split_hash[:8]}" if split_hash else track.version


def baseline_of(
    entries: Sequence[BoardEntry], track: Track, judge: str = "", *, personal: bool = False
) -> BoardEntry | None:
    """FedAvg of the board: the one that tracks.toml names by its digest, else the strongest.

    On a board of clients' own adapters it is `local` in the place of FedAvg, also as a canary.
    Neither hangs on what a submission says of itself, as its date or name, so nobody can put a weaker one in its place.
    The strongest has enough seeds for a rank, and then the best mean on the first metric of the board, of those scored
    on the items that most rows have; on equal means the next metric decides.
    """
    if personal:
        found = [entry for entry in entries if entry.made_by == BASELINE]
    else:
        found = [entry for entry in entries if entry.made_by == REFERENCE_METHOD and entry.kind == "method"]
    pinned = [entry for entry in found if entry.digest in pinned_baselines()]
    wanted = {name: reference_of(name, entries, None) for name in track.metrics(judge)}
    return max(pinned or found, key=lambda entry: _strength(entry, track, wanted), default=None)


def _strength(entry: BoardEntry, track: Track, wanted: Mapping[str, Measure | None]) -> tuple[Any, ...]:
    means = [_mean_of(entry.measures.get(name), of) for name, of in wanted.items() if of is not None]
    return (len(entry.seeds) >= track.min_seeds, *((mean is not None, mean or 0.0) for mean in means), entry.digest)


def _mean_of(measure: Measure | None, reference: Measure) -> float | None:
    """The mean over seeds, higher for better; None where the board would show none."""
    if measure is None or not_scored(measure, reference):
        return None
    values = seed_values(measure)
    if len(values) < len(measure.seeds):
        return None
    mean = statistics.fmean(values.values())
    return mean if reference.higher_is_better else -mean


# --- ranks


def _unranked(entry: BoardEntry, track: Track, cells: Mapping[str, BoardCell]) -> str:
    if entry.kind != "method":
        return "canary"
    if len(entry.seeds) < track.min_seeds:
        return f"{len(entry.seeds)} of at least {track.min_seeds} seeds"
    holes = [name for name, cell in cells.items() if cell.mean is None]
    return f"{holes[0]} is not scored" if holes else "" if cells else "nothing is scored"


def _ranked_rows(
    entries: Sequence[BoardEntry],
    names: Sequence[str],
    cells: Mapping[str, Mapping[str, BoardCell]],
    track: Track,
) -> list[BoardRow]:
    if not entries:
        return []
    scored = [name for name in names if name in cells[entries[0].slug]]
    signs = {name: _signs(name, entries) for name in scored}
    places = {name: ranking.bands(of) for name, of in signs.items()}
    total, points = ranking.bands(ranking.overall(list(signs.values()))), ranking.borda(list(signs.values()))
    rows = []
    for i, entry in enumerate(entries):
        own = {
            name: replace(cell, rank_low=places[name][i][0], rank_high=places[name][i][1])
            for name, cell in cells[entry.slug].items()
        }
        row = _row(entry, own, "", None)
        rows.append(replace(row, rank_low=total[i][0], rank_high=total[i][1], borda=points[i]))
    return rows


def _signs(name: str, entries: Sequence[BoardEntry]) -> Signs:
    compared = Compared(measures=[entry.measures[name] for entry in entries])
    return ranking.closed(clearly_better(compared))


def _row(entry: BoardEntry, cells: Mapping[str, BoardCell], unranked: str, baseline: BoardEntry | None) -> BoardRow:
    return BoardRow(
        slug=entry.slug,
        digest=entry.digest,
        kind=entry.kind,
        method=entry.method,
        made_by=entry.made_by,
        team=entry.team,
        url=entry.url,
        date=entry.date,
        tier=entry.tier,
        num_seeds=len(entry.seeds),
        num_bytes=entry.num_bytes,
        epsilon=entry.epsilon,
        train_flops=entry.train_flops,
        unranked=unranked,
        is_baseline=baseline is not None and entry.slug == baseline.slug,
        cells=cells,
    )


def _column(name: str, measure: Measure) -> BoardColumn:
    return BoardColumn(
        name=name,
        version=measure.version,
        unit=measure.unit,
        higher_is_better=measure.higher_is_better,
        estimator=measure.estimator,
        unit_of_n=measure.unit_of_n,
        description=measure.description,
    )


def _order(row: BoardRow, columns: Sequence[BoardColumn]) -> tuple[Any, ...]:
    """Ranked rows by band, Borda's count and the first metric; then the rest by the first metric, canaries last.

    Rows that are equal in all of it stand in the order of their digests, which no date or name moves.
    """
    value: float | None = None
    if columns:
        mean = row.cells[columns[0].name].mean
        value = None if mean is None else -mean if columns[0].higher_is_better else mean
    band = (row.rank_low or 0, row.rank_high or 0, -(row.borda or 0.0))
    return (bool(row.unranked), row.kind != "method", *band, value is None, value or 0.0, row.digest)


def alarms(rows: Sequence[BoardRow], columns: Sequence[BoardColumn]) -> list[str]:
    """A line for each canary and metric on which it does better than the median ranked method."""
    lines = []
    canaries = [row for row in rows if row.kind != "method" and row.made_by not in winners()]
    for column in columns:
        values = [row.cells[column.name].mean for row in rows if not row.unranked]
        known = [value for value in values if value is not None]
        for row in sorted(canaries, key=lambda row: row.slug) if known else []:
            mean, median = row.cells[column.name].mean, statistics.median(known)
            if mean is not None and (mean > median if column.higher_is_better else mean < median):
                lines.append(f"{row.method}, which is no method, does better than the median method on {column.name}")
    return lines
