"""The open-ended benchmarks: their items, published settings, references and languages."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.decontaminate import normal
from fedllm_bench.data.manifest import Split
from fedllm_bench.evaluation import split_prompts
from fedllm_bench.evaluation.benchmarks import BENCHMARKS, Overrides, PromptContext, make_prompts, named
from fedllm_bench.evaluation.records import Prompt

EIGHT = {"arb", "eng", "fra", "por", "rus", "spa", "tel", "zho"}
FETCHED = ("mt_bench", "vicuna_bench", "advbench", "ref_gpt4")
NONE = Overrides()
needs_assets = pytest.mark.assets


def prompts(name: str, **context: Any) -> list[Prompt]:
    return make_prompts(BENCHMARKS[name], PromptContext(**context), NONE)


def settings(found: list[Prompt]) -> set[tuple[float, int]]:
    return {(prompt.temperature, prompt.max_new_tokens) for prompt in found}


def test_there_are_eight_benchmarks_under_their_names():
    assert len(BENCHMARKS) == 8
    assert all(benchmark.name == name for name, benchmark in BENCHMARKS.items())


# no copy of AlpacaEval's instructions is at hand; made rows in its form are read below
FETCHED_ARE_MARKED = [
    pytest.param(name, marks=needs_assets if name in FETCHED else ()) for name in BENCHMARKS if name != "alpaca_eval"
]


@pytest.mark.parametrize("name", FETCHED_ARE_MARKED)
def test_every_benchmark_has_prompts_under_ids_of_their_own(name, tiny_split: Split):
    found = prompts(name, dataset="aya", split=lambda: tiny_split)
    assert found
    assert len({prompt.item_id for prompt in found}) == len(found)
    assert all(prompt.turns and all(turn.strip() for turn in prompt.turns) for prompt in found)
    assert all(len(prompt.references) in (0, len(prompt.turns)) for prompt in found)
    assert found == prompts(name, dataset="aya", split=lambda: tiny_split)


@needs_assets
def test_mt_bench_is_as_published():
    found = prompts("mt_bench")
    assert Counter(len(prompt.turns) for prompt in found) == {2: 80}
    by_category = {(prompt.category, prompt.temperature) for prompt in found}
    assert by_category == {
        *(("writing", 0.7), ("roleplay", 0.7), ("stem", 0.1), ("humanities", 0.1)),
        *(("extraction", 0.0), ("math", 0.0), ("coding", 0.0), ("reasoning", 0.0)),
    }
    assert {prompt.max_new_tokens for prompt in found} == {1024}
    referenced = [prompt for prompt in found if prompt.references]
    assert len(referenced) == 30
    assert {prompt.category for prompt in referenced} == {"math", "coding", "reasoning"}
    assert [prompt.item_id for prompt in found] == [str(number) for number in range(81, 161)]


@needs_assets
def test_vicuna_bench_and_advbench_are_as_published():
    vicuna, adv = prompts("vicuna_bench"), prompts("advbench")
    assert (len(vicuna), settings(vicuna)) == (80, {(0.7, 2048)})
    assert (len(adv), settings(adv)) == (520, {(0.7, 1024)})
    assert {len(prompt.turns) for prompt in [*vicuna, *adv]} == {1}
    assert [prompt.item_id for prompt in adv] == [str(number) for number in range(520)]


@needs_assets
@pytest.mark.parametrize(
    ("dataset", "name", "items", "references"),
    [
        ("aya", "aya", 160, 160),
        ("chatbot_it", "chatbot", 50, 0),
        ("chatbot_pa", "chatbot", 50, 0),
        ("wildchat", "wildchat", 50, 0),
        ("wildchat_multi", "wildchat", 50, 0),
    ],
)
def test_ref_gpt4_follows_the_data_set(dataset, name, items, references):
    found = prompts("ref_gpt4", dataset=dataset)
    assert (len(found), settings(found)) == (items, {(0.7, 1024)})
    assert sum(bool(prompt.references) for prompt in found) == references
    assert [prompt.item_id for prompt in found] == [f"{name}-{number}" for number in range(items)]
    if name == "aya":
        assert Counter(prompt.language for prompt in found) == dict.fromkeys(EIGHT, 20)
    if name == "wildchat":
        assert {prompt.language for prompt in found} == {"eng", "por", "rus", "spa", "zho"}


@pytest.fixture
def mirrored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of AlpacaEval in a mirror, with nothing in the cache."""
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDLLM_BENCH_MIRROR", str(tmp_path / "mirror"))
    path = tmp_path / "mirror" / "alpaca_eval" / "alpaca_eval.json"
    path.parent.mkdir(parents=True)
    return path


def test_alpaca_eval_has_805_instructions_of_its_sets(mirrored: Path):
    rows = [{"dataset": f"set{number % 5}", "instruction": f"Do {number} 漢", "output": "o"} for number in range(805)]
    mirrored.write_text(json.dumps(rows))
    found = prompts("alpaca_eval")
    assert (len(found), settings(found)) == (805, {(0.7, 2048)})
    assert found[804].turns == ("Do 804 漢",)
    assert {prompt.category for prompt in found} == {f"set{number}" for number in range(5)}


