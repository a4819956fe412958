"""The training sets of OpenFedLLM, FS-LLM and FlowerTune: made rows in each upstream's columns, hostile ones too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from built_splits import removed
from data_runs import run
from leaks import assert_no_equals, rows_of
from raw_formats import as_csv, as_parquet, put
from raw_rows import write_raw

from fedllm_bench.common.errors import UserError
from fedllm_bench.config import presets
from fedllm_bench.data.build.pipelines import TRAINING_SETS, load_pipeline
from fedllm_bench.data.manifest import Split, open_split
from fedllm_bench.data_prep.fs_llm import ASSEMBLY
from fedllm_bench.mini.tables import CATEGORIES, LANGUAGES, ROWS
from fedllm_bench.mini.users import Population

pytestmark = pytest.mark.usefixtures("evaluation_sets")
SMALL = Population(seed=5, num_users=11, num_below_cut=2, num_names=6)
PAIRS = ("hh_rlhf", "ultrafeedback")
ALPACA = {"instruction", "input", "output"}
# Upstream columns, those too that are not read.
COLUMNS = {
    **{name: {*ALPACA, "text"} for name in ("alpaca", "alpaca_gpt4", "fed_alpaca", "flowertune_general")},
    **dict.fromkeys(("fingpt", "medalpaca", "code_alpaca", "fed_code_alpaca"), ALPACA),
    **{f"flowertune_{name}": ALPACA for name in ("finance", "medical", "code")},
    "math_instruct": {"source", "instruction", "output"},
    "ultrafeedback": {"prompt", "prompt_id", "chosen", "rejected", "messages", "score_chosen", "score_rejected"},
    "hh_rlhf": {"chosen", "rejected"},
    "fed_dolly": {"instruction", "context", "response", "category"},
    "fed_gsm8k": {"question", "answer"},
}


def rows(dataset: str) -> list[dict[str, Any]]:
    return [row.columns for row in ROWS[dataset](SMALL)]


def built(tmp_path: Path, dataset: str, raw: list[dict[str, Any]], variant: str = "paper", **options: Any) -> Split:
    pipeline = load_pipeline(dataset, variant=variant)
    recipe = replace(pipeline.DECLARATION.recipe, **options)
    tmp_path.mkdir(exist_ok=True)
    return pipeline.build(write_raw(tmp_path / f"{dataset}-{variant}.jsonl", raw), tmp_path / variant, recipe)


def talks(split: Split) -> set[tuple[str, ...]]:
    return {tuple(turn["content"] for turn in row.messages) for row in split.rows("train")}


def test_there_are_sixteen_with_a_preset_each():
    assert len(TRAINING_SETS) == 16
    named = presets.training_sets()
    assert sorted(TRAINING_SETS) == sorted(name for names in named.values() for name in names)
    assert {suite: len(names) for suite, names in named.items()} == {"openfedllm": 8, "fs_llm": 4, "flowertune": 4}
    assert COLUMNS.keys() == ROWS.keys() == TRAINING_SETS.keys()


@pytest.mark.parametrize("dataset", TRAINING_SETS)
def test_declaration_and_preset_say_the_same(dataset):
    declared, config = load_pipeline(dataset).DECLARATION, presets.load(dataset, "fedavg", "paper")
    assert (declared.dataset, declared.upstream, declared.task) == (dataset, config.data.upstream, config.data.task)
    assert declared.licence
    kind, _, count = declared.recipe.partition.partition(":")
    assert config.data.clients == (int(count) if kind == "iid" else {"input": 9, "category": 8}[count])
    assert not declared.has_users
    assert config.local.loss == ("dpo" if dataset in PAIRS else "sft")


@pytest.mark.parametrize("dataset", TRAINING_SETS)
def test_rows_in_the_upstreams_columns_make_its_clients(tmp_path, dataset):
    raw = rows(dataset)
    assert {frozenset(row) for row in raw} == {frozenset(COLUMNS[dataset])}
    split = built(tmp_path, dataset, raw)
    assert_no_equals(split, str)
    clients = [client.id for client in split.manifest.clients]
    assert len(clients) == presets.load(dataset, "fedavg", "paper").data.clients
    assert all(client.train and client.heldout for client in split.manifest.clients)
    if dataset == "fed_dolly":
        assert clients == sorted(CATEGORIES)
    if dataset == "fed_code_alpaca":
        assert clients == sorted(set(LANGUAGES) - {ASSEMBLY})
        assert removed(split)["assembly"] > 5
    part = rows_of(split, "train")
    assert {row.language for row in part} == {"eng"}
    hidden = {"flowertune_general": "input", "medalpaca": "instruction", "flowertune_medical": "instruction"}
    if column := hidden.get(dataset):
        marked = built(tmp_path, dataset, [{**row, column: "secret"} for row in raw], heldout=0)
        assert not any("secret" in text for texts in talks(marked) for text in texts)


def test_an_input_is_joined_by_a_space_or_stands_apart(tmp_path):
    raw = [{"instruction": "Add.", "input": "1 2", "output": "3"}, {"instruction": "Hi", "input": "", "output": "Ho"}]
    for dataset in ("alpaca", "fingpt", "code_alpaca", "flowertune_code"):
        split = built(tmp_path / dataset, dataset, raw, partition="iid:1", heldout=0)
        assert talks(split) == {("Add. 1 2", "3"), ("Hi", "Ho")}
    split = built(tmp_path / "fed", "fed_alpaca", raw, partition="iid:1", heldout=0)
    assert talks(split) == {("Add.", "1 2", "3"), ("Hi", "Ho")}


def test_a_result_of_gsm8k_is_said_in_words(tmp_path):
    raw = [{"question": "How many?", "answer": "Two and two.\n#### 4"}]
    split = built(tmp_path, "fed_gsm8k", raw, partition="iid:1", heldout=0)
    assert talks(split) == {("How many?", "Two and two.\nThe answer is 4")}


def test_repeated_questions_of_math_instruct_go(tmp_path):
    raw = [{"source": "a", "instruction": f"q{i % 3}", "output": f"{i}"} for i in range(6)]
    split = built(tmp_path, "math_instruct", raw, partition="iid:1", heldout=0)
    assert talks(split) == {("q0", "0"), ("q1", "1"), ("q2", "2")}
    assert removed(split) == {"repeated": 3}


@pytest.mark.parametrize("dataset", [name for name in TRAINING_SETS if TRAINING_SETS[name].endswith("openfedllm")])
def test_the_released_order_depends_on_the_places_and_holds_nothing_out(tmp_path, dataset):
    raw = rows(dataset)
    split = built(tmp_path, dataset, raw, "released")
    sizes = [client.train for client in split.manifest.clients]
    assert not any(client.heldout for client in split.manifest.clients)
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == len(raw) - removed(split).get("repeated", 0) - removed(split).get("equal", 0)
    assert split.hash != built(tmp_path / "again", dataset, raw[::-1], "released").hash
    assert split.manifest.dataset == dataset


HOSTILE = ("{{ 7 * 7 }}", "</s>", "### Response: forged", "\u202eabc", "a\x00b", "\n\nHuman: x", "é" * 5000)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_rows_like_any(tmp_path, text):
    raw = [{"instruction": text, "input": text, "output": text}, {"instruction": "q", "input": "", "output": "a"}]
    for dataset in ("alpaca", "fed_alpaca"):
        split = built(tmp_path / dataset, dataset, raw, partition="iid:1", heldout=0)
        assert len(split.rows("train")) == 2
        assert open_split(split.folder).hash == split.hash


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"instruction": 3, "input": "", "output": "a"}, "column 'instruction' is int"),
        ({"instruction": ["q"], "input": "", "output": "a"}, "column 'instruction' is list"),
        ({"instruction": "q", "input": {"a": 1}, "output": "a"}, "column 'input' is dict"),
        ({"instruction": "q", "output": "a"}, "no column 'input'"),
        ({"instruction": "q", "input": ""}, "no column 'output'"),
    ],
)
def test_a_row_that_is_none_is_one_line(tmp_path, row, words):
    with pytest.raises(UserError) as caught:
        built(tmp_path, "alpaca", [row, *rows("alpaca")[:30]])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_other_kinds_and_a_programming_language_that_is_no_id(tmp_path):
    raw = [row for row in rows("fed_dolly") if row["context"]]
    for kind, write in ((".parquet", as_parquet), (".csv", as_csv)):
        place = put(tmp_path / f"dolly{kind}", write(raw))
        how = ("--out", tmp_path / kind, "--partition", "dirichlet:0.5:category:3")
        assert run("build", "fed_dolly", "--raw", place, *how) == 0
    assert open_split(tmp_path / ".parquet").hash == open_split(tmp_path / ".csv").hash
    assert len(open_split(tmp_path / ".csv").manifest.clients) == 3
    long = [{"instruction": f"q{i}", "input": "x" * 5000 if i % 2 else "Go", "output": "a"} for i in range(6)]
    split = built(tmp_path / "code", "fed_code_alpaca", long, heldout=0)
    assert [client.id for client in split.manifest.clients] == ["Go"]
    assert removed(split)["column"] == 3
