"""The open-ended benchmarks by name. To add one: a function that makes its prompts, and an entry in BENCHMARKS.

Prompts of others are fetched when they are needed (assets.py); settings are the published ones (REFERENCE of each in
its function). `version` rises whenever equal models could answer otherwise.
"""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files as package_files
from typing import Any

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.data.fetch import assets
from fedllm_bench.data.manifest import Split
from fedllm_bench.evaluation import split_prompts
from fedllm_bench.evaluation.records import Prompt

# Zheng et al., 2023 (arXiv:2306.05685): FastChat's table of temperatures by category
MT_BENCH_TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
ARENA_SET = "chatbot"
REF_SETS = {
    "aya": "aya",
    "chatbot_it": ARENA_SET,
    "chatbot_pa": ARENA_SET,
    "wildchat": "wildchat",
    "wildchat_multi": "wildchat",
}
REF_LANGUAGES = {  # as the published files name them
    "Standard_Arabic": "arb",
    "English": "eng",
    "Simplified_Chinese": "zho",
    "Chinese": "zho",
    "Portuguese": "por",
    "Telugu": "tel",
    "Russian": "rus",
    "French": "fra",
    "Spanish": "spa",
}


@dataclass(frozen=True, kw_only=True)
class PromptContext:
    """What a benchmark's prompts may hang on: the data set a run is of, and its split."""

    dataset: str | None = None
    split: Callable[[], Split] | None = None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    name: str
    version: str
    description: str
    prompts: Callable[[PromptContext], list[Prompt]]
    check: Callable[[PromptContext], object] = lambda context: (
        None
    )  # raises for what the context lacks; fetches nothing


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """Settings in place of the published ones; `limit` keeps the first items only, for trying out."""

    temperature: float | None = None
    max_new_tokens: int | None = None
    limit: int | None = None


def make_prompts(benchmark: Benchmark, context: PromptContext, overrides: Overrides) -> list[Prompt]:
    """The prompts to be asked, each under an id of its own.

    Raises a :class:`UserError` where a set cannot be fetched, and where the context lacks what the benchmark needs.
    """
    prompts = benchmark.prompts(context)
    if overrides.temperature is not None:
        prompts = [replace(prompt, temperature=overrides.temperature) for prompt in prompts]
    if overrides.max_new_tokens is not None:
        prompts = [replace(prompt, max_new_tokens=overrides.max_new_tokens) for prompt in prompts]
    assert len({prompt.item_id for prompt in prompts}) == len(prompts)
    return prompts[: overrides.limit]


def named(names: str) -> list[Benchmark]:
    """The benchmarks of `names`, which have commas between them; a :class:`UserError` for an unknown one."""
    found = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not found:
        raise UserError(f"--metrics {names!r}: no name; there are: {', '.join(sorted(BENCHMARKS))}")
    for name in found:
        if name not in BENCHMARKS:
            raise unknown("open-ended benchmark", name, BENCHMARKS, "closed ones: fedllm-bench evaluate --list-metrics")
    return [BENCHMARKS[name] for name in found]


def check_named(names: str, context: PromptContext) -> None:
    """Raise a :class:`UserError` for an unknown benchmark, and for what one lacks here, before anything is fetched."""
    for benchmark in named(names):
        benchmark.check(context)


def _lines(asset: str) -> Iterator[Any]:
    text = assets.fetch(asset).read_text(encoding="utf-8")
    return (json.loads(line) for line in text.split("\n") if line.strip())


def _mt_bench(_: PromptContext) -> list[Prompt]:
    """80 questions of two turns, 30 of them with GPT-4's answers as references (Zheng et al., 2023, section 3)."""
    references = {
        str(row["question_id"]): tuple(row["choices"][0]["turns"])
        for row in _lines("mt_bench/reference_answer_gpt-4.jsonl")
    }
    return [
        Prompt(
            item_id=str(row["question_id"]),
            turns=tuple(row["turns"]),
            category=row["category"],
            language="eng",
            references=references.get(str(row["question_id"]), ()),
            temperature=MT_BENCH_TEMPERATURES[row["category"]],
            max_new_tokens=1024,
        )
        for row in _lines("mt_bench/question.jsonl")
    ]


def _vicuna_bench(_: PromptContext) -> list[Prompt]:
    """80 questions of one turn (Chiang et al., 2023), settings of FedLLM-Bench's evaluation."""
    return [
        Prompt(
            item_id=str(row["question_id"]),
            turns=tuple(row["turns"]),
            category=row["category"],
            language="eng",
            temperature=0.7,
            max_new_tokens=2048,
        )
        for row in _lines("vicuna_bench/question.jsonl")
    ]


