"""The numbers of a board: each row's means with both intervals, and its tests against the baseline."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedllm_bench.leaderboard.ranking.board import Against, BoardCell, BoardEntry, Interval
from fedllm_bench.leaderboard.ranking.intervals import over_units
from fedllm_bench.leaderboard.ranking.measures import Measure
from fedllm_bench.leaderboard.ranking.relations import seed_values
from fedllm_bench.scores.power import ALPHA, smallest
from fedllm_bench.scores.seeds import over_seeds
from fedllm_bench.scores.significance import holm, paired_t

Cells = dict[str, BoardCell]  # metric -> cell


def reference_of(name: str, entries: Sequence[BoardEntry], baseline: BoardEntry | None) -> Measure | None:
    """Whose version and items a row must share: the baseline's, else those that most rows have."""
    if baseline is not None and name in baseline.measures:
        return baseline.measures[name]
    found = [entry.measures[name] for entry in entries if name in entry.measures]
    counts = Counter((measure.version, _items(measure)) for measure in found)
    return max(found, key=lambda m: (counts[m.version, _items(m)], m.version, _items(m)), default=None)


def _items(measure: Measure) -> str:
    return next(iter(measure.seeds.values())).items


def cells_of(entry: BoardEntry, reference: Mapping[str, Measure | None]) -> Cells:
    return {name: _cell(entry.measures.get(name), of) for name, of in reference.items() if of is not None}


def _cell(measure: Measure | None, reference: Measure) -> BoardCell:
    if reason := not_scored(measure, reference):
        return BoardCell(reason=reason)
    assert measure is not None
    values = seed_values(measure)
    if len(values) < len(measure.seeds):
        return BoardCell(reason="a seed has no score")
    found, seeds = over_units(measure), over_seeds(values)
    return BoardCell(
        mean=statistics.fmean(values.values()),
        by_seed={str(seed): value for seed, value in values.items()},
        models=Interval(of="models", low=found.ci_low, high=found.ci_high, kind=found.interval, n=found.n),
        method=_over_seeds(seeds["ci_low"], seeds["ci_high"], seeds["n"]),
    )


def not_scored(measure: Measure | None, reference: Measure) -> str:
    """Why a row has no number on this board; "" where it has one."""
    if measure is None:
        return "not in the submission"
    if measure.version != reference.version:
        return f"version {measure.version} of the metric, this board has {reference.version}"
    if measure.whole_only and not all(side.is_whole for side in measure.seeds.values()):
        return "not every question is scored"
    if any(side.items != _items(reference) for side in measure.seeds.values()):
        return "other items, or weights of items, than the board's"
    return ""


def _over_seeds(low: float | None, high: float | None, n: int) -> Interval:
    return Interval(of="method", low=low, high=high, kind="none" if low is None else "t", n=n)


def with_tests(
    entries: Sequence[BoardEntry],
    baseline: BoardEntry | None,
    cells: Mapping[str, Cells],
) -> dict[str, Cells]:
    """Each row against the baseline; Holm's correction is over all rows and metrics of the board."""
    if baseline is None:
        return dict(cells)
    tested = {
        (entry.slug, name): found
        for entry in entries
        if entry.slug != baseline.slug
        for name, cell in cells[entry.slug].items()
        if cell.mean is not None and cells[baseline.slug][name].mean is not None
        if (found := _against(entry.measures[name], baseline.measures[name])) is not None
    }
    adjusted = holm([found.p_value for found in tested.values()])
    num_tests = sum(p is not None for p in adjusted)
    with_all = {slug: dict(of) for slug, of in cells.items()}
    for ((slug, name), found), p_holm in zip(tested.items(), adjusted, strict=True):
        judged = _judged(found, p_holm, num_tests, higher_is_better=baseline.measures[name].higher_is_better)
        with_all[slug][name] = replace(with_all[slug][name], against=judged)
    return with_all


def _against(measure: Measure, baseline: Measure) -> Against | None:
    shared = sorted(measure.seeds.keys() & baseline.seeds.keys())
    if not shared:
        return None
    ours, theirs = (replace(one, seeds={seed: one.seeds[seed] for seed in shared}) for one in (measure, baseline))
    values, base = seed_values(ours), seed_values(theirs)
    t = paired_t([values[seed] - base[seed] for seed in shared])
    found = over_units(ours, theirs)
    return Against(
        mean=t.mean,
        models=Interval(of="models", low=found.ci_low, high=found.ci_high, kind=found.interval, n=found.n),
        method=_over_seeds(t.ci_low, t.ci_high, t.n),
        p_value=t.p_value,
        sd=t.sd,
    )


def _judged(found: Against, p_holm: float | None, num_tests: int, *, higher_is_better: bool) -> Against:
    """With its corrected p value, and the verdict that follows from it."""
    verdict = "no test"
    if p_holm is not None:
        better = "better" if (found.mean > 0) == higher_is_better else "worse"
        verdict = better if p_holm < ALPHA else "not told apart"
    shown = smallest(found.method.n, found.sd, num_tests) if p_holm is not None else None
    return replace(found, p_holm=p_holm, verdict=verdict, detectable=shown)
