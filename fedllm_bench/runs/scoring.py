"""Scores of adapters on held-out items, kept as JSON lines in a run's folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.cache import cached, key_of
from fedllm_bench.common.interrupts import Stop
from fedllm_bench.common.ledger import Ledger
from fedllm_bench.common.mixtures import Mixture
from fedllm_bench.common.progress import Share
from fedllm_bench.common.trees import Tree
from fedllm_bench.config.config_robust import OF_ATTACK
from fedllm_bench.data.encoder import ChatEncoder
from fedllm_bench.metrics.batches import ALL, Batches, OwnAdapters, trees_of, using_adapters
from fedllm_bench.metrics.items import Item, of_clients, unscored
from fedllm_bench.metrics.registry import (
    METRICS,
    items_of,
    needs_one_model,
    score_group,
    shares_passes,
    together,
    work_of,
)
from fedllm_bench.metrics.sample import sample_block
from fedllm_bench.runs.digests import digest, digest_of_each
from fedllm_bench.runs.loading import Bench
from fedllm_bench.runs.score_files import Scores, found_scores, read_scores, write_scores
from fedllm_bench.scores.score import Score
from fedllm_bench.training.tasks import batched

CLIENTS_AT_ONCE = 16  # whose adapters may lie on the device together
QUICK_SECONDS = 1.0  # a metric that ran no batches took no time to speak of, unless it took longer


def evaluate(
    bench: Bench,
    pairs: Sequence[tuple[Tree | None, Sequence[Item[Any, Any]]]],
    label: str,
    *,
    metrics: Sequence[str] | None = None,
    ledger: Ledger | None = None,
    stop: Stop | None = None,
    is_brief: bool = False,
) -> Scores:
    """Every metric (or `metrics`) under each adapter (None is the base alone) on its items, with one bar for all.

    The values of finished batches are kept in `ledger` and taken from there. Raises Interrupted between two batches
    once `stop` is asked for.
    """
    names = bench.metrics if metrics is None else metrics
    works = [_Work(group, items, adapter) for adapter, items in pairs for group in together(names)]
    return _scores(bench, names, works, label, ledger=ledger, stop=stop, is_brief=is_brief)


def evaluate_each(
    bench: Bench,
    adapters: Mapping[str, Tree],
    label: str,
    *,
    others: tuple[Tree, Sequence[Item[Any, Any]]] | None = None,
    ledger: Ledger | None = None,
    stop: Stop | None = None,
    is_brief: bool = False,
) -> Scores:
    """Every metric on each client's items under its own adapter; `adapters` has them by the client's id.

    Clients share passes where they can: each has few rows, and most of a small pass is not arithmetic. `others`: an
    adapter for the items of users who have none, which are scored after the clients'.
    """
    works = []
    shared = [name for name in bench.metrics if not needs_one_model(name)]
    for ids in batched(adapters, CLIENTS_AT_ONCE):
        for group in together(shared):
            if bench.model.stackable and shares_passes(group):
                each = {client: adapters[client] for client in ids}
                items = [item for client in ids for item in of_clients(bench.items, [client])]
                works.append(_Work(group, items, each=each))
            else:
                works += [_Work(group, of_clients(bench.items, [client]), adapters[client]) for client in ids]
    if others and others[1]:
        works += [_Work(group, others[1], others[0]) for group in together(shared)]
    scores = _scores(bench, shared, works, label, ledger=ledger, stop=stop, is_brief=is_brief)
    return {name: scores[name] if name in scores else _unscored(bench, name, list(adapters)) for name in bench.metrics}


def _unscored(bench: Bench, name: str, ids: Sequence[str]) -> list[Score]:
    """What a metric that needs one model for all clients says of clients with adapters of their own."""
    asked = [item for item in items_of([name], of_clients(bench.items, ids)) if item.part == "train"]
    return [unscored(item, "each client answers with an adapter of its own") for item in asked]


def evaluate_mixtures(
    bench: Bench,
    mixtures: Mapping[str, Mixture],
    unseen: Mixture,
    label: str,
    *,
    ledger: Ledger | None = None,
    stop: Stop | None = None,
    is_brief: bool = False,
) -> Scores:
    """Every metric on each client's items under its own mixture of adapters, by the client's id; then on those of
    unseen users under `unseen`.

    A metric of losses has those of the mixture. One of answers has them from the adapter with the largest share, and so
    has a plugin's, which knows of one adapter at a time.
    """
    works = []
    shared = [name for name in bench.metrics if not needs_one_model(name)]
    of_unseen = [item for item in bench.items if item.part == "unseen"]
    known = [(mixtures, bench.items), (dict.fromkeys((item.row.client_id for item in of_unseen), unseen), of_unseen)]
    for of_client, items in known:
        for ids in batched(of_client, CLIENTS_AT_ONCE if bench.model.stackable else 1):
            own, some = {client: of_client[client] for client in ids}, of_clients(items, ids)
            for group in together(shared):
                if shares_passes(group):
                    works.append(_Work(group, some, mixed=own))
                else:
                    works += [_Work(group, of_clients(some, [client]), one.chosen) for client, one in own.items()]
    scores = _scores(bench, shared, works, label, ledger=ledger, stop=stop, is_brief=is_brief)
    return {name: scores[name] if name in scores else _unscored(bench, name, list(mixtures)) for name in bench.metrics}


@dataclass(frozen=True)
class _Work:
    """Metrics that share passes, on items under one adapter (None is the base alone), under that of `each` client, or
    under a mixture of several that each client has.
    """

    group: tuple[str, ...]
    items: Sequence[Item[Any, Any]]
    adapter: Tree | None = None
    each: Mapping[str, Tree] | None = None
    mixed: Mapping[str, Mixture] | None = None

    @property
    def has_adapter(self) -> bool:
        return any(one is not None for one in (self.adapter, self.each, self.mixed))

    def name(self) -> str:
        """Names the adapter or adapters by their contents."""
        if self.mixed is not None:
            shares = {client: list(one.shares) for client, one in self.mixed.items()}
            return key_of([shares, digest_of_each(trees_of(self.mixed))])
        return digest(self.adapter) if self.each is None else digest_of_each(self.each)

    def own(self, bench: Bench) -> OwnAdapters | None:
        if self.mixed is not None:
            return OwnAdapters.mixed(bench.model, self.mixed)
        return OwnAdapters(bench.model, self.each) if self.each is not None else None

    def batches(self, bench: Bench, of: str) -> Batches:
        """Where its batches are computed: here, or by the workers of the run."""
        own = self.own(bench)
        if bench.workers is None or not shares_passes(self.group):
            return Batches(of=of, own=own)
        trees = own.of_client if own is not None else {} if self.adapter is None else {ALL: self.adapter}
        return Batches(of=of, own=own, elsewhere=bench.workers.under(of, trees, using_adapters))


def _scores(
    bench: Bench,
    names: Sequence[str],
    works: Sequence[_Work],
    label: str,
    *,
    ledger: Ledger | None,
    stop: Stop | None = None,
    is_brief: bool = False,
) -> Scores:
    """The scores of all works, by metric and in their order, with one bar."""
    scores: Scores = {name: [] for name in names}
    rooms = [work_of(work.group, work.items, bench.settings, has_adapter=work.has_adapter) for work in works]
    end = 0.0
    with Share(f"score {label}", sum(rooms), is_brief=is_brief) as share:
        for work, room in zip(works, rooms, strict=True):
            started, end = time.monotonic(), end + room
            batches = work.batches(bench, work.name() if ledger or bench.workers else "")
            batches = replace(batches, ledger=ledger, share=share, room=room, stop=stop or Stop())
            with bench.model.using(work.adapter):
                found = score_group(work.group, bench.model, work.items, replace(bench.settings, batches=batches))
            for name, of_metric in found.items():
                scores[name] += of_metric
            share.reach(end, is_new=time.monotonic() - started > QUICK_SECONDS)
    return scores


def depends_on(bench: Bench) -> dict[str, Any]:
    """What scores hang on beside the adapter: those of the base are equal for all methods and seeds."""
    config, settings, attack = bench.config, bench.settings, bench.settings.attack
    found = {
        "base": bench.cell.base_hash,
        "dtype": config.model.dtype,
        "split": bench.cell.split.hash,
        "template": ChatEncoder(bench.model.tokenizer, settings.template).cache_name,
        "sequence_length": config.local.sequence_length,
        "max_new_tokens": settings.max_new_tokens,
        "batch_tokens": settings.batch_tokens,
        "threads": bench.cell.threads,
        "versions": {name: METRICS[name].info.version for name in bench.metrics},
    }
    if config.data.canaries:  # other secrets, other members
        found["canaries"] = [config.data.canaries, config.data.canary_repeats, config.seed]
    if words := [[attack.trigger, attack.answer] for name in OF_ATTACK if name in bench.metrics]:
        found["attack"] = words[0]
    if sample_block(bench.items, bench.cell.split) is not None:  # else every row is scored, by whatever settings
        found["rows"] = [[item.part, item.row.client_id, item.row.row_id] for item in bench.items]
    return found


def ledger_at(path: Path, bench: Bench) -> Ledger:
    """Where the batches of scores are kept until all are done."""
    return Ledger(path, key_of({**depends_on(bench), "device": bench.model.device.type}))


def saved_scores(folder: Path, side: str, metrics: Iterable[str], compute: Callable[[], Scores]) -> Scores:
    """The scores in `folder`/scores, computed and written there when one is missing."""
    names = list(metrics)
    found = found_scores(folder, side, names)
    if found is None:
        write_scores(folder, side, names, compute())
        found = read_scores(folder, side, names)
    return found


def own_scores(bench: Bench, side: str, compute: Callable[[Ledger], Scores]) -> Scores:
    """As :func:`saved_scores` in the run's folder; what `compute` keeps in the ledger is there after a kill."""
    folder = bench.cell.folder
    ledger = ledger_at(folder / "scores" / f"{side}.batches", bench)
    found = saved_scores(folder, side, bench.metrics, lambda: compute(ledger))
    ledger.remove()
    return found


def shared_scores(bench: Bench, side: str, compute: Callable[[Ledger], Scores]) -> Scores:
    """As :func:`own_scores` in the cache, whole or not at all (:func:`cached`), for all runs with equal scores.

    The batches that are done lie beside the final place, under the lock of whoever computes the rest.
    """
    final = base_scores(bench)
    place, key = final.parent, final.name
    path = place / f"{key}.batches"
    found = cached(
        place,
        key,
        make=lambda folder: write_scores(folder, side, bench.metrics, compute(ledger_at(path, bench))),
        read=lambda folder: found_scores(folder, side, bench.metrics),
    )
    path.unlink(missing_ok=True)
    return found


def base_scores(bench: Bench) -> Path:
    """The folder of the cache that holds the base's scores, or will."""
    return files.cache_root() / "base_scores" / key_of(depends_on(bench))
