"""What a run of offsite tuning does beside the rounds: it aligns the emulator, and scores on it what is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from fedllm_bench.common import files, interrupts
from fedllm_bench.common.cache import key_of
from fedllm_bench.common.interrupts import Stop
from fedllm_bench.common.ledger import Ledger
from fedllm_bench.common.trees import Tree, num_bytes
from fedllm_bench.methods.adapters.emulated import EMULATOR
from fedllm_bench.methods.base import Server, trains_alone
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.results.offsite import alignments_of
from fedllm_bench.results.run_results import ScoreSet, metrics_of
from fedllm_bench.runs.loading import Bench
from fedllm_bench.runs.offsite.public_rows import PublicRows
from fedllm_bench.runs.score_files import Scores, has_scores, read_scores
from fedllm_bench.runs.scoring import evaluate, own_scores
from fedllm_bench.training.offsite.alignment import Alignment
from fedllm_bench.training.offsite.emulating import emulating

ALIGNMENT_VERSION = 1  # raise it when equal settings give another emulator
BEFORE, AFTER = "emulator_before", "emulator_after"  # sides of scores
Prepare = Callable[[Server], tuple[Server, dict[str, Any]]]


@dataclass(frozen=True)
class EmulatorScores:
    """On the emulator: with the first adapter, which changes nothing, and with what was trained."""

    before: Scores
    after: Scores


def preparing(bench: Bench, stop: Stop) -> dict[str, Prepare]:
    """What the rounds are given where the server aligns an emulator before them; {} where it has none to align."""
    found = _alignment(bench, stop)
    return {} if found is None else {"prepare": found}


def _alignment(bench: Bench, stop: Stop) -> Alignment | None:
    if bench.model.student is None or bench.public is None:
        return None
    return Alignment(
        model=bench.model,
        offsite=bench.config.offsite,
        local=bench.config.local,
        rows=bench.public.rows,
        seed=bench.config.seed,
        folder=bench.cell.folder / "checkpoint",
        adapter_of=bench.method.adapter,
        alone=trains_alone(bench.method),
        shared=files.cache_root() / "alignments" / _key(bench, bench.public),
        stop=stop,
    )


def _key(bench: Bench, public: PublicRows) -> str:
    """All that the first alignment hangs on, which is the same for all methods of a seed, and for the baseline."""
    config, local = bench.config, bench.config.local
    return key_of(
        {
            "version": ALIGNMENT_VERSION,
            "base": bench.cell.base_hash,
            "model": [config.model.dtype, config.model.trainable, *map(str, bench.model.targets)],
            "lora": asdict(config.lora),
            "offsite": asdict(replace(config.offsite, public=public.hash, round_steps=1, mu=0.0)),
            "rows": [bench.cell.split.hash, bench.settings.template, local.sequence_length],
            "optimizer": [local.beta1, local.beta2, local.eps, local.clip],
            "seed": config.seed,
            "machine": [bench.model.device.type, bench.cell.threads, bench.model.plan.packed, torch.__version__],
        }
    )


def emulator_before(bench: Bench) -> Scores | None:
    """The scores of the emulator before round 1, which is aligned for it; None of a run without one."""
    if bench.model.student is None:
        return None
    if has_scores(bench.cell.folder, BEFORE, bench.metrics):
        return read_scores(bench.cell.folder, BEFORE, bench.metrics)
    server = bench.method.init(bench.initial)
    with interrupts.deferred() as stop:
        if (align := _alignment(bench, stop)) is not None:
            server, _ = align(server)
        stop.check()
    with _on_emulator(bench, server.slots.get(EMULATOR)) as small:
        pairs = [(None, small.items)]
        return own_scores(small, BEFORE, lambda ledger: evaluate(small, pairs, "emulator", ledger=ledger))


def emulator_after(bench: Bench, server: Server, score: Callable[[Bench, Server, Ledger], Scores]) -> Scores | None:
    """The scores of what was trained on the emulator that it was trained on last; None of a run without one."""
    if bench.model.student is None:
        return None
    with _on_emulator(bench, server.slots.get(EMULATOR)) as small:
        return own_scores(small, AFTER, lambda ledger: score(small, server, ledger))


@contextmanager
def _on_emulator(bench: Bench, emulator: Tree | None) -> Iterator[Bench]:
    """Inside the block the cell with the student in the place of its model."""
    with emulating(bench.model, emulator) as student:
        yield replace(bench, model=student)


def offsite_block(
    bench: Bench, rounds: Sequence[Mapping[str, Any]], scores: EmulatorScores | None
) -> dict[str, Any] | None:
    """`offsite` of results.json; None of a run without an emulator."""
    student, offsite, public = bench.model.student, bench.config.offsite, bench.public
    if student is None or scores is None:
        return None
    sets = {name: ScoreSet(before=scores.before[name], after=scores.after[name]) for name in bench.metrics}
    return {
        "variant": offsite.variant,
        "left": offsite.left,
        "right": offsite.right,
        "drop": offsite.drop,
        "num_layers": student.num_layers,
        "kept": list(student.kept),
        "adapter_bytes": num_bytes({"params": bench.initial}),
        "emulator_bytes": student.emulator_bytes,
        "public": public and {"split": public.name, "num_rows": len(public), "num_left_out": public.num_left_out},
        "alignments": alignments_of(rounds),
        "metrics": metrics_of(sets, {name: METRICS[name].info for name in bench.metrics}),
    }
