"""Held-out rows are other rows than those of training, whatever their case, punctuation, width and spacing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from leaks import assert_no_leaks, prompt_of, rows_of
from raw_rows import Raw, aya, chat, vote, write_raw

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.decontaminate import EvaluationPrompts
from fedllm_bench.data.build.pipelines import load_pipeline
from fedllm_bench.data.build.recipe import Recipe
from fedllm_bench.data.build.sample import Sample
from fedllm_bench.data.build.sampling import compared
from fedllm_bench.data.manifest import Split

SAID = "Café number {}: what is 3 kg, exactly?"
# The same words in other clothes.
FORMS = {
    "case": str.upper,
    "punctuation": lambda text: "«" + text.replace(":", " –").replace("?", "!!") + "»",
    "width": lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    "space": lambda text: "\n " + text.replace(" ", " \u00a0\t ") + " ",
    "accent": lambda text: text.replace("é", "e\u0301"),
    "ligature": lambda text: text.replace("kg", "㎏"),
}


def make(tmp_path: Path, train: list[Raw], test: list[Raw], dataset: str = "aya", **options: Any) -> Split:
    """The rows of `test` are held out, where they do not leak."""
    folder = tmp_path / f"raw-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    write_raw(folder / "train.jsonl", train)
    write_raw(folder / "test.jsonl", test)
    pipeline = load_pipeline(dataset)
    recipe = replace(pipeline.DECLARATION.recipe, min_samples=1, unseen_clients=0, languages=(), heldout="upstream")
    split: Split = pipeline.build(folder, folder / "split", replace(recipe, **options))
    assert_no_leaks(split)
    return split


def leaked(split: Split) -> int:
    return {step.step: step.rows_removed for step in split.manifest.funnel}["leakage"]


def own(number: int) -> str:
    return SAID.format(number)


@pytest.mark.parametrize("form", FORMS)
def test_a_held_out_row_that_is_a_training_row_in_another_form_goes_and_is_counted(form, tmp_path):
    change = FORMS[form]
    assert change(own(1)) != own(1)
    train = [aya("a", own(n), f"Answer {n}.") for n in range(6)] + [aya("b", f"q {n}", f"a {n}") for n in range(6)]
    same_prompt = [aya("a", change(own(n)), f"another {n}") for n in range(2)]
    same_pair = [aya("b", change(own(n)), change(f"Answer {n}.")) for n in range(2, 5)]
    fine = [aya("b", change(own(5)), "another answer"), aya("a", change("q 1"), "b 1"), aya("a", own(7), "Answer 7.")]
    split = make(tmp_path, train, same_prompt + same_pair + fine)
    assert leaked(split) == 5
    assert len(rows_of(split, "heldout")) == 3
    (step,) = [step for step in split.manifest.funnel if step.step == "leakage"]
    assert step.reason.endswith("training row, whatever their case, punctuation, width and spacing")
    exact = make(tmp_path, train, same_prompt + same_pair + fine, leakage="exact")
    assert leaked(exact) == 0
    assert exact.hash != split.hash


def test_other_words_are_another_row(tmp_path):
    train = [aya("a", text, text) for text in ("Name 3 birds", "\U0001f600", "C", "good", "你好")]
    test = [aya("a", text, text) for text in ("Name 4 birds", "\U0001f680", "D", "goods", "你们")]
    split = make(tmp_path, train, test)
    assert leaked(split) == 0
    assert len(rows_of(split, "heldout")) == 5


def test_texts_without_words_are_compared_by_their_signs(tmp_path):
    split = make(tmp_path, [aya("a", "? ! \U0001f600", "x"), aya("a", "b", "c")], [aya("a", "？！\U0001f600", "y")])
    assert leaked(split) == 1


def test_a_conversation_that_goes_on_from_one_in_another_form_leaks(tmp_path):
    first = ("Hello there", "Hi.", "Tell me more", "Of what?")
    train = [chat("a", *first), chat("b", "x", "y", "z", "w")]
    test = [chat("b", *(text.upper() + " !" for text in first), "Of ships", "They float.")]
    test += [chat("b", "Other", "Hi.", "Tell me more", "Of what?")]
    split = make(tmp_path, train, test, "wildchat_multi")
    assert leaked(split) == 1
    assert [row.messages[0]["content"] for row in split.rows("heldout")] == ["Other"]


def test_prompts_that_are_held_out_for_all_are_trained_on_in_no_form(tmp_path):
    forms = list(FORMS.values())
    rows = [
        vote(f"j{j}", forms[j](own(n)) if j < len(forms) else own(n), f"a{j}{n}", f"b{j}{n}")
        for j in range(9)
        for n in range(20)
    ]
    options = {"heldout": 0.2, "prompt_disjoint": True, "min_samples": 1, "max_clients": 7, "unseen_clients": 2}
    split = make(tmp_path, rows, [], "chatbot_pa", **options)
    trained = {compared(prompt_of(row), Recipe()) for row in rows_of(split, "train")}
    tested = {compared(prompt_of(row), Recipe()) for part in ("heldout", "unseen") for row in rows_of(split, part)}
    assert (len(trained), len(tested)) == (16, 4)
    assert not trained & tested


def test_leakage_and_decontamination_have_one_form():
    texts = [own(1), own(2), *(change(own(1)) for change in FORMS.values()), "\U0001f600", "naïve", "Nai\u0308ve."]
    equal = 0
    for a in texts:
        prompts = EvaluationPrompts.of([a])
        for b in texts:
            same = compared(a, Recipe()) == compared(b, Recipe())
            sample = Sample("c", (("user", b),), ("an answer",), "eng", "", "train", "f")
            assert prompts.stand_in(sample) == same or not prompts.prompts
            equal += same
    assert equal == (1 + len(FORMS)) ** 2 + 1 + 1 + 4


def test_a_recipe_names_the_form_where_it_is_not_that_of_old():
    assert Recipe().record()["leakage"] == "normal"
    assert "leakage" not in Recipe(leakage="exact").record()
    with pytest.raises(UserError, match="leakage='loose' in the recipe; it is normal or exact"):
        Recipe(leakage="loose")  # type: ignore[arg-type]


def test_forms_of_one_prompt_stay_on_one_side_so_that_few_held_out_rows_are_lost(tmp_path):
    """Who greets in six ways and is answered in many would lose most of a test set otherwise."""
    forms = list(FORMS.values())
    rows = [aya(f"u{u}", forms[k % 6](own(n)), f"{u} {n} {k}") for u in range(3) for n in range(20) for k in range(3)]
    split = make(tmp_path, rows, [], heldout=0.2)
    assert leaked(split) == 0
    assert len(rows_of(split, "heldout")) == 3 * 12
    assert len({compared(prompt_of(row), Recipe()) for row in rows_of(split, "heldout")}) > 4
