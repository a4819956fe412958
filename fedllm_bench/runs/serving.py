"""What answers after some rounds: the global adapter, or that of each client; and its scores."""

from __future__ import annotations

from collections.abc import Sequence

from fedllm_bench.common.interrupts import Stop
from fedllm_bench.common.ledger import Ledger
from fedllm_bench.common.mixtures import Mixture, parts_of
from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.base import ClientState, Server, trains_alone
from fedllm_bench.runs.loading import Bench
from fedllm_bench.runs.score_files import Scores
from fedllm_bench.runs.scoring import evaluate, evaluate_each, evaluate_mixtures
from fedllm_bench.training.checkpoint import ClientStates


def own_adapter(bench: Bench, server: Server, client: int) -> Tree:
    """What one client answers with; one that was never chosen has what its method gives to those."""
    known = {**state_of(bench, server, client), **bench.method.tell(server, client)}
    return bench.method.serve(server.params, known)


def state_of(bench: Bench, server: Server, client: int) -> ClientState:
    states = ClientStates(bench.cell.folder / "checkpoint" / "clients")
    return states.get(client, bench.method.client_init(server.params), server.round)


def mixtures_of(bench: Bench, server: Server, sample: Sequence[int]) -> tuple[dict[str, Mixture], Mixture] | None:
    """The mixtures with which clients of the sample answer, and that of users who have none of their own."""
    first = bench.method.mixture(bench.method.client_init(server.params))
    if first is None:
        return None
    parts, found = parts_of(server.params), {}
    for client in sample:
        shares = bench.method.mixture(state_of(bench, server, client))
        found[bench.clients.ids[client]] = Mixture(parts, (first if shares is None else shares).tolist())
    return found, Mixture(parts, first.tolist())


def scores_under(
    bench: Bench,
    server: Server,
    label: str,
    sample: Sequence[int],
    *,
    ledger: Ledger | None = None,
    stop: Stop | None = None,
    is_brief: bool = False,
) -> Scores:
    """Scores of the bench's items under the global adapter, or of the clients of `sample` under their own.

    Unseen users have none of their own, so theirs is the global one; under `local` they are not scored.
    """
    method, ids = bench.method, bench.clients.ids
    if not method.personal:
        pairs = [(method.adapter(server), bench.items)]
        return evaluate(bench, pairs, label, ledger=ledger, stop=stop, is_brief=is_brief)
    if (mixed := mixtures_of(bench, server, sample)) is not None:
        return evaluate_mixtures(bench, *mixed, label, ledger=ledger, stop=stop, is_brief=is_brief)
    adapters = {ids[client]: own_adapter(bench, server, client) for client in sample}
    unseen = [] if trains_alone(method) else [item for item in bench.items if item.part == "unseen"]
    others = (method.adapter(server), unseen)
    return evaluate_each(bench, adapters, label, others=others, ledger=ledger, stop=stop, is_brief=is_brief)
