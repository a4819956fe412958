"""Closed benchmarks times sides: lm-eval asks, the resident model answers, the samples are kept.

FOLDER/closed/<name>/plan.json               what was asked, and how
FOLDER/closed/<name>/<side>.jsonl            the samples of a side, written whole at its end
FOLDER/closed/<name>/<side>.jsonl.partial    answers so far, one request a line; removed at the end
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError

from fedllm_bench.common import files, hardware
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.ledger import Ledger
from fedllm_bench.data.templates.sources import MODEL
from fedllm_bench.evaluation.answering.answer_run import answering_environment
from fedllm_bench.evaluation.answering.answer_side import locked
from fedllm_bench.evaluation.answering.encoding import ChatTemplate, named_template
from fedllm_bench.evaluation.answering.plan import PLAN, AnswerPlan, keep_to_file, read_plan_file
from fedllm_bench.evaluation.answering.subjects import AnswerSide, Resident, Subject, open_run, subject_of_run
from fedllm_bench.evaluation.closed.closed_samples import ClosedSample, read_samples, samples_file, write_samples
from fedllm_bench.evaluation.closed.code_grading import CodeStep, code_step
from fedllm_bench.evaluation.closed.declared import (
    MINI_WORLD,
    VERSION,
    ClosedBenchmark,
    TemplateChoice,
    check_installed,
    closed_named,
)
from fedllm_bench.evaluation.closed.quiet import SEED, fixed_seeds, silenced, without_bars
from fedllm_bench.evaluation.closed.sandbox.choice import choose_shell
from fedllm_bench.training.model.lora_model import LoraModel

log = logging.getLogger(__name__)
ODD_ROWS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, TemplateError)


@dataclass(frozen=True, kw_only=True)
class ClosedRequest:
    """What is wanted. `limit` is of items of each task; `data` is a folder in place of the hub.

    `template`: questions as bare texts, in the base's own chat template, or in the one that the run trained with; None
    for the usual of each benchmark. `world_seed` is of the run's mini world, if it has one.
    Programs of a model are run where `allow_code` says so, in `sandbox`; else they are kept, and unscored.
    `batch_tokens` and `threads` are None where not given: then an earlier plan's, or by machine.
    """

    folder: Path
    benchmarks: Sequence[ClosedBenchmark]
    template: TemplateChoice | None = None
    limit: int | None = None
    seed: int = 0
    world_seed: int = 0
    batch_tokens: int | None = None
    threads: int | None = None
    allow_code: bool = False
    sandbox: str = "auto"
    data: Path | None = None


@dataclass(frozen=True)
class ClosedDone:
    """One side's samples of one benchmark; `is_new` where this session wrote them."""

    benchmark: ClosedBenchmark
    side: str
    samples: list[ClosedSample]
    is_new: bool

    @property
    def failed(self) -> list[ClosedSample]:
        return [sample for sample in self.samples if sample.reason]


def check_closed(request: ClosedRequest) -> None:
    """Raise a :class:`UserError` now for what would be refused after others have answered."""
    check_installed()
    if request.allow_code and any(benchmark.needs_code for benchmark in request.benchmarks):
        choose_shell(request.sandbox)
    if request.data is not None and not request.data.is_dir():
        raise UserError(f"--data-dir {request.data}: no such folder")


def run_closed(request: ClosedRequest, subject: Subject, default_threads: int) -> Iterator[ClosedDone]:
    """Every side of `subject` answers every benchmark; one base is loaded, and only where something is to be done.

    Raises a :class:`UserError` as :func:`check_closed`, where data cannot be had, and for a plan that differs from that
    of an earlier session. Whatever ends this, answers that were given are not computed again.
    """
    check_closed(request)
    programs = code_step(request.benchmarks, request.sandbox if request.allow_code else None)
    resident = Resident(subject, "cuda" if torch.cuda.is_available() else "cpu")
    for benchmark in request.benchmarks:
        template = _template(request.template or benchmark.template, subject, resident)
        with silenced(), fixed_seeds():
            tasks = _configured(benchmark, _tasks(request, benchmark))
        for side in subject.sides:
            work = _ClosedWork(request, resident, benchmark, tasks, template, programs)
            yield work.side(side, default_threads)


def ask_run(
    folder: Path,
    names: str,
    *,
    sides: Sequence[str] | None = None,
    limit: int | None = None,
    threads: int | None = None,
    template: TemplateChoice | None = None,
    data: Path | None = None,
) -> list[ClosedDone]:
    """:func:`run_closed` of a finished run; `names` have commas between."""
    subject = subject_of_run(folder, sides)
    request = ClosedRequest(
        folder=folder,
        benchmarks=closed_named(names.split(",")),
        template=template,
        limit=limit,
        threads=threads,
        data=data,
        world_seed=open_run(folder).config.data.world_seed,
    )
    check_closed(request)
    with locked(folder):
        return list(run_closed(request, subject, hardware.num_threads()))


def _template(choice: TemplateChoice, subject: Subject, resident: Resident) -> ChatTemplate | None:
    if choice == "none":
        return None
    name = MODEL if choice == "model" else subject.template
    return named_template(name, lambda: resident.tokenizer, subject.model.name)


