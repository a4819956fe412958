"""Checks stand where the config has them, training ends where they say, and the best round is told."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from fedllm_bench.common.text import counted
from fedllm_bench.data.dealing.kept_apart import num_apart
from fedllm_bench.leaderboard.checks.split_items import SplitItems
from fedllm_bench.leaderboard.submission.problems import Problem
from fedllm_bench.leaderboard.submission.submitted import SubmittedRun
from fedllm_bench.results.early_stop import early_stop_block, ends_at


def early_stop(run: SubmittedRun, where: str) -> Iterator[Problem]:
    config, lines = run.config, [vars(line) for line in run.rounds]
    for text in _wrong_checks(run):
        yield Problem(code="rounds", message=text, where=where)
    for text in islice(_wrong_counts(run), 1):
        yield Problem(code="num-examples", message=text, where=where)
    stated = run.results.get("early_stop") or {}
    rows, clients = (stated.get(f"num_validation_{what}", 0) for what in ("rows", "clients"))
    if run.results.get("early_stop") != early_stop_block(config, lines, rows, clients):
        text = "it is not that of the config and of rounds.jsonl.gz"
        yield Problem(code="cost", message=text, where=f"{run.where}/results.json.gz: early_stop")


def _wrong_checks(run: SubmittedRun) -> Iterator[str]:
    """The first round whose check is missing or too much, and rounds after the end."""
    federation, lines = run.config.federation, [vars(line) for line in run.rounds]
    for number, line in enumerate(run.rounds, 1):
        is_due = federation.patience and (number % federation.check_every == 0 or number == len(run.rounds))
        if bool(is_due) != (line.check is not None):
            yield f"round {number} {'lacks its check' if is_due else 'has a check that its config does not ask for'}"
            return
    ends = ends_at(run.config, lines)
    if ends is not None and ends < len(lines):
        yield f"there are {len(lines)} rounds, and federation.patience={federation.patience} ends them at {ends}"


def _wrong_counts(run: SubmittedRun) -> Iterator[str]:
    """Checks of other clients or rows than results.json says: their bytes follow from the number of clients."""
    stated = run.results.get("early_stop") or {}
    right = [stated.get(f"num_validation_{what}") for what in ("clients", "rows")]
    for line in run.rounds:
        if line.check is not None and [line.check["clients"], line.check["rows"]] != right:
            got = f"{counted(line.check['clients'], 'client')} and {counted(line.check['rows'], 'row')}"
            yield f"round {line.round} has a check of {got}, results.json says {right[0]} and {right[1]}"


def validation(run: SubmittedRun, known: SplitItems) -> Iterator[str]:
    """Validation rows are those that the split gives: the share of the rows of each client that is asked."""
    stated, federation = run.results.get("early_stop"), run.config.federation
    if not federation.patience or not stated or run.has_own_method or run.config.data.split_pairs:
        return
    sizes = [client.train for client in known.split.manifest.clients]
    asked = known.local_sample(run) if run.method.personal else range(len(sizes))
    apart = [count for client in asked if (count := num_apart(sizes[client], federation.validation))]
    got, right = [stated[f"num_validation_{what}"] for what in ("clients", "rows")], [len(apart), sum(apart)]
    # rows can be without a counted token; those that gave way to canaries are never kept apart
    is_exact = run.config.profile == "mini" and not run.config.data.canaries
    if got != right and (is_exact or min(got) < 1 or got[0] > right[0] or got[1] > right[1]):
        yield (
            f"validation rows: {counted(got[1], 'row')} of {counted(got[0], 'client')}, the split gives {right[1]} of "
            f"{right[0]}"
        )
