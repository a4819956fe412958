"""Chat templates: published text char for char, and one prompt for training and for generation."""

from __future__ import annotations

import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.chat import NAMES, Segment, prompts, segments, template_text
from fedllm_bench.data.rows import SftRow, Turn
from fedllm_bench.data.tokens import encode, encode_prompts

# As published with FedLLM-Bench (utils/template.py; the multi-turn one is FastChat's vicuna_v1.1): the alpaca
# text has a space after the instruction, and later vicuna turns have none before USER.
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nName a colour. \n\n### Response:"
)
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    "USER: Name a colour. ASSISTANT:"
)
# As in Stanford's Alpaca and FS-LLM: nothing between the colon and the answer.
ALPACA_INPUT = ALPACA.replace("colour. ", "colour.")
PLAIN = "User: Name a colour.\nAssistant:"
ONE_TURN = {
    "alpaca": ALPACA,
    "alpaca_input": ALPACA_INPUT,
    "vicuna_v1.1": VICUNA,
    "mini": "<|user|> Name a colour.<|assistant|>",
    "plain": PLAIN,
}
ENDS = {name: "<|end|>" if name == "mini" else "</s>" for name in ONE_TURN}
LEADS = {name: "" if name == "alpaca_input" else " " for name in ONE_TURN}


def talk(*texts: str) -> list[Turn]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def counted(found: list[Segment]) -> list[tuple[str, bool]]:
    return [(segment.text, segment.counted) for segment in found]


def test_every_template_is_tested_here():
    assert ONE_TURN.keys() == ENDS.keys() == set(NAMES)
    assert len(NAMES) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_one_turn_is_as_published(name):
    (found,) = segments(template_text(name), [talk("Name a colour.", "Blue.")], "</s>")
    assert counted(found) == [(ONE_TURN[name], False), (LEADS[name] + "Blue." + ENDS[name], True)]
    assert prompts(template_text(name), [talk("Name a colour.")], "</s>") == [ONE_TURN[name]]


def test_two_turns_of_vicuna_are_as_published():
    (found,) = segments(template_text("vicuna_v1.1"), [talk("Name a colour.", "Blue.", "And?", "Red.")], "</s>")
    assert counted(found) == [
        (VICUNA, False),
        (" Blue.</s>", True),
        ("USER: And? ASSISTANT:", False),
        (" Red.</s>", True),
    ]


def test_the_plain_template_has_a_place_for_a_system_turn_and_few_words():
    system: Turn = {"role": "system", "content": "Be brief."}
    (found,) = segments(template_text("plain"), [[system, *talk("Name a colour.", "Blue.", "And?", "Red.")]], "</s>")
    assert counted(found) == [
        ("Be brief.\n\n" + PLAIN, False),
        (" Blue.</s>", True),
        ("\nUser: And?\nAssistant:", False),
        (" Red.</s>", True),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_later_turns_have_the_text_of_training_before_them(name):
    whole = talk("a b", "c", "d", "e f")
    (found,) = segments(template_text(name), [whole], "</s>")
    texts = [segment.text for segment in found]
    assert [segment.counted for segment in found] == [False, True, False, True]
    for turns in (1, 3):
        assert prompts(template_text(name), [whole[:turns]], "</s>") == ["".join(texts[:turns])]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "content", ["", " spaced \n", "{{ 7 * 7 }} {% generation %}", "العربية 你好 తెలుగు", "a\n\n### x:"]
)
def test_contents_stay_as_they_are(name, content):
    """Nothing is stripped, escaped or run, and marks are found by place, not by their text."""
    (found,) = segments(template_text(name), [talk(content, content)], "</s>")
    assert [segment.counted for segment in found] == [False, True]
    assert found[0].text == ONE_TURN[name].replace("Name a colour.", content)
    assert found[1].text == LEADS[name] + content + ENDS[name]


@pytest.mark.parametrize("name", NAMES)
def test_conversations_are_rendered_apart(name):
    template = template_text(name)
    talks = [talk("a", "b"), talk("c", "d", "e", "f")]
    assert segments(template, talks, "</s>") == [segments(template, [one], "</s>")[0] for one in talks]


@pytest.mark.parametrize("name", NAMES)
def test_the_prompt_of_training_is_that_of_generation_token_by_token(name, tiny_model, tiny_clients):
    tokenizer = tiny_model.tokenizer
    rows = [*tiny_clients.split.rows("train")[:40], *tiny_clients.split.rows("heldout")]
    encoded = encode(rows, tokenizer, template_text(name))
    asked = encode_prompts([row.messages[:-1] for row in rows], tokenizer, template_text(name))
    assert len(asked) == len(rows) > 60
    for trained, prompt in zip(encoded, asked, strict=True):
        assert trained.ids[~trained.counted].tolist() == prompt
        assert not trained.counted[: len(prompt)].any()
        assert trained.counted[len(prompt) :].all()


@pytest.mark.parametrize("name", NAMES)
def test_counted_tokens_are_the_completion_and_its_end(name, tiny_model):
    tokenizer = tiny_model.tokenizer
    row = SftRow(
        client_id="c", split="train", row_id="1", language="eng", source="", messages=tuple(talk("a b", "c d e"))
    )
    (found,) = encode([row], tokenizer, template_text(name))
    assert tokenizer.decode(found.ids[found.counted]) == LEADS[name] + "c d e" + tokenizer.eos_token
    assert found.ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in found.ids[:-1]


def test_an_unknown_template_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"no chat template 'alpacca'; did you mean 'alpaca'\?"):
        template_text("alpacca")


def test_a_template_without_marks_is_refused():
    """Without them nothing would be counted, and training would do nothing."""
    with pytest.raises(ValueError, match=r"has no .* generation .* marks"):
        segments("{{ messages[0]['content'] }}", [talk("a", "b")], "</s>")
