"""Personalisation: a few local steps of each client from the global adapter, and its held-out loss after them.

Wang et al., 2019 (arXiv:1910.10252), and the fine-tuning of Yu et al., 2020 (arXiv:2002.04758): what a client gains
by adapting the model that all have trained to its own rows before it uses it. The steps are those of FedAvg (plain
local training with a new optimiser) whatever the method of the rounds was.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fedllm_bench.common import files
from fedllm_bench.common.interrupts import Stop
from fedllm_bench.common.progress import track
from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.config.run import Local, RunConfig
from fedllm_bench.data.clients import sample_by_size
from fedllm_bench.methods.adapters.emulated import EMULATOR
from fedllm_bench.methods.base import FedAvg, Server
from fedllm_bench.methods.products.residual import RESIDUAL
from fedllm_bench.metrics.batches import Batches, OwnAdapters, using_adapters
from fedllm_bench.metrics.items import HeldoutItem, PairItem, unscored
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.runs.digests import digest_of_each
from fedllm_bench.runs.loading import Bench
from fedllm_bench.scores.score import Score
from fedllm_bench.training import engines
from fedllm_bench.training.client_round import ClientResult
from fedllm_bench.training.run import TrainingRun
from fedllm_bench.training.tasks import Until, batched, clients_per_block, tasks_of_steps

log = logging.getLogger(__name__)
# The purpose of the random streams, in the place of the round: rounds have smaller numbers, so no batch or dropout
# mask of a round comes again, and the steps of a client do not depend on how many rounds there were.
ROUND = 2**31 - 1


def is_wanted(bench: Bench) -> bool:
    steps = bench.config.evaluation.personal_steps
    if steps and bench.method.personal:
        log.info("evaluation.personal_steps=%d is passed over: under %s each client has an adapter of its own",
                 steps, bench.config.method.name)  # fmt: skip
    return bool(steps) and not bench.method.personal


def local_of(config: RunConfig, done: int) -> Local:
    """The settings of the rounds at one rate: that asked for, else that of the last of the rounds that were `done`."""
    last = config.local.lr_at(done - 1, config.federation.rounds)
    return replace(config.local, lr=config.evaluation.personal_lr or last)


def personalise(bench: Bench, server: Server, stop: Stop | None = None) -> list[Score]:
    """Held-out scores of the chosen clients, each under its own adapter, in the order of clients.

    Written block by block of clients, so that a killed run loses one block; a client whose steps have no finite
    answer has unscored items that say so. When `stop` is asked for, the block in training is scored and written, and
    Interrupted is raised.
    """
    stop = stop or Stop()
    path = file_of(bench)
    items = _items_of(bench)
    ids = bench.clients.ids
    blocks = list(batched(_chosen(bench, items), _block_size(bench)))
    scores = _read(path)
    waiting = [block for block in blocks if not all(ids[client] in scores for client in block)]
    answers = _answers(bench, server, waiting, stop)
    for results in track(answers, "personalise", len(blocks), len(blocks) - len(waiting)):
        scores |= _scores(bench, server, results, items)
        files.write_jsonl(path, [score.to_dict() for client in sorted(scores) for score in scores[client]])
    stop.check()
    return [score for client in sorted(scores) for score in scores[client]]


def file_of(bench: Bench) -> Path:
    return bench.cell.folder / "scores" / f"{bench.loss}.personal.jsonl"


def _items_of(bench: Bench) -> dict[str, list[HeldoutItem | PairItem]]:
    found: dict[str, list[HeldoutItem | PairItem]] = {}
    for item in bench.items:
        if item.part == "heldout":
            found.setdefault(item.row.client_id, []).append(item)
    return found


def _chosen(bench: Bench, items: dict[str, list[HeldoutItem | PairItem]]) -> list[int]:
    """A sample by size of the clients that have rows to train on and rows to be scored on, or all of them."""
    sizes = [len(bench.clients.train_rows[client]) for client in bench.clients.ids]
    allowed = [k for k, client in enumerate(bench.clients.ids) if sizes[k] and client in items]
    return sample_by_size(sizes, allowed, bench.config.evaluation.personal_clients) if allowed else []


def _block_size(bench: Bench) -> int:
    return clients_per_block(bench.config, bench.clients.tokens["train"], bench.model.plan)


def _read(path: Path) -> dict[str, list[Score]]:
    scores: dict[str, list[Score]] = {}
    for record in files.read_jsonl_so_far(path):
        score = Score.from_dict(record)
        scores.setdefault(score.cluster, []).append(score)
    return scores


def _answers(
    bench: Bench, server: Server, blocks: Sequence[Sequence[int]], stop: Stop
) -> Iterator[Sequence[ClientResult]]:
    config, method = bench.config, FedAvg()
    map_blocks = engines.ENGINES[config.engine](bench.model, method, config)
    # a folder without states: those of the run's method, as SCAFFOLD's, are not for these steps
    folder = bench.cell.folder / "personal"
    run = TrainingRun(config=config, method=method, clients=bench.clients, map_blocks=map_blocks, folder=folder)
    start, steps = Server(server.params, round=ROUND), config.evaluation.personal_steps
    tasks = Until(stop, (list(tasks_of_steps(run, start, block, steps)) for block in blocks))
    # that of the rounds may hold a change of the base too; what else a method sends is of its rounds alone
    kept = (RESIDUAL, EMULATOR)
    message = {"params": server.params} | {key: t for key, t in server.slots.items() if key in kept}
    yield from map_blocks(message, tasks, local_of(config, server.round))


def _scores(
    bench: Bench,
    server: Server,
    results: Sequence[ClientResult],
    items: Mapping[str, Sequence[HeldoutItem | PairItem]],
) -> dict[str, list[Score]]:
    """The scores of each client of a block under its own adapter."""
    failures = {each.client_id: each.failure for each in results if each.failure is not None}
    found = {client: [unscored(item, failure) for item in items[client]] for client, failure in failures.items()}
    trained = [each for each in results if each.failure is None]
    for block in batched(trained, len(trained) if bench.model.stackable else 1):
        adapters = {each.client_id: _own(bench, server, each) for each in block}
        settings = replace(bench.settings, batches=_batches(bench, adapters))
        chosen = [item for client in adapters for item in items[client]]
        for score in METRICS[bench.loss].score(bench.model, chosen, settings):
            found.setdefault(score.cluster, []).append(score)
    return found


def _own(bench: Bench, server: Server, result: ClientResult) -> Tree:
    """The adapter of a client after its steps; with it goes what the rounds changed of the base."""
    params = tmap(lambda x, d: x + d, server.params, result.upload["delta"])
    return bench.method.adapter(replace(server, params=params))


def _batches(bench: Bench, adapters: Mapping[str, Tree]) -> Batches:
    own = OwnAdapters(bench.model, adapters)
    if bench.workers is None:
        return Batches(own=own)
    return Batches(own=own, elsewhere=bench.workers.under(digest_of_each(adapters), adapters, using_adapters))
