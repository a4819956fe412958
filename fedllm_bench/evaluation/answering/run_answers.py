"""A finished run answers benchmarks, and its answers are kept in its own folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedllm_bench.common import hardware
from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.config.run import Ray, RunConfig
from fedllm_bench.evaluation.answering.answer_run import AnswerRequest, Done, answer_locally
from fedllm_bench.evaluation.answering.answer_side import locked
from fedllm_bench.evaluation.answering.subjects import open_run, subject_of_run
from fedllm_bench.evaluation.benchmarks import Overrides, PromptContext, check_named, make_prompts, named
from fedllm_bench.runs.cell import split_of_run
from fedllm_bench.training.cluster.connection import check_reachable

ENGINES = ("inprocess", "ray")


def context_of_run(folder: Path) -> PromptContext:
    """What benchmarks may ask of a run. Raises a :class:`UserError` for what is no finished run folder."""
    run = open_run(folder)
    return PromptContext(dataset=run.config.dataset, split=lambda: split_of_run(run))


def workers_of(engine: str | None, run: RunConfig | None = None) -> Ray | None:
    """The settings of the workers that answer; None where this process does. A run answers where it began to train.

    Raises a :class:`UserError` for an unknown engine, and where Ray cannot be had.
    """
    if engine is not None and engine not in ENGINES:
        raise unknown("engine that answers", engine, ENGINES)
    if (engine or (run.engine if run else None)) != "ray":
        return None
    try:
        check_reachable()
    except UserError as error:
        raise UserError(f"{error}; or give --engine inprocess") from error
    return run.ray if run else Ray()


def answer_in_run(
    folder: Path,
    names: str,
    *,
    sides: Sequence[str] | None = None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    threads: int | None = None,
    engine: str | None = None,
) -> list[Done]:
    """Every side answers every benchmark of `names` (with commas between); what was answered before stays.

    `sides` is None for the base and the global adapter, or five clients under `local`; `limit` asks the first items
    only; `max_new_tokens` is None for the published length of each item; `threads` is None for an earlier session's,
    else all cores; `engine` is None for that of the run. Raises a :class:`UserError` for an unknown name, for what is
    no finished run, and for a plan that differs from that of an earlier session.
    """
    context = context_of_run(folder)
    check_named(names, context)
    ray = workers_of(engine, open_run(folder).config)
    subject = subject_of_run(folder, sides)
    overrides = Overrides(limit=limit, max_new_tokens=max_new_tokens)
    with locked(folder):
        asked = [(benchmark, make_prompts(benchmark, context, overrides)) for benchmark in named(names)]
        order = AnswerRequest(folder=folder, asked=asked, overrides=overrides, seed=0, threads=threads, ray=ray)
        return list(answer_locally(order, subject, hardware.num_threads()))
