"""From the scores of a run to results.json: one flat entry for each metric and each view of it.

A view is a metric over some of its items, or another way to average them; `heldout` gives also `perplexity`,
`mini_exact` also `mini_exact_facts`. Unseen users are in the views called `*_unseen` and in no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fedllm_bench.common.files import write_json
from fedllm_bench.results.distribution import distribution
from fedllm_bench.results.entries import ClientRow
from fedllm_bench.results.per_client import per_client
from fedllm_bench.results.schema import SCHEMA_VERSION, check_results
from fedllm_bench.results.sides import Clusters, ScoredSides, sides_of
from fedllm_bench.scores.estimators import (
    MEAN_OVER_CLIENTS,
    MEAN_OVER_TOKENS,
    PERPLEXITY,
    Estimator,
    worst_tenth,
)
from fedllm_bench.scores.levels import CONFIDENCE
from fedllm_bench.scores.power import smallest
from fedllm_bench.scores.score import SCALES, MetricInfo, Score, is_seen, is_unseen
from fedllm_bench.scores.summaries import Summary, paired_difference, per_cluster, summarise

Keep = Callable[[Score], bool]


@dataclass(frozen=True, kw_only=True)
class ScoreSet:
    """The raw scores of one metric. `local` has sampled clients only, each scored with its own adapter."""

    before: Sequence[Score]
    after: Sequence[Score]
    local: Sequence[Score] | None = None

    def keep(self, wanted: Keep) -> ScoreSet:
        local = None if self.local is None else [s for s in self.local if wanted(s)]
        return ScoreSet(
            before=[s for s in self.before if wanted(s)],
            after=[s for s in self.after if wanted(s)],
            local=local or None,
        )


@dataclass(frozen=True, kw_only=True)
class MetricView:
    info: MetricInfo
    keep: Keep
    estimator: Estimator = MEAN_OVER_CLIENTS


def metric_entry(info: MetricInfo, scores: ScoreSet, *, estimator: Estimator = MEAN_OVER_CLIENTS) -> dict[str, Any]:
    """One entry of `metrics`: a summary of each side, paired differences of after to the others, the spread."""

    sides = sides_of(scores.before, scores.after, scores.local)
    return _entry(info, sides, estimator)


def _entry(info: MetricInfo, sides: ScoredSides, estimator: Estimator) -> dict[str, Any]:
    scale = SCALES.get(info.unit)

    def summary(clusters: Clusters | None) -> dict[str, Any] | None:
        return None if clusters is None else summarise(clusters, estimator=estimator, scale=scale).to_dict()

    def difference(pair: tuple[Clusters, Clusters] | None) -> dict[str, Any] | None:
        if pair is None:
            return None
        return difference_dict(paired_difference(*pair, estimator=estimator, scale=scale))

    return {
        "version": info.version,
        "unit": info.unit,
        "higher_is_better": info.higher_is_better,
        "description": info.description,
        "estimator": estimator.description,
        "before": summary(sides.before),
        "after": summary(sides.after),
        "difference": difference(sides.to_before),
        "local": summary(sides.local),
        "difference_to_local": difference(sides.to_local),
        "distribution": distribution(sides, estimator=estimator, higher_is_better=info.higher_is_better),
        "per_client": per_client(sides, estimator=estimator, higher_is_better=info.higher_is_better),
    }


def difference_dict(summary: Summary) -> dict[str, Any]:
    """`significant` is whether the paired interval excludes 0; null where there is no interval.

    `detectable` is the smallest true difference that so many clients would show with a power of 80%.
    """
    detectable = smallest(summary.n, summary.sd)
    return {**summary.to_dict(), "significant": summary.excludes_zero, "detectable": detectable}


def metrics_of(scores: Mapping[str, ScoreSet], infos: Mapping[str, MetricInfo]) -> dict[str, dict[str, Any]]:
    """The flat `metrics` object: each metric, followed by its views that have at least one item."""
    entries: dict[str, dict[str, Any]] = {}
    for name, score_set in scores.items():
        kept: dict[Keep, ScoredSides] = {}  # views of the same items share what they are made of
        for view in views_of(infos[name], score_set):
            if view.info.name in entries:
                raise ValueError(f"two entries would be called {view.info.name!r}; rename a metric or a task")
            if view.keep not in kept:
                of = score_set.keep(view.keep)
                kept[view.keep] = sides_of(of.before, of.after, of.local)
            entries[view.info.name] = _entry(view.info, kept[view.keep], view.estimator)
    return entries


def views_of(info: MetricInfo, scores: ScoreSet) -> list[MetricView]:
    """The metric itself over seen users, then the views registered for it that have an item."""
    items = [*scores.before, *scores.after]
    more = VIEWS[info.name](info, items) if info.name in VIEWS else []
    return [MetricView(info=info, keep=is_seen), *(view for view in more if any(map(view.keep, items)))]


def _loss_views(info: MetricInfo, items: Sequence[Score]) -> list[MetricView]:
    perplexity = replace(info, name="perplexity", unit="perplexity", description="exp of the mean loss of a token")
    tail = worst_tenth(higher_is_better=info.higher_is_better)
    return [
        MetricView(info=_named(info, "tokens"), keep=is_seen, estimator=MEAN_OVER_TOKENS),
        MetricView(info=_named(info, "worst_tenth"), keep=is_seen, estimator=tail),
        MetricView(info=_named(info, "unseen", "users without training rows"), keep=is_unseen),
        # of tokens, not of clients: one client with a loss of 8 would make the mean of the exps
        MetricView(info=perplexity, keep=is_seen, estimator=PERPLEXITY),
        MetricView(
            info=_named(perplexity, "unseen", "users without training rows"),
            keep=is_unseen,
            estimator=PERPLEXITY,
        ),
    ]


def _task_views(info: MetricInfo, items: Sequence[Score]) -> list[MetricView]:
    tasks = {score.group["task"] for score in items if "task" in score.group}
    holders = {"self": "facts the client was taught", "others": "facts only other clients were taught"}
    views = [
        *(MetricView(info=_named(info, task, task), keep=_in_group(task=task)) for task in tasks),
        *(
            MetricView(info=_named(info, f"facts_{holder}", what), keep=_in_group(task="facts", holder=holder))
            for holder, what in holders.items()
        ),
    ]
    unseen = MetricView(info=_named(info, "unseen", "users without training rows"), keep=is_unseen)
    return [*sorted(views, key=lambda view: view.info.name), unseen]


def _pair_loss_views(info: MetricInfo, items: Sequence[Score]) -> list[MetricView]:
    tail = worst_tenth(higher_is_better=info.higher_is_better)
    return [MetricView(info=_named(info, "worst_tenth"), keep=is_seen, estimator=tail), *_unseen_view(info, items)]


def _unseen_view(info: MetricInfo, items: Sequence[Score]) -> list[MetricView]:
    return [MetricView(info=_named(info, "unseen", "users without training rows"), keep=is_unseen)]


def _taste_views(info: MetricInfo, items: Sequence[Score]) -> list[MetricView]:
    tastes = {"refusers": "questions on which the user preferred a refusal", "others": "the other questions"}
    return [MetricView(info=_named(info, name, only), keep=_in_group(taste=name)) for name, only in tastes.items()]


def _named(info: MetricInfo, suffix: str, only: str = "") -> MetricInfo:
    description = f"{info.description}; only {only}" if only else info.description
    return replace(info, name=f"{info.name}_{suffix}", description=description)


def _in_group(**wanted: str) -> Keep:
    def keep(score: Score) -> bool:  # asked of every item for every view: a plain loop takes half the time
        if is_unseen(score):
            return False
        for key, value in wanted.items():  # noqa: SIM110
            if score.group.get(key) != value:
                return False
        return True

    return keep


VIEWS: dict[str, Callable[[MetricInfo, Sequence[Score]], list[MetricView]]] = {
    "heldout": _loss_views,
    "mini_exact": _task_views,
    "mini_choice": _task_views,
    "preference_loss": _pair_loss_views,
    "preference_accuracy": _unseen_view,
    "preference_margin": _unseen_view,
    "likelihood_accuracy": _unseen_view,
    "likelihood_margin": _unseen_view,
    "mini_refusal": _taste_views,
    "chrf": _unseen_view,
    "over_copy": _unseen_view,
    "edit_f05": _unseen_view,
    "ended": _unseen_view,
    "attack_success": _unseen_view,
    "attack_misfire": _unseen_view,
}


def client_rows(scores: ScoreSet) -> list[ClientRow]:
    """One row for each seen client, in the order of client ids."""
    seen = scores.keep(is_seen)
    before, after, local = per_cluster(seen.before), per_cluster(seen.after), per_cluster(seen.local or ())
    return [
        ClientRow(
            client=client,
            before=before[client].mean if client in before else None,
            after=after[client].mean if client in after else None,
            local=local[client].mean if client in local else None,
            n_rows=after[client].n_scored if client in after else 0,
        )
        for client in sorted(before.keys() | after.keys())
    ]


def results_payload(
    *,
    run: Mapping[str, Any],
    data: Mapping[str, Any],
    cost: Mapping[str, Any],
    metrics: Mapping[str, Any],
    clients: Mapping[str, Sequence[ClientRow]],
    over_rounds: Mapping[str, Any] | None = None,
    personalisation: Mapping[str, Any] | None = None,
    privacy: Mapping[str, Any] | None = None,
    communication: Mapping[str, Any] | None = None,
    aggregation: Mapping[str, Any] | None = None,
    attack: Mapping[str, Any] | None = None,
    clock: Mapping[str, Any] | None = None,
    early_stop: Mapping[str, Any] | None = None,
    offsite: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole of results.json; keys are those of `schema.Results`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run": dict(run),
        "data": dict(data),
        "cost": dict(cost),
        "intervals": made_with(),
        "metrics": dict(metrics),
        "clients": {name: [asdict(row) for row in rows] for name, rows in clients.items()},
        "over_rounds": over_rounds,
        "personalisation": personalisation,
        "privacy": privacy,
        "communication": communication,
        "aggregation": aggregation,
        "attack": attack,
        "clock": clock,
        "early_stop": early_stop,
        "offsite": offsite,
    }


def made_with() -> dict[str, Any]:
    """`intervals`: nothing is resampled any more."""
    return {"level": CONFIDENCE, "samples": 0, "seed": 0, "bootstrap_from": None}


def write_results(path: Path, payload: Mapping[str, Any]) -> None:
    """Check, then write whole or not at all."""
    check_results(payload)
    write_json(path, dict(payload))
