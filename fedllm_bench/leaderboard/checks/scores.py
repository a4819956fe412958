"""The scores are of the split's items, each once; they say what their evidence says; sums of them are right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedllm_bench.common.text import counted, part_of
from fedllm_bench.leaderboard.checks.context import CheckContext, config_of, split_of
from fedllm_bench.leaderboard.checks.split_items import Expected, Key, SplitItems
from fedllm_bench.leaderboard.submission.problems import Problem
from fedllm_bench.leaderboard.submission.recompute import SMALLEST, is_own, means, rescored
from fedllm_bench.leaderboard.submission.submitted import SIDES, Submitted, SubmittedRun
from fedllm_bench.methods.base import trains_alone
from fedllm_bench.metrics.memorisation import OfMemory
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.results.run_results import client_rows, metrics_of
from fedllm_bench.scores.score import Score

INTERVALS = ("ci_low", "ci_high", "interval", "significant", "no_interval", "sd", "detectable")
OF_LOCAL = ("local", "difference_to_local")  # keys that hang on the baseline, a run of its own that need not be here


def items(submitted: Submitted, context: CheckContext) -> Iterator[Problem]:
    """Each item of the split is scored once, as what it is, on every side."""
    for run in submitted.runs:
        if submitted.is_of_suite:
            yield from _metrics(run)
        split = split_of(submitted, run, context)
        if split is None:
            text = "items and clients are not compared with the split's: give its folder with --split"
            yield Problem(code="split-not-at-hand", message=text, where=run.where, level="flagged")
            if submitted.is_of_suite:
                yield from _sides_alike(run)
        elif split.hash != run.files.entry.split_hash:
            text = f"the split {split.name} has hash {split.hash[:16]}, the run's is {run.files.entry.split_hash[:16]}"
            yield Problem(code="split", message=text, where=f"{run.where}/environment.json")
        else:
            yield from _all_metrics(run, SplitItems(split, config_of(submitted, run, context)))


def ranked(submitted: Submitted, context: CheckContext) -> Iterator[Problem]:
    """Every run has a mean over all items of each metric that the track ranks without a judge."""
    track = context.tracks.get(submitted.bundle.submission.track)
    for run in submitted.runs if track and not submitted.is_canary else ():  # a constant answer has no loss
        found = means(run.scores)
        for name in track.ranked if track else ():
            if found.get(name) is None:
                why = "its items are not all scored" if name in found else "there are no scores of it"
                text = f"the track ranks {name}, and {why}"
                yield Problem(code="uncovered", message=text, where=run.where)


def scored(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """The part of :func:`items` for which no split is needed: each item that is there has a score."""
    for run in submitted.runs:
        for name, sides in run.sets.items():
            for side in SIDES:
                yield from _unscored(getattr(sides, side) or (), f"{run.where}/scores/{name}.{side}.jsonl.gz")


def _metrics(run: SubmittedRun) -> Iterator[Problem]:
    """Every metric of the config is there, and no other."""
    asked, there = set(run.config.evaluation.metrics), set(run.files.metrics())
    probes = {name for name in asked if name in METRICS and METRICS[name].needs_probes}
    missing = asked - there - (probes if run.config.profile != "mini" else set())
    for name in sorted(missing):
        yield Problem(
            code="items", message=f"no scores of {name}, which its config asks for", where=f"{run.where}/scores"
        )
    for name in sorted(there - asked):
        yield Problem(
            code="items", message=f"scores of {name}, which its config does not ask for", where=f"{run.where}/scores"
        )


def _sides_alike(run: SubmittedRun) -> Iterator[Problem]:
    """Without the split: what was scored before training was scored after it."""
    if run.method.personal:
        return
    for name, sides in run.sets.items():
        before, after = (_keys(side) for side in (sides.before, sides.after))
        if before != after:
            text = f"{counted(len(before ^ after), 'item', 'are')} scored on one side only"
            yield Problem(code="items", message=text, where=f"{run.where}/scores/{name}.after.jsonl.gz")


def _all_metrics(run: SubmittedRun, split: SplitItems) -> Iterator[Problem]:
    is_whole = run.files.has("config.json")  # else no run of the suite, and every item is to be there
    own = {split.ids[client] for client in split.local_sample(run)} if is_whole else set(split.ids)
    personal, alone = is_whole and run.method.personal, is_whole and trains_alone(run.method)
    unseen = {user.id for user in split.split.manifest.unseen}
    for name, sides in run.sets.items():
        if isinstance(METRICS.get(name), OfMemory):  # asked of training rows, and ranked nowhere
            continue
        wanted = split.of_metric(name)
        for side, scores in (("before", sides.before), ("after", sides.after), ("local", sides.local)):
            if scores is None:
                continue
            has_own = side == "local" or (side == "after" and personal)
            # of a personal method that sends, users without an adapter of their own have the global one
            there = own if side == "local" or alone else own | unseen
            asked = {key: item for key, item in wanted.items() if not has_own or key[0] in there}
            yield from _side(scores, asked, f"{run.where}/scores/{name}.{side}.jsonl.gz", name)
        yield from _weights(sides.before, sides.after, f"{run.where}/scores/{name}.after.jsonl.gz")


def _side(scores: Sequence[Score], asked: Mapping[Key, Expected], where: str, metric: str) -> Iterator[Problem]:
    keys = _keys(scores)
    if missing := asked.keys() - keys:
        text = f"{part_of(len(missing), len(asked), 'item', 'have')} no score, and the split has them, as "
        text += _shown(min(missing))
        yield Problem(code="items", message=text, where=where)
    if extra := keys - asked.keys():
        text = f"{counted(len(extra), 'item', 'are')} not of the split, as {_shown(min(extra))}"
        yield Problem(code="items", message=text, where=where)
    wrong = [s for s in scores if (s.cluster, s.item_id) in asked and not _fits(s, asked[s.cluster, s.item_id], metric)]
    if wrong:
        text = f"{counted(len(wrong), 'item', 'have')} another group, question or right answer than in the split, as "
        yield Problem(code="items", message=text + _shown((wrong[0].cluster, wrong[0].item_id)), where=where)
    yield from _unscored(scores, where)


def _unscored(scores: Sequence[Score], where: str) -> Iterator[Problem]:
    unscored = [score for score in scores if not score.is_scored]
    if unscored:
        text = f"{part_of(len(unscored), len(scores), 'item', 'are')} unscored ({unscored[0].reason[:80]!a})"
        yield Problem(code="uncovered", message=text, where=where)


def _fits(score: Score, item: Expected, metric: str) -> bool:
    group = {key: value for key, value in score.group.items() if key != "taste"}
    if group != dict(item.group):
        return False
    if metric != "mini_exact":
        return True
    return score.evidence.get("right") == item.right and score.evidence.get("prompt") == item.prompt


def _weights(before: Sequence[Score], after: Sequence[Score], where: str) -> Iterator[Problem]:
    """An item counts after training as much as before it: the weight is its number of tokens."""
    known = {(score.cluster, score.item_id): score.weight for score in before}
    wrong = [s for s in after if known.get((s.cluster, s.item_id), s.weight) != s.weight]
    if wrong:
        first = _shown((wrong[0].cluster, wrong[0].item_id))
        text = f"{counted(len(wrong), 'item', 'weigh')} otherwise than before training, as {first}"
        yield Problem(code="items", message=text, where=where)


def _keys(scores: Sequence[Score]) -> set[Key]:
    return {(score.cluster, score.item_id) for score in scores}


def _shown(key: Key) -> str:
    return f"{key[1][:40]!a} of {key[0][:40]!a}"


def evidence(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """A score whose evidence decides it is that; preference metrics are functions of one margin."""
    for run in submitted.runs:
        for name in run.files.metrics():
            for side in SIDES:
                scores = run.stored(name, side)
                wrong = [score for score in scores if rescored(name, score) is not score]
                if wrong:
                    first, right = wrong[0], rescored(name, wrong[0]).value
                    text = f"{counted(len(wrong), 'score', 'are')} not what the evidence says, as "
                    text += f"{first.item_id[:40]!a}: {first.value}, not {right}"
                    yield Problem(code="evidence", message=text, where=f"{run.where}/scores/{name}.{side}.jsonl.gz")
        yield from _of_one_margin(run)


def _of_one_margin(run: SubmittedRun) -> Iterator[Problem]:
    from fedllm_bench.metrics.preference import OfMargin

    margins = {side: _values(run.stored("preference_margin", side)) for side in SIDES}
    for name in ("preference_loss", "preference_accuracy"):
        metric = METRICS[name]
        assert isinstance(metric, OfMargin)
        for side in SIDES:
            far = [key for key, value in _values(run.stored(name, side)).items()
                   if key in margins[side] and abs(metric.value(margins[side][key]) - value) > 1e-6]  # fmt: skip
            if far:
                text = f"{counted(len(far), 'score', 'are')} not what the margins give, as {_shown(far[0])}"
                yield Problem(code="evidence", message=text, where=f"{run.where}/scores/{name}.{side}.jsonl.gz")


def _values(scores: Sequence[Score]) -> dict[Key, float]:
    return {(score.cluster, score.item_id): score.value for score in scores if score.value is not None}


def claims(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """The means that submission.json claims are those of the records."""
    claimed = submitted.bundle.submission.claims
    found = {str(run.seed): means(run.scores) for run in submitted.runs}
    for metric, by_seed in claimed.items():
        for seed, value in by_seed.items():
            right = found.get(seed, {}).get(metric)
            if not equal(value, right):
                text = f"{metric} of seed {seed}: claimed {value}, the records give {right}"
                yield Problem(code="claims", message=text, where="submission.json: claims")


def results(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """results.json is what the suite makes of the scores, number by number."""
    for run in submitted.runs:
        if not (run.files.has("results.json") and run.files.has("config.json")):
            continue
        stated, where = run.results, f"{run.where}/results.json.gz"
        infos = {name: METRICS[name].info for name in run.sets}
        right = metrics_of(run.sets, infos)
        rows = {name: [vars(row) for row in client_rows(sides)] for name, sides in run.sets.items()}
        without = () if any(sides.local for sides in run.sets.values()) else OF_LOCAL
        pairs: dict[str, dict[str, Any]] = {"metrics": right, "clients": rows}
        own = run.files.own_metrics()
        said = {key: {name: one for name, one in stated[key].items() if name in value or not is_own(name, own)}
                for key, value in pairs.items()}  # fmt: skip
        wrong = [text for key, value in pairs.items() for text in unequal(said[key], value, key, without)]
        numbers = [text for key, text in wrong if key not in INTERVALS]
        if numbers:
            text = f"{counted(len(numbers), 'number', 'are')} not those of the records: {'; '.join(numbers[:3])}"
            yield Problem(code="results", message=text[:400], where=where)
        elif wrong:
            text = f"{len(wrong)} values of intervals differ when made here: {'; '.join(text for _, text in wrong[:2])}"
            yield Problem(code="intervals", message=text[:400], where=where, level="flagged")


def unequal(stated: Any, right: Any, where: str, without: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """The last key, and what differs, of each value that is not equal; those under the keys `without` are left out."""
    if isinstance(stated, dict) and isinstance(right, dict):
        for key in sorted((stated.keys() | right.keys()) - set(without)):
            if key in stated and key in right:
                yield from unequal(stated[key], right[key], f"{where}.{key}", without)
            else:
                yield key, f"{where}.{key} is {'missing' if key in right else 'not of the records'}"[:120]
    elif isinstance(stated, list) and isinstance(right, list) and len(stated) == len(right):
        for number, (one, other) in enumerate(zip(stated, right, strict=True)):
            yield from unequal(one, other, f"{where}[{number}]", without)
    elif not (equal(stated, right) or _both_say_why(where, stated, right)):
        yield where.rpartition(".")[2], f"{where} is {str(stated)[:40]!a}, not {str(right)[:40]!a}"


def _both_say_why(where: str, stated: Any, right: Any) -> bool:
    """Whether both give a reason for no interval: another version of the suite may word it otherwise."""
    return where.endswith(".no_interval") and isinstance(stated, str) and bool(stated and right)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, float | int) and isinstance(other, float | int) and not isinstance(one, bool):
        return math.isclose(one, other, rel_tol=SMALLEST, abs_tol=SMALLEST)
    return bool(one == other)
