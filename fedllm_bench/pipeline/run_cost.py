"""FLOP and energy of a run, as results.json has them (docs/cost.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedllm_bench.common.energy import energy_of
from fedllm_bench.methods.base import FedAvg, trains_alone
from fedllm_bench.methods.fedem import num_mixed
from fedllm_bench.metrics.attack import OfAttack
from fedllm_bench.metrics.mini import MiniExact
from fedllm_bench.metrics.registry import METRICS, items_of, together
from fedllm_bench.metrics.user_answers import OfAnswer
from fedllm_bench.pipeline.clock import Clock
from fedllm_bench.pipeline.offsite_stage import EmulatorScores
from fedllm_bench.results.early_stop import checked
from fedllm_bench.runs.loading import Bench
from fedllm_bench.runs.score_files import Scores
from fedllm_bench.runs.validation import validation_items
from fedllm_bench.scores.score import Score
from fedllm_bench.training.cost.model_flops import ModelFlops, NoFormula, model_flops
from fedllm_bench.training.cost.training_flops import training_flops
from fedllm_bench.training.engines import in_process
from fedllm_bench.training.run import TrainingRun

FORMULA = "products of matrices by the formula of docs/cost.md, of the rows' own tokens: no padding, nothing twice"
Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class RawSides:
    """The raw scores of a run. `local`: of the baseline; `personal`: held-out loss after personalisation.

    `emulator`: on the emulator, of a run of offsite tuning.
    """

    before: Scores
    after: Scores
    local: Scores | None
    personal: list[Score] | None = None
    emulator: EmulatorScores | None = None


def flops_of_run(bench: Bench, sides: RawSides, rounds: Records, lines: Records) -> dict[str, Any]:
    """The keys of `cost`; None where the formula does not know the model. `lines` are those of clients.jsonl."""
    student, rank = bench.model.student, bench.config.lora.rank
    try:
        flops = model_flops(bench.model, rank)
        trained = flops if student is None else model_flops(student.model, rank)
    except NoFormula as error:
        return {"train_flops": None, "evaluation_flops": None, "flops_method": f"not counted: {error}"}
    plain = FedAvg()
    run = TrainingRun(
        config=bench.config,
        method=plain,
        clients=bench.clients,
        map_blocks=in_process(bench.model, plain, bench.config),
        folder=bench.cell.folder / "plain",  # no folder, so without states
    )
    return {
        "train_flops": training_flops(run, bench.method, trained, rounds),
        "evaluation_flops": evaluation_flops(bench, sides, flops, rounds, lines)
        + _on_emulator(bench, sides.emulator, trained),
        "flops_method": FORMULA + ("" if student is None else "; the alignment of the emulator is not counted"),
    }


def energy_of_run(bench: Bench, clock: Clock) -> dict[str, Any]:
    """The keys of `cost`."""
    used = clock.used
    if bench.config.engine == "ray":
        return {"energy_method": "not counted: workers of Ray are other processes"}
    if used is None:
        return {
            "energy_method": "not counted: a part of the run was made by an older version, or energy.json was changed"
        }
    joules, method = energy_of(used, has_gpu=torch.cuda.is_available())
    return {
        "cpu_seconds": round(used.cpu_seconds, 2),
        "energy_joules": None if joules is None else round(joules, 1),
        "energy_method": method,
    }


def evaluation_flops(bench: Bench, sides: RawSides, flops: ModelFlops, rounds: Records, lines: Records) -> int:
    """Of the scores of the base and of what was trained, of checks, and of looks at each client's loss.

    The base's are counted whether they came from the cache or not; those of the baseline `local` are in its own run.
    """
    loss = (bench.loss,)
    found = sum(_of_side(bench, scores, flops, has_adapter=adapted) for scores, adapted in
                ((sides.before, False), (sides.after, True)))  # fmt: skip
    looked = sum(_forward(flops, bench, loss, item, has_adapter=True) for item in items_of(loss, bench.items))
    asked = validation_items(bench) if checked(rounds) else []
    checks = sum(_forward(flops, bench, loss, item, has_adapter=True) for item in asked)
    return found + looked * len(lines) + checks * len(checked(rounds))


def _on_emulator(bench: Bench, scores: EmulatorScores | None, flops: ModelFlops) -> int:
    """Of the scores on the emulator, where there is one."""
    sides = () if scores is None else (scores.before, scores.after)
    return sum(_of_side(bench, side, flops, has_adapter=True) for side in sides)


def _of_side(bench: Bench, scores: Scores, flops: ModelFlops, *, has_adapter: bool) -> int:
    total = 0
    for group in together(bench.metrics):
        known = {(score.cluster, score.item_id): score for name in group for score in scores[name]}
        for item in items_of(group, bench.items):
            score = known.get((item.row.client_id, item.row.row_id))
            if score is None or item.tokens is None or not _is_asked(bench, item, has_adapter=has_adapter):
                continue
            if isinstance(METRICS[group[0]], OfAnswer | OfAttack | MiniExact):
                total += _answered(flops, bench, item, score, has_adapter=has_adapter)
            else:
                total += _forward(flops, bench, group, item, has_adapter=has_adapter)
    return total


def _is_asked(bench: Bench, item: Any, *, has_adapter: bool) -> bool:
    """Whether somebody answers: unseen users have no adapter under `local`."""
    return not (has_adapter and trains_alone(bench.method) and item.part == "unseen")


def _forward(flops: ModelFlops, bench: Bench, group: Sequence[str], item: Any, *, has_adapter: bool) -> int:
    """One pass over the sequences of the item, or over as many as it has choices; of mixtures with each adapter."""
    several = item.part == "canary" or "mini_choice" in group
    times = len(item.choices) if several else 1
    times *= num_mixed(bench.method) if has_adapter else 1
    return times * sum(int(flops.forward(t, c, has_adapter=has_adapter)) for t, c in _sizes(item))


def _answered(flops: ModelFlops, bench: Bench, item: Any, score: Score, *, has_adapter: bool) -> int:
    """The prompt, and the tokens of the answer that the score has; where it has none, as many as are allowed."""
    tokens, counted = next(_sizes(item))
    most, text = bench.settings.max_new_tokens, score.evidence.get("answer")
    made = most if text is None else min(len(bench.model.tokenizer.encode(text)) + 1, most)
    return int(flops.answer(tokens - counted, made, has_adapter=has_adapter))


def _sizes(item: Any) -> Iterator[tuple[int, int]]:
    """Tokens of each sequence, and those with a loss; none of a row without tokens."""
    for row in item.tokens.sequences if item.tokens is not None else ():
        yield len(row.ids), row.num_counted
