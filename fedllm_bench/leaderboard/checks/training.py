"""The log of rounds is the one that the config, the seed and the split give, and the sums of it are right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fedllm_bench.common.text import counted
from fedllm_bench.data.manifest import Split
from fedllm_bench.leaderboard.checks.context import CheckContext
from fedllm_bench.leaderboard.checks.scores import equal
from fedllm_bench.leaderboard.checks.split_items import SplitItems
from fedllm_bench.leaderboard.checks.stopping import early_stop, validation
from fedllm_bench.leaderboard.submission.problems import Problem
from fedllm_bench.leaderboard.submission.submitted import MOST_ROUNDS, Round, Submitted, SubmittedRun
from fedllm_bench.methods.base import trains_alone
from fedllm_bench.methods.robust.notes import is_possible_choice, robust_record
from fedllm_bench.pipeline.results_stage import failures_of, num_dropouts
from fedllm_bench.results.budget import MB
from fedllm_bench.results.robustness import aggregation_block
from fedllm_bench.training.batches import schedule
from fedllm_bench.training.faults import DROPPED_OUT, dropouts, straggles

FEW = 3  # problems of one kind that are shown for a run; the rest is counted


def log(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """The log by itself: rounds from 1, possible numbers, failures that explain what is missing."""
    for run in submitted.runs if submitted.is_of_suite else ():
        where = f"{run.where}/rounds.jsonl.gz"
        if not run.has_its_rounds:
            text = f"{counted(len(run.rounds), 'round')}; its config has {run.config.federation.rounds}"
            yield Problem(code="rounds", message=text, where=where)
        yield from _budget(run, where)
        if [line.round for line in run.rounds] != list(range(1, len(run.rounds) + 1)):
            yield Problem(code="rounds", message="its rounds are not 1, 2, 3 and so on", where=where)
        yield from _shortened([text for line in run.rounds for text in _impossible(line)], "log", where)
        yield from _cost(run)
        yield from _rules(run, where)
        yield from early_stop(run, where)


def _rules(run: SubmittedRun, where: str) -> Iterator[Problem]:
    """Each round was combined by the rule of its config, or by the fallback where too few answered."""
    yield from _shortened(list(wrong_rules(run)), "log", where)
    stated = [{"rule": None, **vars(line)} for line in run.rounds]
    if run.results.get("aggregation") != aggregation_block(run.config, stated):
        text = "it is not that of the config and of rounds.jsonl.gz"
        yield Problem(code="cost", message=text, where=f"{run.where}/results.json.gz: aggregation")


def wrong_rules(run: SubmittedRun) -> Iterator[str]:
    """Rounds that do not say the rule and the attackers of their config, or a choice that the rule cannot make."""
    for line in run.rounds:
        results = [{"clients": c, "failure": why} for c, why in zip(line.clients, line.failures, strict=True)]
        right = robust_record(run.config, run.method, run.num_clients, results)
        own = {key: value for key, value in vars(line).items() if key in ("rule", "attackers")}
        if own != right:
            yield f"round {line.round} says {own}, its config and answers give {right}"
        answered = [client for client, why in zip(line.clients, line.failures, strict=True) if why is None]
        if line.kept is not None and not is_possible_choice(run.method, answered, line.kept):
            yield f"round {line.round} says that it kept {line.kept[:12]}, which its rule cannot"


def _budget(run: SubmittedRun, where: str) -> Iterator[Problem]:
    """No more bytes than its budget allows, and results.json says when it ended."""
    allowed = run.config.communication.budget_mb
    if allowed is None:
        return
    if run.num_bytes > allowed * MB:
        text = f"its rounds send {run.num_bytes / MB:.6g} MB, its config has communication.budget_mb={allowed:g}"
        yield Problem(code="bytes", message=text, where=where)
    stated = (run.results.get("communication") or {}).get("budget") or {}
    if stated.get("rounds") != len(run.rounds):
        text = f"{stated.get('rounds')} rounds are stated within its budget, its log has {len(run.rounds)}"
        yield Problem(code="rounds", message=text, where=f"{run.where}/results.json.gz: communication")


def _shortened(texts: Sequence[str], code: str, where: str) -> Iterator[Problem]:
    if texts:
        more = f" and {len(texts) - FEW} more" if len(texts) > FEW else ""
        yield Problem(code=code, message=("; ".join(texts[:FEW]) + more)[:400], where=where)


def _impossible(line: Round) -> Iterator[str]:
    at = f"round {line.round}"
    if line.seconds <= 0:
        yield f"{at} took {line.seconds} seconds"
    if not math.isfinite(line.update_norm) or line.update_norm < 0:
        yield f"{at}: the update's norm is {line.update_norm}"
    if min(line.bytes_up, line.bytes_down) < 0:
        yield f"{at}: a negative number of bytes"
    for client, loss, steps, failure in zip(line.client_ids, line.losses, line.steps, line.failures, strict=True):
        if failure is None and steps and (loss is None or not math.isfinite(loss) or loss < 0):
            yield f"{at}: client {client[:40]!a} trained and has the loss {loss}"
        if failure == DROPPED_OUT and (steps or loss is not None):
            yield f"{at}: client {client[:40]!a} dropped out and trained"


def _cost(run: SubmittedRun) -> Iterator[Problem]:
    """results.json sums the log up."""
    cost, lines = run.results["cost"], [vars(line) for line in run.rounds]
    right = {
        "bytes_up": sum(line.bytes_up for line in run.rounds),
        "bytes_down": sum(line.bytes_down for line in run.rounds),
        "num_answers": sum(len(line.clients) for line in run.rounds) - num_dropouts(lines),
        "num_dropouts": num_dropouts(lines),
        "failures": failures_of(lines),
    }
    wrong = [key for key, value in right.items() if cost[key] != value]
    if wrong:
        text = f"{', '.join(wrong)} are not those of rounds.jsonl.gz"
        yield Problem(code="cost", message=text, where=f"{run.where}/results.json.gz: cost")
    seconds = sum(line.seconds for line in run.rounds)
    if cost["seconds"].get("train", 0.0) < seconds - 0.01 * (1 + len(run.rounds)):
        text = f"training took {cost['seconds'].get('train')} seconds, its rounds together {seconds:.1f}"
        yield Problem(code="cost", message=text, where=f"{run.where}/results.json.gz: cost")


def derived(submitted: Submitted, context: CheckContext) -> Iterator[Problem]:
    """Who trained in each round, on how many rows, for how many steps, at which rate."""
    if not submitted.is_of_suite:
        return
    for run in submitted.runs:
        if not run.has_its_rounds or len(run.rounds) > MOST_ROUNDS:
            continue
        where = f"{run.where}/rounds.jsonl.gz"
        rates = [
            f"round {line.round} has the rate {line.lr:g}, not {right:g}"
            for number, line in enumerate(run.rounds)
            if not equal(line.lr, right := run.config.local.lr_at(number, run.config.federation.rounds))
        ]
        yield from _shortened(rates, "learning-rate", where)
        split = context.split_of(run.config, run.files.entry.split_hash)
        if split is not None:
            for code, texts in _against(run, split).items():
                yield from _shortened(texts, code, where)


def _against(run: SubmittedRun, split: Split) -> dict[str, list[str]]:
    """Code -> what is otherwise than the split gives it."""
    known = SplitItems(split, run.config)
    plan = schedule(run.config, len(known.ids), known.file_order)[: len(run.rounds)]
    only = set(known.local_sample(run)) if trains_alone(run.method) else None
    found: dict[str, list[str]] = {"schedule": [], "num-examples": list(validation(run, known)), "local-steps": []}
    taken = StepsTaken(run)
    for number, (line, planned) in enumerate(zip(run.rounds, plan, strict=True)):
        chosen = [client for client in planned if only is None or client in only]
        if run.method.pooled:
            _compare_pooled(run, known, line, chosen, found)
        elif line.clients != chosen or line.client_ids != [known.ids[client] for client in chosen]:
            found["schedule"].append(
                f"round {line.round} has clients {line.clients[:12]}, the seed gives {chosen[:12]}"
            )
        else:
            _compare(taken, known, line, number, found)
    return found


@dataclass
class StepsTaken:
    """The local steps that clients take of so many planned ones.

    A method of a plugin is not made here, and may lay a round out as it likes. But it does so for equal numbers of
    planned steps alike: what the log says of the first answer is expected of the others.
    """

    run: SubmittedRun
    logged: dict[int, int] = field(default_factory=dict)  # planned -> taken

    def of(self, planned: int, steps: int, failure: str | None) -> int:
        """Those of a client, for whom the log says `steps` and `failure`."""
        if not self.run.has_own_method:
            return sum(len(phase.steps) for phase in self.run.method.phases(planned))
        if failure is None:
            return self.logged.setdefault(planned, steps)
        return max(self.logged.get(planned, 0), steps)


def _compare(taken: StepsTaken, split: SplitItems, line: Round, number: int, found: dict[str, list[str]]) -> None:
    """One round, client by client."""
    run = taken.run
    config, skipped = run.config, _may_skip(run)
    away = dropouts(config, number, line.clients)
    for client, rows, steps, failure in zip(line.clients, line.num_examples, line.steps, line.failures, strict=True):
        at = f"round {line.round}, client {split.ids[client]}"
        size = split.sizes[client]
        if rows > size or (rows < size and not skipped):
            found["num-examples"].append(f"{at}: {counted(rows, 'row')}, the split has {size}")
        if (failure == DROPPED_OUT) != (client in away):
            found["schedule"].append(f"{at}: whether it drops out is not as the seed gives it")
        planned = 0 if client in away or not rows else _steps(run, rows, len(split.ids))
        if planned and straggles(config.faults, config.seed, number, client):
            planned = max(1, round(config.faults.straggler_steps * planned))
        right = taken.of(planned, steps, failure)
        if (failure is None and steps != right) or steps > right:
            found["local-steps"].append(f"{at}: {counted(steps, 'step')}, its config gives {right}")


def _compare_pooled(
    run: SubmittedRun, split: SplitItems, line: Round, chosen: Sequence[int], found: dict[str, list[str]]
) -> None:
    of_chosen = [_steps(run, split.sizes[client], len(split.ids)) for client in chosen]
    steps, rows = round(sum(of_chosen) / len(of_chosen)), sum(split.sizes)
    if line.clients != [len(split.ids)]:
        found["schedule"].append(f"round {line.round} has clients {line.clients[:12]}, and one learner has all rows")
        return
    if line.num_examples[0] > rows or (line.num_examples[0] < rows and not _may_skip(run)):
        found["num-examples"].append(
            f"round {line.round}: {counted(line.num_examples[0], 'row')}, the split has {rows}"
        )
    if line.steps[0] != steps and not _may_skip(run):
        found["local-steps"].append(f"round {line.round}: {counted(line.steps[0], 'step')}, its config gives {steps}")


def _steps(run: SubmittedRun, rows: int, num_clients: int) -> int:
    federation = run.config.federation
    return run.config.local.num_steps(rows, federation.rounds * federation.clients_per_round / num_clients)


def _may_skip(run: SubmittedRun) -> bool:
    """Whether rows can be without a counted token within the sequence length; those of the mini world are not."""
    return run.config.profile != "mini"
