"""A submission's own page: where it stands, what it did, and how to do it again."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import MISSING, counted, flop, number, signed, size
from fedllm_bench.leaderboard.ranking.board import Board, BoardCell, BoardColumn, BoardRow
from fedllm_bench.leaderboard.site.board_page import Link, band, limits, link, power
from fedllm_bench.leaderboard.site.details import Details
from fedllm_bench.leaderboard.site.pages import render
from fedllm_bench.leaderboard.site.plots import curves_of
from fedllm_bench.leaderboard.submission.reproduce import changed, commands
from fedllm_bench.leaderboard.submission.tracks import Track, find_track

Texts = tuple[str, ...]
LONGEST = 400  # characters of one setting


@dataclass(frozen=True, kw_only=True)
class PageTable:
    """The first cell of a row names it."""

    name: str
    caption: str
    head: Texts
    rows: tuple[Texts, ...]
    numbers: bool = False


@dataclass(frozen=True, kw_only=True)
class Place:
    """A row and the board it is on."""

    board: Board
    row: BoardRow


def submission_page(details: Details, places: Sequence[Place], *, slug: str, answers: bool) -> str:
    said, row = details.submission, places[0].row
    track = find_track(said["track"])
    values: dict[str, Any] = {
        "method": said["method"],
        "facts": _facts(said, row),
        "url": said["url"],
        "notes": [f"Not ranked: {row.unranked}."] if row.unranked else [],
        "sections": _sections(details),
        "answers": answers,
        "standings": [_standing(place) for place in places],
        "scores": [*(_scores(place) for place in places if place.board.columns), _metrics(details)],
        "curves": _curves(details),
        "clients": _clients(details),
        "tuning": said["tuning"],
        "training_data": said["training_data"],
        "config": _config(details, track),
        "reproduce": _reproduce(details, track, slug),
        "provenance": _provenance(details, row),
    }
    return render("submission.html.jinja", title=said["method"], root="../../", values=values)


def _facts(said: Mapping[str, Any], row: BoardRow) -> str:
    suite = f"fedllm-bench {said['suite']['version']}" if said["suite"]["version"] else "made outside of fedllm-bench"
    parts = [f"team {said['team']}", f"contact {said['contact']}", said["date"], f"track {said['track']}"]
    return " · ".join(filter(None, [*parts, suite, counted(row.num_seeds, "seed"), f"tier {row.tier}"]))


def _sections(details: Details) -> list[tuple[str, str]]:
    there = {
        "standing": True,
        "rounds": bool(_curves(details)),
        "clients": bool(details.clients),
        "statements": True,
        "config": bool(details.config),
        "reproduce": True,
        "provenance": True,
    }
    names = {"rounds": "Over rounds", "config": "Settings"}
    return [(key, names.get(key, key.capitalize())) for key, is_there in there.items() if is_there]


def _standing(place: Place) -> dict[str, str]:
    row, found = place.row, link(place.board)
    points = "" if row.borda is None else f", {row.borda:g} points"
    text = f"not ranked ({row.unranked})" if row.unranked else f"rank {band(row.rank_low, row.rank_high)}{points}"
    return {"name": Link(name=found.name, href=found.href).name, "href": found.href, "text": text}


def _scores(place: Place) -> PageTable:
    """The ranked metrics with both intervals and the test against the baseline."""
    seeds = sorted({int(seed) for cell in place.row.cells.values() for seed in cell.by_seed})
    head = ("metric", "mean over seeds", "rank", "these models", "this method",
            f"minus {place.board.compared_with}", "over units", "over seeds", "p", "p (Holm)",
            *(f"seed {seed}" for seed in seeds))  # fmt: skip
    rows = [_score_row(column, place.row.cells[column.name], seeds) for column in place.board.columns]
    board = link(place.board).name
    caption = (
        f"{board}: intervals of 95%. These models: other clients or questions, the same trained models. This method: "
        "other seeds. Differences are paired by unit and by seed; Holm's correction is over the board. 80% power: the "
        "smallest true difference that so many seeds find in four of five tries."
    )
    return PageTable(name=f"Ranked metrics of {board}", caption=caption, head=head, rows=tuple(rows), numbers=True)


def _score_row(column: BoardColumn, cell: BoardCell, seeds: Sequence[int]) -> Texts:
    name = f"{column.name} {'↑' if column.higher_is_better else '↓'}"
    if cell.models is None or cell.method is None:
        return (name, f"not scored: {cell.reason}", *[MISSING] * (8 + len(seeds)))
    against = cell.against
    compared: Sequence[str] = [MISSING] * 5
    if against is not None:
        compared = [signed(against.mean), limits(against.models), limits(against.method), _p(against.p_value),
                    f"{_p(against.p_holm)} {against.verdict}{_behind(power(against))}"]  # fmt: skip
    own = [number(cell.mean), band(cell.rank_low, cell.rank_high) or MISSING, limits(cell.models), limits(cell.method)]
    return (name, *own, *compared, *(number(cell.by_seed.get(str(seed))) for seed in seeds))


def _behind(remark: str) -> str:
    return f" ({remark})" if remark else ""


def _p(value: float | None) -> str:
    return MISSING if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _metrics(details: Details) -> PageTable:
    seeds = sorted({seed for row in details.metrics for seed in row.after})
    rows = [
        (f"{row.name} {'↑' if row.higher_is_better else '↓'}", row.unit, number(row.before),
         *(number(row.after.get(seed)) for seed in seeds))
        for row in details.metrics
    ]  # fmt: skip
    head = ("metric", "unit", "base", *(f"seed {seed}" for seed in seeds))
    caption = "All metrics and views, computed again from the raw records."
    return PageTable(name="All metrics", caption=caption, head=head, rows=tuple(rows), numbers=True)


def _curves(details: Details) -> list[Any]:
    def named(by_seed: Mapping[int, Sequence[tuple[float, float]]]) -> dict[str, Sequence[tuple[float, float]]]:
        return {f"seed {seed}": points for seed, points in by_seed.items()}

    found = [
        curves_of("Training loss, mean over the round's clients", "nats per token", named(details.training)),
        curves_of("Held-out loss, median over clients", "nats per token", named(details.heldout)),
    ]
    return [curves for curves in found if curves is not None]


def _clients(details: Details) -> dict[str, Any] | None:
    if not details.clients:
        return None
    pairs = [(row.before, row.after) for row in details.clients]
    changes = [after - before for before, after in pairs if before is not None and after is not None]
    rows = tuple(
        (row.client, number(row.before), number(row.after),
         signed(None if row.before is None or row.after is None else row.after - row.before))
        for row in details.clients
    )  # fmt: skip
    rose = sum(change > 0 for change in changes)
    about = f"{details.metric} of each client, mean over seeds."
    if changes:
        fell, of = sum(change < 0 for change in changes), counted(len(changes), "client")
        about += f" It rose for {rose} and fell for {fell} of {of}; median change {signed(statistics.median(changes))}."
    head = ("client", "base", "after", "after - base")
    return {
        "about": about,
        "table": PageTable(name="Clients", caption="Means over seeds.", head=head, rows=rows, numbers=True),
    }


def _config(details: Details, track: Track) -> dict[str, Any] | None:
    if not details.config:
        return None
    differs = changed(details.config, track)
    about = f"Compared with the preset of {track.preset}, profile {track.profile}: "
    about += f"{counted(len(differs), 'setting')} differ." if differs else "nothing differs but the seed."
    head = ("setting", "preset", "this run")
    rows = tuple((key, _shown(preset), _shown(own)) for key, (preset, own) in differs.items())
    whole = tuple((key, _shown(value)) for key, value in sorted(details.config.items()))
    return {
        "about": about,
        "changed": PageTable(name="Changed settings", caption="What differs from the preset.", head=head, rows=rows),
        "whole": PageTable(name="All settings", caption="Of the first seed.", head=("setting", "value"), rows=whole),
    }


def _shown(value: Any) -> str:
    text = "not given" if value is None else value if isinstance(value, str) else repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"


def _reproduce(details: Details, track: Track, slug: str) -> list[tuple[str, str]]:
    folder = f"leaderboard/submissions/{slug}"
    steps = [("Check the records and compute every score again:", f"fedllm-bench board validate {folder}")]
    seeds = [run["seed"] for run in details.submission["runs"]]
    try:
        runs = commands(details.config, seeds, track) if details.config else []
    except UserError:  # a config of another version of the suite
        runs = []
    if runs:
        return [*steps, ("Train again, one command a seed:", "\n".join(runs))]
    where = details.submission["url"] or "no address that was stated"
    return [*steps, ("The suite does not have this method. Its code is at:", where)]


def _provenance(details: Details, row: BoardRow) -> dict[str, Any]:
    said = details.submission
    about = (
        ("submission (sha256)", row.digest),
        ("suite", f"{said['suite']['version'] or 'none'}, commit {said['suite']['commit'] or 'unknown'}"),
        ("bytes of a run", MISSING if row.num_bytes is None else size(row.num_bytes)),
        *([("FLOP of training, as stated", flop(row.train_flops))] if row.train_flops is not None else []),
        *_machine(details.environments.values()),
    )
    return {
        "tier": f"This submission is {row.tier}. What each tier promises is in docs/verifying.md.",
        "runs": PageTable(name="Runs", caption="Hashes of what each run was made from.", head=_RUN_HEAD,
                      rows=tuple(_run_row(run) for run in said["runs"])),
        "about": PageTable(name="About", caption="The submission.", head=("what", "value"), rows=about),
        "records": PageTable(name="Records", caption="What maintainers made again.",
                         head=("tier", "outcome", "date", "by", "command", "items"),
                         rows=tuple(_record_row(record) for record in details.records)),
        "files": PageTable(name="Files", caption="Of every file, as submitted.", head=("file", "sha256", "size"),
                       rows=tuple((n, f["sha256"], size(f["bytes"])) for n, f in sorted(said["files"].items()))),
    }  # fmt: skip


_RUN_HEAD = ("seed", "config", "base", "split", "adapter (sha256)", "adapter at")


def _run_row(run: Mapping[str, Any]) -> Texts:
    adapter = run["adapter"]
    where = MISSING if adapter is None else "inside" if adapter["inside"] else adapter["address"] or "nowhere"
    digest = MISSING if adapter is None else f"{adapter['sha256']}, {size(adapter['bytes'])}"
    return (str(run["seed"]), run["config_hash"] or MISSING, run["base_hash"] or MISSING, run["split_hash"] or MISSING,
            digest, where)  # fmt: skip


def _record_row(record: Mapping[str, Any]) -> Texts:
    items = counted(len(record["ids"]), "item")
    return (record["tier"], record["outcome"], record["date"], record["name"], record["command"], items)


def _machine(environments: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What the first run says of its machine and packages."""
    first = next(iter(environments), {})
    packages = first.get("packages")
    named = packages.items() if isinstance(packages, dict) else ()
    found = {
        "python": first.get("python"),
        "platform": first.get("platform"),
        "packages": ", ".join(f"{name} {version}" for name, version in named),
    }
    return [(key, _shown(value)) for key, value in found.items() if value]
