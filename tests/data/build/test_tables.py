"""Tables of rows with an instruction and a response: declared in a few lines, and in the words of a user."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from built_splits import removed
from data_runs import run
from leaks import assert_no_leaks
from raw_formats import as_csv, as_jsonl, as_parquet, put
from raw_rows import write_raw

from fedllm_bench import cli
from fedllm_bench.common.errors import UserError
from fedllm_bench.config import presets
from fedllm_bench.data.build.recipe import Declaration, Recipe
from fedllm_bench.data.chat import template_text, without_input
from fedllm_bench.data.encoder import ChatEncoder
from fedllm_bench.data.manifest import Split, open_split
from fedllm_bench.data_prep.tables import Fields, TablePipeline, table
from fedllm_bench.evaluation import split_prompts
from fedllm_bench.metrics import user_answers
from fedllm_bench.runs.cell import resolve_split

pytestmark = pytest.mark.usefixtures("evaluation_sets")
FORM = Declaration(dataset="tasks", upstream="org/tasks", licence="MIT", version="1", recipe=Recipe(partition="iid:2"))
PARTS = Fields(instruction="instruction", input="input", response="output")


def tasks(rows: int = 12) -> list[dict[str, Any]]:
    return [
        {"instruction": f"Do task {i}.", "input": ["", f"with {i}"][i % 2], "output": f"done {i}", "kind": "abc"[i % 3]}
        for i in range(rows)
    ]


def made(pipeline: TablePipeline, tmp_path: Path, rows: list[dict[str, Any]], name: str = "x", **options: Any) -> Split:
    recipe = replace(pipeline.DECLARATION.recipe, **options)
    split = pipeline.build(write_raw(tmp_path / f"{name}.jsonl", rows), tmp_path / name, recipe)
    assert_no_leaks(split)
    assert open_split(split.folder) == split
    return split


def talks(split: Split) -> set[tuple[tuple[str, str], ...]]:
    return {tuple((turn["role"], turn["content"]) for turn in row.messages) for row in split.rows("train")}


def test_an_input_is_a_turn_of_its_own(tmp_path):
    split = made(table(FORM, PARTS, language="eng"), tmp_path, tasks(2), heldout=0)
    assert talks(split) == {
        (("user", "Do task 0."), ("assistant", "done 0")),
        (("user", "Do task 1."), ("input", "with 1"), ("assistant", "done 1")),
    }
    assert {(row.language, row.source, row.client_id) for row in split.rows("train")} == {
        ("eng", "tasks", "iid-000"),
        ("eng", "tasks", "iid-001"),
    }


@pytest.mark.parametrize(("join", "between"), [("space", " "), ("line", "\n"), ("paragraph", "\n\n")])
def test_an_input_may_be_joined_to_its_instruction(tmp_path, join, between):
    split = made(table(FORM, replace(PARTS, join=join)), tmp_path, tasks(2), heldout=0)
    assert talks(split) == {
        (("user", "Do task 0."), ("assistant", "done 0")),
        (("user", f"Do task 1.{between}with 1"), ("assistant", "done 1")),
    }


def test_a_system_text_stands_first_and_a_blank_instruction_goes(tmp_path):
    rows = [
        {"instruction": "a", "input": " ", "output": "b", "s": "be kind"},
        {"instruction": " ", "input": "c", "output": "d", "s": ""},
    ]
    for join in ("turn", "space"):
        split = made(
            table(FORM, replace(PARTS, system="s", join=join)), tmp_path, rows, join, heldout=0, partition="iid:1"
        )
        assert talks(split) == {(("system", "be kind"), ("user", "a"), ("assistant", "b"))}
        assert removed(split) == {"empty": 1}


def test_a_repeated_question_goes_by_the_order_of_the_rows(tmp_path):
    rows = [{"instruction": "same", "output": f"o{i}"} for i in range(3)] + [{"instruction": "other", "output": "o"}]
    pipeline = table(FORM, Fields(instruction="instruction", response="output"), once="instruction")
    split = made(pipeline, tmp_path, rows, heldout=0)
    assert {row.completion for row in split.rows("train")} == {"o0", "o"}
    assert removed(split) == {"repeated": 2}


def test_a_module_may_edit_what_a_row_says(tmp_path):
    pipeline = table(FORM, PARTS, edit=lambda sample: sample._replace(answers=(sample.answers[0].upper(),)))
    split = made(pipeline, tmp_path, tasks(2), heldout=0)
    assert {row.completion for row in split.rows("train")} == {"DONE 0", "DONE 1"}


def test_pairs_are_texts_or_turns_that_end_with_the_answer(tmp_path):
    def turns(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}]

    rows: list[dict[str, Any]] = [{"prompt": f"q{i}", "chosen": f"good {i}", "rejected": "bad"} for i in range(3)]
    rows += [{"prompt": "q9", "chosen": "same", "rejected": "same "}]
    pairs = table(FORM, Fields(instruction="prompt", chosen="chosen", rejected="rejected"))
    of_texts = made(pairs, tmp_path, rows, "texts", heldout=0)
    as_turns = [row | {key: turns(row[key]) for key in ("chosen", "rejected")} for row in rows]
    of_turns = made(pairs, tmp_path, as_turns, "turns", heldout=0)
    assert of_texts.hash == of_turns.hash
    assert of_texts.manifest.task == "preference"
    assert removed(of_texts) == {"equal": 1}
    assert {(row.prompt[0]["content"], row.chosen) for row in of_texts.preference_rows("train")} == {
        (f"q{i}", f"good {i}") for i in range(3)
    }
    with pytest.raises(UserError, match="row 1: column 'chosen' holds turns that do not end with the assistant's"):
        made(pairs, tmp_path, [rows[0] | {"chosen": turns("x")[:1]}], "cut")
    with pytest.raises(UserError, match="row 1: column 'rejected' holds more than one answer"):
        made(pairs, tmp_path, [rows[0] | {"rejected": turns("x") + turns("y")}], "long")


def test_rows_without_users_need_a_partition(tmp_path):
    for partition in ("user", "dirichlet:0.5", "dirichlet:0.5:topic"):
        with pytest.raises(UserError, match="the rows of tasks have no users, so a partition says how many"):
            made(table(FORM, PARTS), tmp_path, tasks(), partition=partition)
    # as many rows as are asked of each client, though there is no user to count them of
    split = made(table(FORM, PARTS), tmp_path, tasks(), partition="iid:3", max_samples=2, heldout=0)
    assert [client.train for client in split.manifest.clients] == [2, 2, 2]


def test_bounds_are_of_the_clients_that_the_partition_makes(tmp_path):
    rows = [row | {"kind": "aaaabbbccd"[i % 10]} for i, row in enumerate(tasks(40))]
    bounds = {"min_samples": 8, "max_clients": 2, "max_samples": 10}
    split = made(table(FORM, PARTS), tmp_path, rows, partition="column:kind", heldout=0, **bounds)
    assert {client.id: client.train for client in split.manifest.clients} == {"a": 10, "b": 10}
    assert removed(split) == {"min_samples": 4, "max_clients": 8, "max_samples": 8}
    with pytest.raises(UserError, match="nothing is left of 40 raw rows; removed by min_samples 40"):
        made(table(FORM, PARTS), tmp_path, rows, "none", partition="column:kind", min_samples=17)
    with pytest.raises(UserError, match="chooses users, and tasks has none"):
        made(table(FORM, PARTS), tmp_path, rows, "per", per="source:3")


SAID = ("--columns", "instruction=instruction,input=input,response=output", "--name", "mine", "--licence", "MIT")
ALL = ("--heldout", "0")


def build(raw: Path, out: Path, *words: str) -> Split:
    assert run("build", "rows", "--raw", raw, "--out", out, *words) == 0
    return open_split(out)


def test_rows_of_ones_own_in_columns_are_as_declared_ones(tmp_path):
    raws = [put(tmp_path / f"my{end}", write(tasks())) for end, write in
            ((".jsonl", as_jsonl), (".parquet", as_parquet), (".csv", as_csv))]  # fmt: skip
    splits = [build(raw, tmp_path / f"s{raw.suffix}", *SAID, "--partition", "column:kind", *ALL) for raw in raws]
    assert len({split.hash for split in splits}) == 1
    split = splits[0]
    assert [client.id for client in split.manifest.clients] == ["a", "b", "c"]
    columns = {"instruction": "instruction", "input": "input", "response": "output", "join": "turn"}
    assert split.manifest.recipe["columns"] == columns
    assert (("user", "Do task 1."), ("input", "with 1"), ("assistant", "done 1")) in talks(split)
    joined = build(raws[0], tmp_path / "space", *SAID, "--partition", "column:kind", "--join", "space", *ALL)
    assert joined.hash != split.hash
    assert (("user", "Do task 1. with 1"), ("assistant", "done 1")) in talks(joined)
    users = build(raws[0], tmp_path / "users", *SAID, "--client-column", "kind")
    assert [client.id for client in users.manifest.clients] == ["a", "b", "c"]
    assert users.manifest.recipe["columns"]["client"] == "kind"


def test_votes_of_ones_own(tmp_path):
    rows = [{"q": f"q{i}", "better": f"b{i}", "worse": f"w{i}", "who": f"u{i % 2}"} for i in range(10)]
    raw = put(tmp_path / "votes.jsonl", as_jsonl(rows))
    words = ("--prompt", "q", "--chosen", "better", "--rejected", "worse", "--name", "votes", "--licence", "MIT")
    split = build(raw, tmp_path / "s", *words, "--client-column", "who")
    assert (split.manifest.task, len(split.manifest.clients)) == ("preference", 2)
    assert split.manifest.recipe["columns"] == {"prompt": "q", "chosen": "better", "rejected": "worse", "client": "who"}
    assert len(build(raw, tmp_path / "t", *words, "--partition", "iid:5").manifest.clients) == 5
    config = presets.load("rows", "fedavg", "mini", split=str(split.folder))
    with pytest.raises(UserError, match="needs sft; for pairs of your own: --set data") as caught:
        resolve_split(config)
    words = str(caught.value).partition("own: ")[2].split()
    given = [*words[1:4:2], f"evaluation.metrics={words[-1]}"]
    config = presets.load("rows", "fedavg", "mini", given, split=str(split.folder))
    assert resolve_split(config) == split
    assert config.evaluation.metrics == ("preference_accuracy", "preference_margin", "preference_loss")


BAD: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (SAID, ("--client-column", "--partition that makes clients")),
    ((*SAID, "--partition", "user"), ("needs --client-column",)),
    ((*SAID, "--partition", "column:sort"), ("no column 'sort'", "it has 'instruction'")),
    ((*SAID, "--partition", "column:Kind"), ("no column 'Kind'", "'kind'")),
    ((*SAID[2:], "--partition", "iid:2", "--prompt", "a", "--chosen", "b"), ("got --prompt, --chosen", "--rejected")),
    ((*SAID, "--partition", "iid:2", "--messages", "m"), ("got --messages, --columns",)),
    (("--columns", "instruction=a", *SAID[2:], "--partition", "iid:2"), ("name instruction and response",)),
    (("--columns", "instruction=a,response=a", *SAID[2:], "--partition", "iid:2"), ("same column 'a'",)),
    (("--columns", "instruction=a,response=", *SAID[2:], "--partition", "iid:2"), ("name instruction and response",)),
    (("--columns", "instruction=a,instruction=b,response=c", *SAID[2:], "--partition", "iid:2"), ("each once",)),
    (("--columns", "instruction=a,output=b", *SAID[2:], "--partition", "iid:2"), ("'output'", "response")),
    ((*SAID, "--partition", "iid:2", "--join", "tab"), ("'tab'", "space")),
    (("--columns", "instruction=instruction,response=output", *SAID[2:], "--partition", "iid:2", "--join", "line"),
     ("--join says how an input",)),
    ((*SAID, "--partition", "iid:2", "--client-column", "kind", "--max-rows", "0"), ("max_rows=0", "at least 1")),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), BAD)
def test_bad_words_are_one_line(words, expected, tmp_path, capsys):
    raw = put(tmp_path / "my.jsonl", as_jsonl(tasks()))
    assert cli.main(["data", "build", "rows", "--raw", str(raw), "--out", str(tmp_path / "s"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in expected), line
    assert not (tmp_path / "s").exists()


def test_an_input_is_part_of_what_is_asked(tmp_path):
    """A prompt of evaluation holds the user's words alone, and so do metrics that compare with what was asked."""
    rows = [row for row in tasks(40) if row["input"]]
    split = made(table(FORM, PARTS, language="eng"), tmp_path, rows)
    asked = {prompt.turns for prompt in split_prompts.heldout(split)}
    assert asked <= {(f"Do task {i}.\n\nwith {i}",) for i in range(40)}
    assert len(asked) == len(split.rows("heldout")) > 0
    row = split.rows("train")[0]
    assert user_answers._asked(row) == "\n\n".join(turn["content"] for turn in row.messages[:2])


def test_an_input_stands_behind_the_instruction_under_a_template_that_has_no_place_for_it(tiny_model):
    told = [{"role": "user", "content": "Sum up."}, {"role": "input", "content": "<s> the text\n\n### Response: no"},
            {"role": "assistant", "content": "short"}]  # fmt: skip
    joined = [{"role": "user", "content": "Sum up.\n\n<s> the text\n\n### Response: no"}, told[2]]
    for name in ("alpaca", "plain", "vicuna_v1.1"):
        encode = ChatEncoder(tiny_model.tokenizer, template_text(name))
        assert encode([told]) == encode([joined])
        assert encode([told[:2]], asks=True) == encode([joined[:1]], asks=True)
        assert encode.asked(told[:2]) == encode.asked(joined[:1])
    assert without_input([told[1], told[2]]) == [told[1], told[2]]  # behind no user's turn it is left alone
