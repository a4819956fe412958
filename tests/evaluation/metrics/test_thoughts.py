"""What a model said to its user: thoughts in every form that models give them, and text that is only about them."""

from __future__ import annotations

import time

import pytest

from fedllm_bench.evaluation.thoughts import ENDED_WITHIN, said

OPENED = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>"
THOUGHT = {
    "a tag": "<think>hm</think>yes",
    "blank lines": "<think>\n\n</think>\n\nyes",
    "upper case": "<THINK>hm</Think>\nyes",
    "another name": "<thinking>hm</thinking>yes",
    "a third": "<thought>hm</thought>yes",
    "a fourth": "<reasoning>hm</reasoning>\nyes",
    "a name space": "<seed:think>hm<seed:cot_budget_reflect>1</seed:cot_budget_reflect></seed:think>yes",
    "attributes": '<think budget="5" mode=deep>hm</think>yes',
    "blanks in the tags": "< think >hm</ think >yes",
    "a line break in a tag": "<think\n>hm</think\n>yes",
    "a tag that closes itself": "<think/>yes",
    "another name closes": "<think>hm</thinking>yes",
    "brackets": "[THINK]hm[/THINK]yes",
    "Kimi": "◁think▷hm◁/think▷yes",
    "Cohere": "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>yes<|END_RESPONSE|>",
    "Gemma": "<|channel>thought\nhm\n<channel|>yes",
    "OpenThinker": "<|begin_of_thought|>hm<|end_of_thought|>\n<|begin_of_solution|>yes<|end_of_solution|>",
    "MedGemma": "<unused94>thought\nhm<unused95>yes",
    "Apertus": "<|inner_prefix|>hm<|inner_suffix|>yes",
    "Granite": "Here is my thought process: hm\n\nHere is my response: yes",
    "harmony": f"{OPENED}yes<|return|>",
    "harmony, opened by the template": "hm<|end|><|start|>assistant<|channel|>final<|message|>yes",
    "harmony with a comment": f"<|channel|>commentary<|message|>calling<|end|><|start|>assistant{OPENED}yes",
    "harmony without special tokens": "analysisThey ask. Fine.assistantfinalyes",
    "opened by the template": "hm\n</think>\n\nyes",
    "opened by the template, in a line": "I would say no.</think>yes",
    "two closing tags": "hm</think>more</think>yes",
    "a label before it": "Assistant:\n<think>hm</think>yes",
    "a bold label before it": "**Answer:** <think>hm</think> yes",
    "two thoughts": "<think>hm</think>\n\n<think>hm</think>\n\nyes",
    "one in another": "<think>a<think>b</think>c</think>yes",
    "one of another name in it": "<thinking>a<reflection>b</reflection>c</thinking>yes",
    "a tag that is named in it": "<think>the <think> tag\nthen</think>yes",
    "code in it": "<think>`</think>`? no</think>yes",
    "a fence that it leaves open": "<think>```py\nx = 1</think>yes",
    "a fence that a thought of the template leaves open": "```py\nx = 1\n</think>\nyes",
    "a quotation at its end": '<think>They said "no"</think>yes',
    "small letters behind it": "<think>so on </think> yes",
}
MIDDLE = {
    "between words": ("yes<think>hm</think>no", "yes no"),
    "between lines": ("yes\n<think>hm</think>\nno", "yes\n\nno"),
    "several": ("<think>a</think>x\n<think>b</think>\ny", "x\n\ny"),
    "at the end": ("yes <think>hm</think>", "yes"),
    "a tag that is named before": ("yes <think>\n\n<think>hm</think>no", "yes <think>\n\nno"),
    "a label after the first": ("<think>a</think>Sure: <think>b</think>yes", "Sure: yes"),
}
CUT = {
    "a tag": "<think>hm, or",
    "blanks before it": "\n  <thinking>hm",
    "a label before it": "Assistant: <think>hm",
    "a second one": "<think>a</think>\n<think>b",
    "brackets": "[THINK]hm",
    "harmony": "<|channel|>analysis<|message|>hm",
    "harmony without special tokens": "analysisThey want",
    "Granite": "Here's my thought process: hm",
    "a quoted closing tag": "<think>they mean `</think>`, or",
}
ABOUT = {
    "inline code": "Models write `<think>` and `</think>` around thoughts.",
    "quotation marks": 'The tag "<think>" opens and "</think>" closes.',
    "other quotation marks": "La balise « <think> » et “</think>”.",
    "in the middle of a sentence": "It uses <think> and </think> tags to think.",
    "an opening tag alone": "The <think> tag starts it. Then the answer comes.",
    "a closing tag alone": "It stops at </think> and answers.",
    "a block of code": "Example:\n```\n<think>\nhm\n</think>\nyes\n```\nDone.",
    "an opening tag in a block of code": "```\n<think>\n```\nThat opens it.",
    "a block quote": "> <think>\n> hm\n> </think>\n\nSo it is.",
    "another tag": "<b>bold</b> and <thinker>x</thinker>",
    "a word": "analysis of the final assistant",
    "another word": "finally, the end",
    "a channel that is named": "The `<|channel|>analysis<|message|>` mark opens a channel.",
    "a comparison": "a <think b",
}


@pytest.mark.parametrize("name", THOUGHT)
def test_a_thought_is_not_said(name: str) -> None:
    found = said(THOUGHT[name])
    assert (found.text, found.has_thoughts, found.is_cut, found.why_none) == ("yes", True, False, "")


@pytest.mark.parametrize("name", MIDDLE)
def test_what_stands_around_thoughts_is_said(name: str) -> None:
    text, spoken = MIDDLE[name]
    assert (said(text).text, said(text).is_cut) == (spoken, False)


@pytest.mark.parametrize("name", CUT)
def test_a_thought_that_never_closes_leaves_no_answer(name: str) -> None:
    found = said(CUT[name])
    assert (found.text, found.is_cut, found.why_none) == ("", True, ENDED_WITHIN)


@pytest.mark.parametrize("name", ABOUT)
def test_text_about_thoughts_is_said_as_it_stands(name: str) -> None:
    found = said(ABOUT[name])
    assert (found.text, found.has_thoughts) == (ABOUT[name], False)


def test_a_thought_alone_is_an_empty_answer_and_no_missing_one() -> None:
    assert said("<think>hm</think>\n") == said("<think>more</think>")
    assert (said("<think>hm</think>").text, said("<think>hm</think>").why_none) == ("", "")


def test_a_text_without_thoughts_is_not_touched() -> None:
    for text in ("", " \n", "  yes \n", "a < b > c", "[1] [[2]]"):
        assert said(text).text == text


@pytest.mark.parametrize("name", [*THOUGHT, *ABOUT])
def test_what_was_said_holds_no_thought(name: str) -> None:
    once = said((THOUGHT | ABOUT)[name]).text
    assert said(once).text == once


@pytest.mark.parametrize(
    "piece",
    ["<think>", "</think>", "<think>a</think>", "<", "`", '"<think>"', "``` <think>\n", "[", "a <think>", "`` ` "],
)
def test_hostile_text_is_read_in_linear_time(piece: str) -> None:
    started = time.process_time()
    said(piece * (100_000 // len(piece)))
    assert time.process_time() - started < 3