def _tasks(request: ClosedRequest, benchmark: ClosedBenchmark) -> dict[str, Any]:
    from fedllm_bench.evaluation.closed.loading import load_tasks

    log.info("%s: reading its tasks and data", benchmark.name)
    return load_tasks(benchmark, request.data, {"world_seed": request.world_seed})


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Rows that a task was not made for are one line."""
    try:
        yield
    except UserError:
        raise
    except ODD_ROWS as error:
        log.debug("lm-eval", exc_info=True)
        raise UserError(
            f"{name}: lm-eval cannot ask it ({type(error).__name__}: {first_line(error)[:200]}); its data may be "
            "others than this release of lm-eval knows"
        ) from error


def _named(template: ChatTemplate | None) -> dict[str, str]:
    return {"name": "none", "hash": ""} if template is None else {"name": template.name, "hash": template.hash}


def _configured(benchmark: ClosedBenchmark, tasks: dict[str, Any]) -> dict[str, Any]:
    """The tasks with their shots, as lm-eval's command sets them: a task that allows none has none."""
    for task in tasks.values():
        if task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=benchmark.shots)
    return tasks


@dataclass(frozen=True)
class _ClosedWork:
    """One benchmark, asked of one side after another."""

    request: ClosedRequest
    resident: Resident
    benchmark: ClosedBenchmark
    tasks: Mapping[str, Any]
    template: ChatTemplate | None
    programs: CodeStep | None

    def side(self, side: AnswerSide, default_threads: int) -> ClosedDone:
        """The samples of a side, from its file where it is there."""
        path = samples_file(self.request.folder, self.benchmark.name, side.name)
        plan = self._plan(path.with_name(PLAN), default_threads)
        keep_to_file(path.with_name(PLAN), plan, side.name, side.fingerprint, answering_environment())
        ledger = path.with_name(path.name + ".partial")
        if path.is_file():
            ledger.unlink(missing_ok=True)  # a kill may come between the last two lines below
            return self._done(path, side.name, is_new=False)
        torch.set_num_threads(plan.followed["threads"])
        kept = Ledger(ledger, files.sha256_json([asdict(plan), side.fingerprint]))
        with self.resident.answering(side) as model:
            samples = self._asked(model()[0], kept, side.name, plan.followed["batch_tokens"])
        write_samples(path, samples)
        kept.remove()
        return self._done(path, side.name, is_new=True)

    def _done(self, path: Path, side: str, *, is_new: bool) -> ClosedDone:
        """The samples as they are once the programs among them were run, where that is permitted."""
        if self.programs is not None and self.benchmark.needs_code:
            self.programs.run(path, f"{self.benchmark.name} {side}")
        return ClosedDone(self.benchmark, side, read_samples(path), is_new=is_new)

    def _plan(self, path: Path, default_threads: int) -> AnswerPlan:
        followed = (read_plan_file(path) or {}).get("followed", {})
        model = self.resident.subject.model
        return AnswerPlan(
            benchmark=self._about(),
            template=_named(self.template),
            model={"name": model.name, "dtype": model.dtype, "base_hash": self.resident.subject.base_hash},
            overrides={"limit": self.request.limit, "data": self._own_data},
            seed=self.request.seed,
            followed={
                "threads": self.request.threads or followed.get("threads") or default_threads,
                "batch_tokens": self.request.batch_tokens or followed.get("batch_tokens") or self.resident.batch_tokens,
            },
        )

    @property
    def _own_data(self) -> str | None:
        """What stands in place of the published data set; None where nothing does."""
        return "files" if self.request.data and self.benchmark.data != MINI_WORLD else None

    def _about(self) -> dict[str, Any]:
        import lm_eval

        return {
            "name": self.benchmark.name,
            "version": VERSION,
            "lm_eval": lm_eval.__version__,
            "tasks": {name: str(task.VERSION) for name, task in self.tasks.items()},
            "shots": {name: task.get_config("num_fewshot") for name, task in self.tasks.items()},
            "metric": self.benchmark.metric,
            "filter": self.benchmark.filter,
            "fewshot_seed": SEED,
            "world_seed": self.request.world_seed,
            **({"context": self.benchmark.context} if self.benchmark.context else {}),
        }

    def _asked(self, model: LoraModel, kept: Ledger, side: str, batch_tokens: int) -> list[ClosedSample]:
        from lm_eval.evaluator import evaluate

        from fedllm_bench.evaluation.closed.collecting import samples_of
        from fedllm_bench.evaluation.closed.lm import ResidentLM
        from fedllm_bench.evaluation.closed.texts import ClosedTexts

        texts = ClosedTexts(model.tokenizer, None if self.template is None else self.template.text)
        label = f"{self.benchmark.name} {side}"
        lm = ResidentLM(model, texts, kept, batch_tokens, label, self.request.seed, self.benchmark.context)
        for task in self.tasks.values():
            task.set_fewshot_seed(seed=SEED)  # every side sees the same examples
        with silenced(), without_bars(), fixed_seeds(), _told(self.benchmark.name):
            found = evaluate(
                lm=lm,
                task_dict={"tasks": dict(self.tasks), "groups": {}, "group_map": {}},
                limit=self.request.limit,
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=self.template is not None,
                fewshot_as_multiturn=self.template is not None,
            )
        return samples_of(self.benchmark, found["samples"], self.tasks, lm.failed, texts.shown)
