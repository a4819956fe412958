"""Ranks of clients in the log of a run: those that the seed deals, less where a method prunes them; and their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fedllm_bench.config.ranks import Ranks
from fedllm_bench.leaderboard.submission.submitted import Round, SubmittedRun
from fedllm_bench.methods.adapters.ranks import CutRanks
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.hetlora import HetLora
from fedllm_bench.methods.wrapped import Wrapped, find
from fedllm_bench.training.budget import Traffic


def wrong_ranks(run: SubmittedRun) -> Iterator[str]:
    """What is not as the seed deals it; a client whose method prunes never has more rows than it had before."""
    ranks, prunes = find(run.method, CutRanks), find(run.method, HetLora) is not None
    before: dict[int, int] = {}
    for line in run.rounds:
        if ranks is None:
            if line.ranks:
                yield f"round {line.round} has ranks, and all clients of its config have one"
            continue
        if len(line.ranks) != len(line.clients):
            yield f"round {line.round} has {len(line.ranks)} ranks of {len(line.clients)} clients"
            continue
        for client, rank, failure in zip(line.clients, line.ranks, line.failures, strict=True):
            dealt = ranks.rank_of(client)
            most = before.get(client, dealt) if prunes and failure is None else dealt
            if not (1 <= rank <= most if prunes and failure is None else rank == most):
                yield f"round {line.round}: client number {client} has the rank {rank}, not {most}"
            if failure is None:
                before[client] = min(rank, most)


def bytes_of_round(run: SubmittedRun, line: Round, traffic: Traffic) -> tuple[int, int]:
    """Bytes down and up of all clients of a round; an upload has the rank that the log says."""
    of_each = [traffic.of_client(line.round - 1, client) for client in line.clients]
    down, ups = sum(down for down, _ in of_each), [up for _, up in of_each]
    if len(line.ranks) == len(line.clients) and find(run.method, CutRanks) is not None:
        of_rank = {rank: replace(traffic, method=with_rank(traffic.method, rank)) for rank in set(line.ranks)}
        of_ranked = zip(line.ranks, line.clients, strict=True)
        ups = [of_rank[rank].of_client(line.round - 1, client)[1] for rank, client in of_ranked]
    return down, sum(up for up, failure in zip(ups, line.failures, strict=True) if failure is None)


def with_rank(method: FedAvg, rank: int) -> FedAvg:
    """The method with clients who all have this rank."""
    if isinstance(method, CutRanks):
        return replace(method, ranks=Ranks((max(1, min(rank, method.rank)),)))
    return replace(method, inner=with_rank(method.inner, rank)) if isinstance(method, Wrapped) else method