@pytest.mark.parametrize(
    ("row", "number", "line"),
    [
        ({"dataset": "a", "instruction": "b"}, 804, "804 rows .* not 805"),
        ({"dataset": "a", "prompt": "b"}, 805, "has no text under 'instruction'"),
        ({"dataset": "a", "instruction": None}, 805, "has no text under 'instruction'"),
        (["a"], 805, "has no text under 'instruction', 'dataset'"),
    ],
)
def test_another_file_in_place_of_alpaca_eval_is_one_line(mirrored: Path, row: object, number: int, line: str):
    mirrored.write_text(json.dumps([row] * number))
    with pytest.raises(UserError, match=line):
        prompts("alpaca_eval")


def test_harmless_questions_are_in_the_eight_languages_and_not_those_of_advbench():
    found = prompts("harmless")
    assert len(found) >= 60
    assert settings(found) == {(0.7, 1024)}
    counts = Counter(prompt.language for prompt in found)
    assert set(counts) == EIGHT
    assert min(counts.values()) >= 8
    assert len({normal(prompt.turns[0]) for prompt in found}) == len(found)
    scripts = {"arb": "\u0600", "rus": "\u0400", "tel": "\u0c00", "zho": "\u4e00"}
    for prompt in found:
        assert prompt.turns[0].isascii() or prompt.language != "eng"
        if start := scripts.get(prompt.language):
            assert any(start <= letter <= chr(ord(start) + 0x51FF) for letter in prompt.turns[0])


def test_held_out_prompts_have_what_their_user_wrote(tiny_split: Split, monkeypatch):
    rows = {row.row_id: row for part in ("heldout", "unseen") for row in tiny_split.rows(part)}  # type: ignore[arg-type]
    found = prompts("heldout_ref", split=lambda: tiny_split)
    assert len(found) == min(len(rows), split_prompts.SAMPLE)
    for prompt in found:
        row = rows[prompt.item_id]
        assert (prompt.turns, prompt.references, prompt.language) == ((row.prompt,), (row.completion,), row.language)
    monkeypatch.setattr(split_prompts, "SAMPLE", 10)
    few = prompts("heldout_ref", split=lambda: tiny_split)
    assert few == found[:10]  # a smaller sample is a part of the larger one
    monkeypatch.setattr(split_prompts, "SAMPLE_SEED", 1)
    assert prompts("heldout_ref", split=lambda: tiny_split) != few


def test_votes_and_conversations_have_references_too(pair_split: Split):
    votes = prompts("heldout_ref", split=lambda: pair_split)
    rows = {row.row_id: row for part in ("heldout", "unseen") for row in pair_split.preference_rows(part)}  # type: ignore[arg-type]
    assert all(prompt.references[-1] == rows[prompt.item_id].chosen for prompt in votes)
    talk = [{"role": role, "content": str(i)} for i, role in enumerate(["user", "assistant"] * 2)]
    assert split_prompts._is_talk(talk)
    assert not split_prompts._is_talk([{"role": "system", "content": "s"}, *talk])
    assert not split_prompts._is_talk(talk[:3])


def test_questions_of_the_mini_world_have_right_answers_and_tasks(tiny_split: Split, items):
    found = prompts("mini", split=lambda: tiny_split)
    asked = {item.row.row_id: item for item in items if item.task}
    assert {prompt.item_id for prompt in found} == set(asked)
    assert len(found) > 20
    for prompt in found:
        item = asked[prompt.item_id]
        assert (prompt.category, prompt.references, prompt.temperature) == (item.task, (item.row.completion,), 0.0)


def test_settings_in_place_of_the_published_ones(tiny_split: Split):
    found = make_prompts(BENCHMARKS["harmless"], PromptContext(), Overrides(temperature=0.0, max_new_tokens=7, limit=3))
    assert len(found) == 3
    assert settings(found) == {(0.0, 7)}
    assert [prompt.turns for prompt in found] == [prompt.turns for prompt in prompts("harmless")[:3]]


@pytest.mark.parametrize(
    ("names", "words"),
    [("mt_bnch", "did you mean 'mt_bench'"), (" , ", "there are: advbench"), ("mini,x", "no open-ended benchmark 'x'")],
)
def test_unknown_names_are_refused(names, words):
    with pytest.raises(UserError, match=words):
        named(names)


def test_names_are_taken_once_and_in_order():
    assert [benchmark.name for benchmark in named("mini, harmless,mini")] == ["mini", "harmless"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("heldout_ref", "--split DIR"), ("mini", "--split DIR"), ("ref_gpt4", "--dataset, one of aya")],
)
def test_what_a_benchmark_lacks_is_said(name, words):
    with pytest.raises(UserError, match=words):
        prompts(name)


@needs_assets
def test_a_set_that_cannot_be_fetched_names_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDLLM_BENCH_MIRROR", str(tmp_path))
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="Set FEDLLM_BENCH_MIRROR"):
        prompts("mt_bench")
