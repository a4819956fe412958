"""Rows of the mini world in the columns of the training sets whose upstream is a table, and the splits of them.

The same pipelines build these splits as those of the real rows. Nobody of the world is a client: the partition of the
data set makes the clients. Only then is it known who holds out which row, so a split is built twice: without probes,
then with them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.data.build.pipelines import load_pipeline
from fedllm_bench.data.manifest import Split
from fedllm_bench.mini.probes import PROBES, probe_key
from fedllm_bench.mini.raw import RawRow, messages, probe
from fedllm_bench.mini.users import Answered, Population, make_rows
from fedllm_bench.mini.votes import Battle, make_votes

VERSION = 1  # raise it when equal seeds give other rows
EVERY = 3  # one row in so many has an input
LANGUAGES = ("C", "C#", "C++", "Go", "Java", "PHP", "Pascal", "Python", "Scala", "X86-64 Assembly")  # of programs
CATEGORIES = ("brainstorming", "classification", "closed_qa", "creative_writing", "general_qa",
              "information_extraction", "open_qa", "summarization")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TableForm:
    """What a row of the world is in the columns of an upstream.

    `asked` is the column of the question, and `answer` that of the answer. `given` is a column of inputs: it has the
    last word of some questions, which are shorter by it. `label` has one of the `labels`, the same for all rows of a
    user. `told`: the columns that make the prompt. `fixed`: columns with one value. `raw` is an answer as the upstream
    writes it, and `built` as the pipeline does.
    """

    asked: str = "instruction"
    answer: str = "output"
    given: str = ""
    label: str = ""
    labels: tuple[str, ...] = ()
    told: tuple[str, ...] = ("instruction",)
    fixed: Mapping[str, str] = field(default_factory=dict)
    raw: str = "{}"
    built: str = "{}"

    def __call__(self, population: Population) -> list[RawRow]:
        return [self._row(number, row) for number, row in enumerate(make_rows(population))]

    def _row(self, number: int, row: Answered) -> RawRow:
        question, _, last = row.item.prompt.rpartition(" ")
        is_cut = bool(self.given and question) and number % EVERY == 0
        columns = {
            **self.fixed,
            self.asked: question if is_cut else row.item.prompt,
            self.answer: self.raw.format(row.item.completion),
        }
        if self.given:
            columns[self.given] = last if is_cut else ""
        if self.label:
            columns[self.label] = self.labels[int(row.user_id.rpartition("-")[2]) % len(self.labels)]
        turns = (" ".join(columns[name] for name in self.told), self.built.format(row.item.completion))
        choices = [self.built.format(choice) for choice in row.item.choices]
        return RawRow(row.split, columns, probe("", turns, row.item.task, "", choices))


def transcripts(population: Population) -> list[RawRow]:
    """Decided votes in the columns of Anthropic/hh-rlhf."""

    def text(turns: Sequence[str]) -> str:
        return "".join(f"\n\n{('Human', 'Assistant')[place % 2]}: {said}" for place, said in enumerate(turns))

    def columns(prompt: Sequence[str], chosen: str, rejected: str) -> dict[str, Any]:
        return {"chosen": text([*prompt, chosen]), "rejected": text([*prompt, rejected])}

    return _pairs(population, columns, whole=True)


def binarized(population: Population) -> list[RawRow]:
    """Decided votes in the columns of HuggingFaceH4/ultrafeedback_binarized."""

    def columns(prompt: Sequence[str], chosen: str, rejected: str) -> dict[str, Any]:
        sides = {"chosen": messages([*prompt, chosen]), "rejected": messages([*prompt, rejected])}
        about = {"prompt": prompt[0], "prompt_id": files.sha256_json(list(prompt))}
        return {**about, **sides, "messages": sides["chosen"], "score_chosen": 8.0, "score_rejected": 4.0}

    return _pairs(population, columns, whole=False)


def _pairs(
    population: Population, columns: Callable[[Sequence[str], str, str], dict[str, Any]], *, whole: bool
) -> list[RawRow]:
    """`whole`: with the question and answer before the last, in the words of the chosen side."""
    rows = []
    for made in make_votes(population):
        if made.preferred is not None and not made.flagged:
            rows.append(_pair(made, made.preferred, columns, whole=whole))
    return rows


def _pair(
    made: Battle, preferred: int, columns: Callable[[Sequence[str], str, str], dict[str, Any]], *, whole: bool
) -> RawRow:
    chosen, rejected = made.sides[preferred], made.sides[1 - preferred]
    prompt = chosen[:-1] if whole else chosen[-2:-1]
    said, item = made.replies[preferred][-1], made.questions[-1]
    about = probe("", (*prompt, chosen[-1]), item.task, "", said.choices)
    return RawRow(made.split, columns(prompt, chosen[-1], rejected[-1]), about)


ALPACA = TableForm(given="input", told=("instruction", "input"))
QUESTIONS = replace(ALPACA, fixed={"text": ""})
FLASHCARDS = TableForm(asked="input", told=("input",), fixed={"instruction": "Answer this question truthfully"})
ROWS: dict[str, Callable[[Population], list[RawRow]]] = {
    "alpaca": QUESTIONS,
    "alpaca_gpt4": QUESTIONS,
    "fingpt": ALPACA,
    "medalpaca": FLASHCARDS,
    "code_alpaca": ALPACA,
    "math_instruct": TableForm(fixed={"source": "mini"}),
    "ultrafeedback": binarized,
    "hh_rlhf": transcripts,
    "fed_alpaca": QUESTIONS,
    "fed_code_alpaca": TableForm(label="input", labels=LANGUAGES, told=("instruction", "input")),
    "fed_dolly": TableForm(answer="response", given="context", label="category", labels=CATEGORIES,
                           told=("instruction", "context")),
    "fed_gsm8k": TableForm(asked="question", answer="answer", told=("question",), raw="#### {}",
                           built="The answer is {}"),
    "flowertune_general": TableForm(fixed={"input": "", "text": ""}),
    "flowertune_finance": ALPACA,
    "flowertune_medical": FLASHCARDS,
    "flowertune_code": ALPACA,
}  # fmt: skip


def build_table(dataset: str, population: Population, out: Path, variant: str = "paper") -> Split:
    """The mini split of a training set, in `out`. Where variant "released" has another, it holds out a tenth all the
    same, as a run needs held-out rows."""
    rows = ROWS[dataset](population)
    pipeline = load_pipeline(dataset, variant=variant)
    declared = pipeline.DECLARATION
    is_released = declared.recipe.is_released
    heldout: Any = {"heldout": 0.1, "deduplicate": True} if is_released else {"heldout": "upstream", "leakage": "exact"}
    recipe = replace(declared.recipe, **heldout)
    declaration = replace(
        declared,
        upstream=f"the mini world {files.canonical_json(asdict(population))}",
        licence="Apache-2.0 (generated)",
        version=f"mini-{VERSION}",
        splits=(),
    )

    def build(raw: Path, folder: Path, known: bytes) -> Split:
        split: Split = pipeline.build(
            raw, folder, recipe, f"mini-{dataset}", declaration=declaration, extra_files={PROBES: known}
        )
        return split

    with tempfile.TemporaryDirectory() as folder:
        raw = files.make_folder(Path(folder) / "raw")
        for split in ("train", "test"):
            own = [row.columns for row in rows if ("train" if is_released else row.split) == split]
            files.write_jsonl(raw / f"{split}.jsonl", own)
        return build(raw, out, _probes(build(raw, Path(folder) / "split", b""), rows))


def _probes(split: Split, rows: Sequence[RawRow]) -> bytes:
    """What the world knows of each held-out row, as JSON lines; rows are found by their text without spaces."""
    known = {_key(row.probe["prompt"], row.probe["completion"]): row.probe for row in rows if row.probe}
    found = []
    for row in split.task_rows("heldout"):
        client, prompt, completion = probe_key(row)
        if about := known.get(_key(prompt, completion)):
            found.append({**about, "client": client, "prompt": prompt, "completion": completion})
    return "".join(files.canonical_json(record) + "\n" for record in found).encode()


def _key(prompt: str, completion: str) -> tuple[str, str]:
    return "".join(prompt.split()), completion
