"""Benchmarks times sides: what `fedllm-bench answer` does, once it knows what answers and what is asked."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fedllm_bench.common import provenance
from fedllm_bench.config.run import Ray
from fedllm_bench.evaluation.answering.answer_side import SideOutcome, answer_side, forget_failed
from fedllm_bench.evaluation.answering.encoding import ChatTemplate, encoder, named_template
from fedllm_bench.evaluation.answering.model_answers import ModelAnswerer
from fedllm_bench.evaluation.answering.plan import forget_unused, keep_to, plan_of, read_plan
from fedllm_bench.evaluation.answering.remote_answers import EndpointAnswerer
from fedllm_bench.evaluation.answering.subjects import BASE, AnswerSide, Resident, Subject
from fedllm_bench.evaluation.benchmarks import Benchmark, Overrides
from fedllm_bench.evaluation.records import Prompt
from fedllm_bench.metrics.running import end_tokens
from fedllm_bench.training.cluster.pool import close_pool

log = logging.getLogger(__name__)
Asked = Sequence[tuple[Benchmark, Sequence[Prompt]]]


@dataclass(frozen=True, kw_only=True)
class AnswerRequest:
    """What is wanted. `batch_tokens` and `threads` are None where not given: then an earlier plan's, or by machine.

    With settings of `ray` its workers answer, else this process.
    """

    folder: Path
    asked: Asked
    overrides: Overrides
    seed: int
    batch_tokens: int | None = None
    threads: int | None = None
    retry_failed: bool = False
    ray: Ray | None = None


@dataclass(frozen=True)
class Done:
    """One side's answers to one benchmark."""

    benchmark: str
    side: str
    outcome: SideOutcome


def answer_locally(order: AnswerRequest, subject: Subject, default_threads: int) -> Iterator[Done]:
    """Every side of `subject` answers every benchmark; one base is loaded, and only where something is to be done.

    Raises a :class:`UserError` for a plan that differs from that of an earlier session.
    """
    try:
        yield from _answered(order, subject, default_threads)
    finally:
        if order.ray is not None:
            close_pool()


def _answered(order: AnswerRequest, subject: Subject, default_threads: int) -> Iterator[Done]:
    resident = Resident(subject, "cuda" if torch.cuda.is_available() else "cpu", order.ray)
    template = named_template(subject.template, lambda: resident.tokenizer, subject.model.name)
    for side in subject.sides:
        for benchmark, prompts in order.asked:
            followed = _followed(order, benchmark, resident, default_threads)
            _keep_to(order, subject, side, template, (benchmark, prompts, followed))
            _retry(order, benchmark.name, side.name, prompts)
            torch.set_num_threads(followed["threads"])
            yield _side(order, resident, side, template, (benchmark.name, prompts, followed["batch_tokens"]))


def _followed(order: AnswerRequest, benchmark: Benchmark, resident: Resident, default_threads: int) -> dict[str, int]:
    """Settings that only change how sums are rounded: as given, else as in an earlier session, else by machine."""
    found = (read_plan(order.folder, benchmark.name) or {}).get("followed", {})
    threads = order.threads or found.get("threads") or default_threads
    return {
        "threads": threads,
        "batch_tokens": order.batch_tokens or found.get("batch_tokens") or resident.batch_tokens,
    }


def _keep_to(
    order: AnswerRequest,
    subject: Subject,
    side: AnswerSide,
    template: ChatTemplate,
    asked: tuple[Benchmark, Sequence[Prompt], dict[str, int]],
) -> None:
    benchmark, prompts, followed = asked
    plan = plan_of(
        benchmark,
        prompts,
        order.overrides,
        template={"name": template.name, "hash": template.hash},
        model={"name": subject.model.name, "dtype": subject.model.dtype, "base_hash": subject.base_hash},
        seed=order.seed,
        followed=followed,
    )
    keep_to(order.folder, plan, side.name, side.fingerprint, answering_environment())


def _side(
    order: AnswerRequest,
    resident: Resident,
    side: AnswerSide,
    template: ChatTemplate,
    asked: tuple[str, Sequence[Prompt], int],
) -> Done:
    name, prompts, budget = asked
    with resident.answering(side) as model:

        def answerer() -> ModelAnswerer:
            loaded, elsewhere = model()
            return ModelAnswerer(
                model=loaded,
                encode=encoder(template, loaded.tokenizer),
                benchmark=name,
                seed=order.seed,
                batch_tokens=budget,
                stop_ids=end_tokens(loaded, template.text),
                elsewhere=elsewhere,
            )

        return Done(name, side.name, answer_side(order.folder, name, side.name, prompts, answerer))


def _retry(
    order: AnswerRequest, benchmark: str, side: str, prompts: Sequence[Prompt], *, empty_too: bool = False
) -> None:
    if order.retry_failed and (count := forget_failed(order.folder, benchmark, side, prompts, empty_too=empty_too)):
        log.info("%s %s: asking %d failed items again", benchmark, side, count)


def answering_environment() -> dict[str, Any]:
    found = provenance.environment()
    kept = ("fedllm_bench", "commit", "dirty", "python", "packages", "platform", "cpu", "gpus")
    return {key: found[key] for key in kept}


def answer_remotely(order: AnswerRequest, endpoint: EndpointAnswerer) -> Iterator[Done]:
    """The model behind an address answers every benchmark, as side `base`; its own template stays unknown."""
    for benchmark, prompts in order.asked:
        yield _remotely(order, replace(endpoint, benchmark=benchmark.name), benchmark, prompts)


def _remotely(
    order: AnswerRequest, endpoint: EndpointAnswerer, benchmark: Benchmark, prompts: Sequence[Prompt]
) -> Done:
    plan = plan_of(
        benchmark,
        prompts,
        order.overrides,
        template={"name": "server", "hash": ""},
        model=_endpoint_model(endpoint),
        seed=order.seed,
        followed={},
    )
    forget_unused(order.folder, benchmark.name)
    keep_to(order.folder, plan, BASE, "", answering_environment())
    _retry(order, benchmark.name, BASE, prompts, empty_too=True)
    return Done(benchmark.name, BASE, answer_side(order.folder, benchmark.name, BASE, prompts, lambda: endpoint))


def _endpoint_model(endpoint: EndpointAnswerer) -> dict[str, Any]:
    """Settings that are not sent are named where there are any: plans of before have no such key."""
    address = endpoint.served.base_url
    named = {"endpoint": address if address.endswith("/") else f"{address}/", "name": endpoint.name}
    return {**named, "left_out": list(endpoint.left_out)} if endpoint.left_out else named
