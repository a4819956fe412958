"""Checks stand where the config has them, training ends where they say, and the best round is told."""

from __future__ import annotations

from collections.abc import Iterator

from fedllm_bench.leaderboard.submission.problems import Problem
from fedllm_bench.leaderboard.submission.submitted import SubmittedRun
from fedllm_bench.results.early_stop import early_stop_block, has_stopped


def early_stop(run: SubmittedRun, where: str) -> Iterator[Problem]:
    config, lines = run.config, [vars(line) for line in run.rounds]
    for text in _wrong_checks(run):
        yield Problem(code="rounds", message=text, where=where)
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
    ends = [number for number in range(1, len(lines)) if has_stopped(run.config, lines[:number])]
    if ends:
        yield f"there are {len(lines)} rounds, and federation.patience={federation.patience} ends them at {ends[0]}"
