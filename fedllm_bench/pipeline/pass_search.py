"""How many tokens a pass of training holds: a short measured search, once for a kind of machine and of model.

What is computed does not depend on it, the rounding of sums does. So the default is left only where another number is
faster by a clear margin, what was found is kept in the cache, and a run keeps what stands in its plan.json.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fedllm_bench.common import files, provenance
from fedllm_bench.common.cache import cached, key_of
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.pipeline.plan import VERSION, read_plan, write_plan
from fedllm_bench.pipeline.probe import blocks_of, trained_tokens, training_run
from fedllm_bench.runs.loading import Bench
from fedllm_bench.training.block import train_block
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.model.lora_model import is_by_row
from fedllm_bench.training.passes import BUDGETS, PassPlan, most_tokens

log = logging.getLogger(__name__)
FILE = "pass_tokens.json"
# A run of fewer tokens would not earn the search back, nor one of a model whose passes take so long that they keep the
# processor busy whatever their size.
LEAST_TOKENS, MOST_SECONDS = 200_000, 0.4
TURNS, MARGIN = 4, 0.87  # another number must take at most this share of the default's time


def with_passes(bench: Bench) -> Bench:
    """The cell with the passes of its plan, which a run that begins gets here."""
    plan = read_plan(bench.cell.folder)
    assert plan is not None
    can_pack = bench.model.plan.packed
    if plan.version == VERSION and plan.pass_tokens is None and is_by_row(bench.config.model):
        plan = write_plan(bench.cell.folder, replace(plan, pass_tokens=tokens_for(bench), packed=can_pack))
    if plan.packed and not can_pack:
        log.warning("%s: this run packed its sequences, which cannot be done here: they are padded from now on",
                    bench.cell.folder)  # fmt: skip
    passes = PassPlan(plan.pass_tokens, plan.block_size, packed=bool(plan.packed) and can_pack)
    return replace(bench, model=replace(bench.model, plan=passes))


def tokens_for(bench: Bench) -> int:
    """The tokens of a pass for this model on this machine: from the cache, else searched for, else the default."""
    local, device = bench.config.local, bench.model.device.type
    default = most_tokens(local, device)
    allowed = most_tokens(local, "cuda")  # what the user's own settings allow
    budgets = [tokens for tokens in BUDGETS if tokens <= allowed]
    if device != "cpu" or bench.config.engine != "inprocess" or default not in budgets or len(budgets) < 2:
        return default
    if trained_tokens(training_run(bench)) < LEAST_TOKENS:
        return default
    make = partial(_searched, bench, default, budgets)
    return cached(files.cache_root() / "pass_tokens", key_of(_depends_on(bench, default, budgets)), make, _read)


def _depends_on(bench: Bench, default: int, budgets: Sequence[int]) -> dict[str, Any]:
    """Processor, threads and the shape of the model: what the fastest size of a pass hangs on."""
    config = bench.config
    settings = bench.model.base.config.get_text_config()
    names = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
    return {
        "cpu": provenance.environment(threads=bench.cell.threads, gpus=[])["cpu"],
        "threads": bench.cell.threads,
        "torch": torch.__version__,
        "model": {name: getattr(settings, name, None) for name in names},
        "dtype": config.model.dtype,
        "lora": [config.lora.rank, list(bench.model.targets), bool(config.lora.dropout)],
        **({} if config.adapter.is_lora else {"adapter": config.adapter.in_words}),
        "loss": config.local.loss,
        "checkpointing": config.local.gradient_checkpointing,
        "packed": bench.model.plan.packed,
        "default": default,
        "budgets": list(budgets),
    }


def _searched(bench: Bench, default: int, budgets: Sequence[int], folder: Path) -> None:
    seconds = _measured(bench, default, budgets)
    tokens = chosen(seconds, default)
    if tokens != default:
        log.info("passes of %s tokens are faster here than of %s", f"{tokens:,}", f"{default:,}")
    kept = {str(budget): [round(value, 4) for value in values] for budget, values in seconds.items()}
    files.write_json(folder / FILE, {"tokens": tokens, "seconds": kept})


def _read(folder: Path) -> int | None:
    path = folder / FILE
    return int(files.read_json(path)["tokens"]) if path.is_file() else None


def chosen(seconds: Mapping[int, Sequence[float]], default: int) -> int:
    """The budget whose best turn is the fastest, if it beats the best one of the default by the margin.

    Other processes make turns longer and none shorter, so the best turn says most.
    """
    best = {tokens: min(values) for tokens, values in seconds.items()}
    fastest = min(best, key=lambda tokens: (best[tokens], tokens))
    return fastest if best[fastest] <= MARGIN * best[default] else default


def _measured(bench: Bench, default: int, budgets: Sequence[int]) -> dict[int, list[float]]:
    """Seconds of a local step of one block with passes of each size, in turns; of the default alone if it is long."""
    block = next(block for block in blocks_of(training_run(bench), 1) if any(task.steps for task in block))
    block = [replace(task, steps=task.steps[:1], state={}) for task in block]
    _seconds(bench, block, default)  # not counted: the first one loads what the others have
    first = _seconds(bench, block, default)
    if first > MOST_SECONDS:
        return {default: [first]}
    found: dict[int, list[float]] = {tokens: [] for tokens in budgets}
    for _ in range(TURNS):
        for tokens in budgets:
            found[tokens].append(_seconds(bench, block, tokens))
    return found


def _seconds(bench: Bench, block: Sequence[ClientTask], tokens: int) -> float:
    model = replace(bench.model, plan=replace(bench.model.plan, tokens=tokens))
    started = time.perf_counter()
    train_block(model, FedAvg(), {"params": bench.initial}, block, bench.config.local)
    return time.perf_counter() - started
