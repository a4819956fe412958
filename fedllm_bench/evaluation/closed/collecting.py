"""From lm-eval's samples to ours: one line for each item, with what it takes to compute its scores again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.closed.closed_samples import ClosedSample, Form
from fedllm_bench.evaluation.closed.code_grading import NOT_ALLOWED
from fedllm_bench.evaluation.closed.declared import ClosedBenchmark

INVALID = "[invalid]"  # what lm-eval's filters give where they find nothing
Logged = Mapping[str, Any]  # one of lm-eval's samples: an item behind one filter


def samples_of(
    benchmark: ClosedBenchmark,
    logged: Mapping[str, Sequence[Logged]],
    tasks: Mapping[str, Any],
    failed: Mapping[tuple[str, int], str],
    shown: Callable[[str], str],
) -> list[ClosedSample]:
    """A sample for each item of each task, in order. `logged` are lm-eval's samples by task.

    `failed` says why an item has no answer; `shown` gives a prompt as a template wrote it.
    """
    return [
        _sample(benchmark, name, tasks[name], by_filter, failed.get((name, number), ""), shown)
        for name, found in logged.items()
        for number, by_filter in sorted(_by_item(found).items())
    ]


def _by_item(logged: Sequence[Logged]) -> dict[int, dict[str, Logged]]:
    items: dict[int, dict[str, Logged]] = {}
    for each in logged:
        items.setdefault(int(each["doc_id"]), {})[str(each["filter"])] = each
    return items


def _sample(
    benchmark: ClosedBenchmark,
    name: str,
    task: Any,
    by_filter: Mapping[str, Logged],
    reason: str,
    shown: Callable[[str], str],
) -> ClosedSample:
    from lm_eval.utils import hash_string

    if benchmark.filter not in by_filter:
        raise UserError(f"{benchmark.name}: the task {name} has no filter {benchmark.filter!r}, but "
                        f"{', '.join(sorted(by_filter))}; this release of lm-eval may have changed it")  # fmt: skip
    found = by_filter[benchmark.filter]
    form, kept = READERS[benchmark.form], not reason
    waits = NOT_ALLOWED if benchmark.form == "code" else ""
    return ClosedSample(
        task=name,
        doc_id=int(found["doc_id"]),
        doc_hash=str(found["doc_hash"]),
        prompt_hash=str(hash_string(shown(str(found["arguments"][0][0])))),
        target_hash=str(found["target_hash"]),
        form=benchmark.form,
        values=dict(_values(benchmark.filter, by_filter)) if kept else {},
        reason=reason or waits,
        **form(task, found, kept),
    )


def _values(usual: str, by_filter: Mapping[str, Logged]) -> Iterator[tuple[str, float]]:
    """What lm-eval made of an item: by "metric" behind the usual filter, by "metric,filter" behind others."""
    for name, found in by_filter.items():
        for metric in found["metrics"]:
            value = found[metric]
            if isinstance(value, (bool, int, float)) and math.isfinite(value):
                yield metric if name == usual else f"{metric},{name}", float(value)


def _choice(task: Any, found: Logged, kept: bool) -> dict[str, Any]:
    choices = list(map(str, task.doc_to_choice(found["doc"])))
    scores = [float(answers[0][0]) for answers in found["resps"][: len(choices)]]
    return {
        "target": str(_number(task, found, choices)),
        "lengths": tuple(len(choice.encode()) for choice in choices),
        "log_likelihoods": tuple(scores) if kept else (),
    }


def _number(task: Any, found: Logged, choices: Sequence[str]) -> object:
    """The right choice, which lm-eval has as a number or a text; where choices are in the prompt, in that place."""
    target = task.doc_to_text(found["doc"]) if task.multiple_input else found["target"]
    if isinstance(target, str) and target in choices:
        return choices.index(target)
    return json.dumps(target) if isinstance(target, list) else target


def _text(task: Any, found: Logged, kept: bool) -> dict[str, Any]:
    target = found["target"]
    parsed = found["filtered_resps"][0]
    parsed = parsed if isinstance(parsed, (list, tuple)) else [parsed]
    return {
        "target": target if isinstance(target, str) else json.dumps(target, ensure_ascii=False, default=str),
        "texts": tuple(map(str, found["resps"][0])) if kept else (),
        "parsed": tuple("" if each == INVALID else str(each) for each in parsed) if kept else (),
    }


def _code(task: Any, found: Logged, kept: bool) -> dict[str, Any]:
    """The whole programs, which a filter has made of the answers; a later step runs them."""
    programs = found["filtered_resps"][0]
    return {"target": str(found["target"]), "texts": tuple(map(str, programs)) if kept else ()}


def _rolling(task: Any, found: Logged, kept: bool) -> dict[str, Any]:
    text = str(found["target"])
    return {
        "target": "",
        "lengths": (int(task.count_words(text)), int(task.count_bytes(text))),
        "log_likelihoods": (float(found["resps"][0][0]),) if kept else (),
    }


READERS: dict[Form, Callable[[Any, Logged, bool], dict[str, Any]]] = {
    "choice": _choice,
    "text": _text,
    "code": _code,
    "rolling": _rolling,
}