def _alpaca_eval(_: PromptContext) -> list[Prompt]:
    """805 instructions of five sets (Dubois et al., 2023, arXiv:2305.14387), settings of OpenFedLLM's generation."""
    rows = json.loads(assets.fetch("alpaca_eval/alpaca_eval.json").read_text(encoding="utf-8"))
    return [
        Prompt(
            item_id=str(number),
            turns=(row["instruction"],),
            category=row["dataset"],
            language="eng",
            temperature=0.7,
            max_new_tokens=2048,
        )
        for number, row in enumerate(rows)
    ]


def _advbench(_: PromptContext) -> list[Prompt]:
    """520 harmful goals (Zou et al., 2023, arXiv:2307.15043), asked as they stand."""
    with assets.fetch("advbench/harmful_behaviors.csv").open(encoding="utf-8-sig", newline="") as file:
        goals = [row["goal"] for row in csv.DictReader(file)]
    return [
        Prompt(
            item_id=str(number), turns=(goal,), category="harmful", language="eng", temperature=0.7, max_new_tokens=1024
        )
        for number, goal in enumerate(goals)
    ]


def _harmless(_: PromptContext) -> list[Prompt]:
    """Own questions that only look like those of AdvBench: to refuse one is over-refusal."""
    text = (package_files("fedllm_bench.evaluation") / "harmless.toml").read_text(encoding="utf-8")
    asked = [(language, question) for language, questions in tomllib.loads(text).items() for question in questions]
    return [
        Prompt(
            item_id=f"h{number:02d}",
            turns=(question,),
            category="harmless",
            language=language,
            temperature=0.7,
            max_new_tokens=1024,
        )
        for number, (language, question) in enumerate(asked)
    ]


def _ref_gpt4(context: PromptContext) -> list[Prompt]:
    """FedLLM-Bench's own questions (arXiv:2406.04845): Aya in 8 languages with references, Arena and WildChat without.

    Which set is asked follows from the data set.
    """
    name = _ref_set(context)
    value = json.loads(assets.fetch(f"ref_gpt4/{name}.json").read_text(encoding="utf-8"))
    rows = _by_language(value) if isinstance(value, dict) else [(_code(row.get("language", "")), row) for row in value]
    return [
        Prompt(
            item_id=f"{name}-{number}",
            turns=(row["instruction"],),
            category=name,
            language=language,
            references=(row["reference"],) if "reference" in row else (),
            temperature=0.7,
            max_new_tokens=1024,
        )
        for number, (language, row) in enumerate(rows)
    ]


def _ref_set(context: PromptContext) -> str:
    if context.dataset not in REF_SETS:
        got = f"the data set {context.dataset!r} has none" if context.dataset else "no data set is named"
        raise UserError(f"ref_gpt4: {got}; give --dataset, one of {', '.join(REF_SETS)}")
    return REF_SETS[context.dataset]


def _by_language(value: Mapping[str, Sequence[Any]]) -> list[tuple[str, Any]]:
    return [(_code(name), row) for name, rows in value.items() for row in rows]


def _code(name: str) -> str:
    """ISO 639-3; "und" where the file does not say."""
    return REF_LANGUAGES.get(name, "und")


def _heldout_ref(context: PromptContext) -> list[Prompt]:
    return split_prompts.heldout(_split("heldout_ref", context))


def _mini(context: PromptContext) -> list[Prompt]:
    return split_prompts.mini(_split("mini", context))


def _split(benchmark: str, context: PromptContext) -> Split:
    if context.split is None:
        raise UserError(f"{benchmark}: its prompts are rows of a split; give a run folder, or --split DIR")
    return context.split()


_ALL = (
    Benchmark(
        name="mt_bench",
        version="1",
        prompts=_mt_bench,
        description="MT-Bench: 80 questions of two turns",
    ),
    Benchmark(
        name="vicuna_bench", version="1", prompts=_vicuna_bench, description="Vicuna bench: 80 questions of one turn"
    ),
    Benchmark(name="alpaca_eval", version="1", prompts=_alpaca_eval, description="AlpacaEval: 805 instructions"),
    Benchmark(name="advbench", version="1", prompts=_advbench, description="AdvBench: 520 harmful goals"),
    Benchmark(
        name="harmless", version="1", prompts=_harmless, description="harmless questions that look like AdvBench's"
    ),
    Benchmark(
        name="ref_gpt4",
        version="1",
        prompts=_ref_gpt4,
        check=_ref_set,
        description="Ref-GPT4: questions in the style of the data set",
    ),
    Benchmark(
        name="heldout_ref",
        version="1",
        prompts=_heldout_ref,
        check=_heldout_ref,
        description="held-out prompts of the split, with their users' completions as references",
    ),
    Benchmark(
        name="mini",
        version="1",
        prompts=_mini,
        check=_mini,
        description="the mini world's held-out questions, with right answers",
    ),
)
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}
