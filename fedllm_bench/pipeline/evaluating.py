"""Answer, judge and report of one folder: what is asked, by whom it is judged, and doing all three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_bench.common.errors import UserError

if TYPE_CHECKING:  # the plan alone must not wait for torch, pydantic and openai
    from fedllm_bench.evaluation.judges.preset import Preset
    from fedllm_bench.report.page.write import Written
    from fedllm_bench.runs.folder import RunFolder

PUBLISHED = "mt_bench,vicuna_bench,advbench,harmless,ref_gpt4"
OFFLINE, RULE = "mini,harmless", "mini_rule"  # what a run of the embedded world is asked, and who grades it
OFFLINE_CLOSED = "mini_closed_choice"  # too, where lm-eval is installed
QUICK = ("heldout_ref", "harmless")  # what a run of minutes on real rows is asked: nothing is fetched, nobody judges
IN_MINUTES = ("mini", "small")  # profiles


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """`asked` are the benchmarks to answer, None where answers exist already; `judged` those to judge, "" for all.
    `closed` are those that lm-eval asks; with these alone `asked` is "".

    With `is_ruled` nobody named a judge, and the rule of the embedded world grades. `max_new_tokens` is the longest
    answer where nobody chose the benchmarks and the published length would take hours; None for that length.
    """

    asked: str | None
    judged: str
    is_ruled: bool
    max_new_tokens: int | None = None
    closed: str = ""

    @property
    def is_judged(self) -> bool:
        return self.asked != ""


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """`metrics` has benchmarks with commas between, None for the usual ones; `max_cost` is in US dollars.

    `engine` is "inprocess" or "ray", None for that of the run.
    """

    folder: Path
    metrics: str | None = None
    sides: Sequence[str] | None = None
    limit: int | None = None
    threads: int | None = None
    engine: str | None = None
    judge: Preset | None = None
    max_cost: float | None = None
    embedding_model: str = ""


def plan_of(
    folder: Path,
    metrics: str | None,
    *,
    has_judge: bool,
    limit: object = None,
    threads: object = None,
    engine: object = None,
) -> EvaluationPlan:
    """What a folder is asked. Raises a :class:`UserError` for what is no run folder, and has no answers either.

    `limit`, `threads` and `engine` are refused where the answers exist already.
    """
    from fedllm_bench.evaluation.closed.asked_names import parted

    benchmarks = _answered(folder)
    if benchmarks is not None:
        _check_answered(folder, benchmarks, metrics, {"limit": limit, "threads": threads, "engine": engine})
        is_ruled = "mini" in (metrics.split(",") if metrics else benchmarks) and not has_judge
        return EvaluationPlan(asked=None, judged="mini" if is_ruled else metrics or "", is_ruled=is_ruled)
    run = _run(folder)
    opened, closed = parted(metrics or _fitting(run))
    is_ruled = run.is_on_invented_world and "mini" in opened.split(",") and not has_judge
    is_quick = metrics is None and not run.is_on_invented_world and run.config.profile in IN_MINUTES
    return EvaluationPlan(
        asked=opened if opened or closed else metrics,
        judged="mini" if is_ruled else "",
        is_ruled=is_ruled,
        max_new_tokens=run.config.evaluation.max_new_tokens if is_quick else None,
        closed=",".join(benchmark.name for benchmark in closed),
    )


def evaluate_folder(request: EvaluationRequest) -> Written:
    """Answer what has no answer yet, have it judged where there is a judge, and write the report.

    Raises a :class:`UserError` for bad input before anything is asked, and where `max_cost` did not suffice; what
    was answered and judged until then is kept.
    """
    from fedllm_bench.evaluation.answering.run_answers import answer_in_run
    from fedllm_bench.evaluation.closed.run_closed import ask_run
    from fedllm_bench.report.page.write import write_evaluation_report

    folder = request.folder
    plan = plan_of(folder, request.metrics, has_judge=request.judge is not None,
                   limit=request.limit, threads=request.threads, engine=request.engine)  # fmt: skip
    preset = _judge(request, plan)
    check_encoder(request.embedding_model)
    if plan.asked:
        answer_in_run(folder, plan.asked, sides=request.sides, limit=request.limit,
                      max_new_tokens=plan.max_new_tokens, threads=request.threads, engine=request.engine)  # fmt: skip
    if plan.closed:
        ask_run(folder, plan.closed, sides=request.sides, limit=request.limit, threads=request.threads)
    if preset is not None and plan.is_judged:
        _ask(request, preset, plan)
    return write_evaluation_report(folder, embedding_model=request.embedding_model)


def check_encoder(name: str | None) -> None:
    """Raise a :class:`UserError` now for a model that `report` would refuse; nothing is fetched."""
    if name:
        from fedllm_bench.diversity.embedding.encoder import local_encoder

        local_encoder(name)


def _judge(request: EvaluationRequest, plan: EvaluationPlan) -> Preset | None:
    from fedllm_bench.evaluation.judges.preset import load_judge
    from fedllm_bench.evaluation.judging.spending import check_allowed_now

    preset = load_judge(RULE) if plan.is_ruled else request.judge
    if preset is not None:
        check_allowed_now(preset, max_cost=request.max_cost)
    return preset


def _ask(request: EvaluationRequest, preset: Preset, plan: EvaluationPlan) -> None:
    from fedllm_bench.evaluation.judging.judging import Wanted, judge_all, judge_of, own_replies, to_ask, works_of
    from fedllm_bench.evaluation.judging.spending import check_stopped

    benchmarks = tuple(name.strip() for name in plan.judged.split(",") if name.strip())
    works = works_of(request.folder, preset, Wanted(benchmarks=benchmarks, sides=tuple(request.sides or ())))
    with judge_of(preset, max_cost=request.max_cost) as judge:
        found = own_replies(works, judge)
        judge_all(works, judge, found, sum(1 for _ in to_ask(works, judge, found)))
    check_stopped(judge, request.max_cost, found.reasons)


def _answered(folder: Path) -> list[str] | None:
    """The benchmarks of a folder of answers alone, which `answer --out` made; None for any other folder."""
    if (folder / "config.json").exists() or not (folder / "answers").is_dir():
        return None
    return sorted(path.parent.name for path in (folder / "answers").glob("*/prompts.jsonl"))


def _check_answered(folder: Path, benchmarks: Sequence[str], metrics: str | None, of_run: dict[str, object]) -> None:
    """Raise a :class:`UserError` for what only a run can be asked."""
    for name, value in of_run.items():
        if value:
            raise UserError(f"--{name}: {folder} is a folder of answers, which exist already; leave it out")
    from fedllm_bench.evaluation.closed.declared import is_closed

    wanted = [name.strip() for name in (metrics or "").split(",") if name.strip()]
    if closed := [name for name in wanted if is_closed(name)]:
        raise UserError(f"--metrics {closed[0]}: {folder} is a folder of answers alone, which has no model to ask")
    if missing := [name for name in wanted if name not in benchmarks]:
        there = ", ".join(benchmarks) or "none"
        raise UserError(f"--metrics {missing[0]}: {folder} has no answers to it, but to {there}")


def _run(folder: Path) -> RunFolder:
    """Raises a :class:`UserError` for what is no run folder."""
    from fedllm_bench.runs.folder import CONFIG, RunFolder

    run = RunFolder(folder)
    try:
        _ = run.config
    except UserError as error:
        if run.has(CONFIG):
            raise
        raise UserError(
            f"RUN={folder} is no run folder, and has no answers/; give one that `fedllm-bench bench` printed as "
            "`Run folder`, or a folder that `fedllm-bench answer --out` made"
        ) from error
    return run


def _fitting(run: RunFolder) -> str:
    """The usual benchmarks of a run, by what its users are, what was held out, and for how long it is meant to run."""
    if run.is_on_invented_world:
        from fedllm_bench.evaluation.closed.declared import is_installed

        return f"{OFFLINE},{OFFLINE_CLOSED}" if is_installed() else OFFLINE
    if run.config.profile in IN_MINUTES:
        return ",".join(QUICK if run.has_heldout_rows else QUICK[1:])
    from fedllm_bench.evaluation.benchmarks import REF_SETS

    names = PUBLISHED.split(",")
    return ",".join(name for name in names if name != "ref_gpt4" or run.config.dataset in REF_SETS)
