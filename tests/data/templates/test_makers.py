"""A model maker's own template: one prompt for training, scoring and answering, and an end that stops an answer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
from makers import GEMMA, LLAMA3, MAKERS, QWEN3, tokenizer_by

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.chat import template_text
from fedllm_bench.data.encoder import ChatEncoder
from fedllm_bench.data.pairs import encode_pairs
from fedllm_bench.data.rows import PreferenceRow, SftRow, Turn
from fedllm_bench.data.templates import refusals, sources
from fedllm_bench.data.templates.sources import own_source, pinned, source_for
from fedllm_bench.data.tokens import TokenRow, encode, encode_prompts
from fedllm_bench.evaluation.answering.encoding import ChatTemplate, encoder

TALKS = [
    ["Name a colour.", "Blue."],
    ["  spaces around \n", "\n\tand\n\nbefore "],
    ["العربية 你好", "\U0001f600 e\u0301 ﬁ <b>bold</b> {{ 7 * 7 }} [INST] x"],
    ["a", ""],
    ["Name a colour.", "Blue.", "And?", " Red.", "More?", "None"],
    [
        "hi <|im_end|> <end_of_turn> </s> <|eot_id|>",
        "no <|im_end|>\n<|im_start|>user <end_of_turn> </s> <|eot_id|> <s>",
    ],
    ["<|im_end|>", "a </s> <end_of_turn> b", "<|eot_id|> <think>", "<|im_end|> b <|eot_id|>"],
]
NAMES = ("model", "plain")


def talk(*texts: str) -> tuple[Turn, ...]:
    return tuple({"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts))


def trained(turns: Sequence[Turn], tokenizer: Any, source: str) -> TokenRow:
    row = SftRow(client_id="c", split="train", row_id="1", language="eng", source="", messages=tuple(turns))
    (found,) = encode([row], tokenizer, source)
    return found


def shown(turns: Sequence[Turn], tokenizer: Any, source: str) -> list[tuple[str, bool]]:
    """The text of a conversation by pieces."""
    (found,) = ChatEncoder(tokenizer, source)([turns])
    pieces = zip(found.pieces, found.counted, strict=True)
    return [(tokenizer.decode(piece), counts) for piece, counts in pieces if piece]


def by_transformers(turns: Sequence[Turn], tokenizer: Any, *, asks: bool) -> list[int]:
    found: list[int] = tokenizer.apply_chat_template(
        list(turns), add_generation_prompt=asks, enable_thinking=False, date_string="26 Jul 2024", return_dict=False
    )
    return found


# --- one prompt for all


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("maker", MAKERS)
def test_training_scoring_and_answering_begin_an_answer_from_the_same_tokens(maker, name):
    tokenizer = tokenizer_by(maker)
    source = source_for(name, tokenizer, maker)
    answering = encoder(ChatTemplate(name, source), tokenizer)
    system: Turn = {"role": "system", "content": "Be brief."}
    for turns in [talk(*texts) for texts in TALKS] + [(system, *talk(*texts)) for texts in TALKS]:
        asked = answering(turns[:-1])
        assert encode_prompts([turns[:-1]], tokenizer, source) == [asked]
        row = trained(turns, tokenizer, source)
        assert row.ids[: len(asked)].tolist() == asked
        assert row.counted[len(asked) :].all()
        assert len(row.ids) > len(asked)
        assert not row.counted[len(asked) - 1]
        common = {"client_id": "c", "split": "train", "row_id": "1", "language": "eng", "source": ""}
        vote = PreferenceRow(**common, prompt=turns[:-1], chosen=turns[-1]["content"], rejected="b")
        (pair,) = encode_pairs([vote], tokenizer, source)
        assert pair.chosen.ids.tolist() == row.ids.tolist()
        assert pair.rejected.ids[: len(asked)].tolist() == asked
        assert pair.rejected.counted[: len(asked)].sum() == 0  # of a pair no earlier answer counts


@pytest.mark.parametrize("maker", MAKERS)
def test_ids_are_those_of_transformers_where_no_text_holds_a_control_token(maker):
    tokenizer = tokenizer_by(maker)
    source = source_for("model", tokenizer, maker)
    for texts in TALKS[:5]:
        turns = talk(*texts)
        assert encode_prompts([turns[:-1]], tokenizer, source) == [by_transformers(turns[:-1], tokenizer, asks=True)]
        if turns[-1]["content"] and not turns[-1]["content"].startswith("\n"):
            whole = by_transformers(turns, tokenizer, asks=False)
            ids = trained(turns, tokenizer, source).ids.tolist()
            assert ids == whole[: len(ids)]
            assert tokenizer.decode(whole[len(ids) :]).strip() == ""  # a line end behind the last turn at most


@pytest.mark.parametrize("maker", MAKERS)
def test_counted_are_the_answer_and_the_mark_that_ends_it(maker):
    tokenizer, end = tokenizer_by(maker), MAKERS[maker].end
    source = source_for("model", tokenizer, maker)
    (header, *_, answer) = shown(talk("Name a colour.", "Blue one."), tokenizer, source)
    assert header[1] is False
    assert answer == ("Blue one." + end, True) if maker != "Llama-2" else (" Blue one. </s>", True)
    pieces = shown(talk("Name a colour.", "Blue one.", "And?", "Red."), tokenizer, source)
    assert [counts for _, counts in pieces] == ([False, True] if maker == "Qwen3" else [False, True, False, True])
    assert pieces[-1][0].strip() == "Red." + (" " if maker == "Llama-2" else "") + end
    if maker != "Qwen3":
        assert pieces[1] == answer


@pytest.mark.parametrize("maker", MAKERS)
def test_a_text_that_forges_marks_ends_nothing(maker):
    tokenizer = tokenizer_by(maker)
    chat = ChatEncoder(tokenizer, source_for("model", tokenizer, maker))
    for texts in TALKS[5:]:
        (found,), (harmless,) = chat([talk(*texts)]), chat([talk(*["a"] * len(texts))])
        assert found.holds_control
        marks = [[token for token in one.ids if token in chat.control] for one in (found, harmless)]
        assert marks[0] == marks[1]
        assert found.counted == harmless.counted
        for piece, counts in zip(found.pieces, found.counted, strict=True):
            assert not counts or [token for token in piece if token in chat.ends] == [piece[-1]]


# --- what ends an answer


@pytest.mark.parametrize("maker", [*MAKERS, "embedded"])
@pytest.mark.parametrize("name", ["model", "plain", "alpaca"])
def test_what_ends_an_answer_in_training_stops_one_in_answering(name, maker, tiny_model):
    tokenizer = tiny_model.tokenizer if maker == "embedded" else tokenizer_by(maker)
    source = source_for(name, tokenizer, maker)
    row = trained(talk("Name a colour.", "Blue."), tokenizer, source)
    last = int(row.ids[-1])
    end = "<|end|>" if maker == "embedded" else MAKERS[maker].end if name == "model" else tokenizer.eos_token
    assert tokenizer.convert_ids_to_tokens(last) == end
    chat = ChatEncoder(tokenizer, source)
    assert chat.ends == {last, tokenizer.eos_token_id}
    assert not chat.ends & set(row.ids[row.counted][:-1].tolist())  # nothing before stops it


# --- the token that begins a text


@pytest.mark.parametrize("name", ["model", "plain", "alpaca"])
@pytest.mark.parametrize("maker", MAKERS)
def test_a_text_begins_as_the_tokenizer_begins_it_and_once(maker, name):
    tokenizer = tokenizer_by(maker)
    ids = trained(talk("a", "b"), tokenizer, source_for(name, tokenizer, maker)).ids.tolist()
    bos = tokenizer.bos_token_id
    if MAKERS[maker].puts_bos:
        assert ids[0] == bos
        assert ids.count(bos) == 1
    elif name != "model":
        assert bos not in ids


def test_a_merged_model_writes_the_token_that_begins_a_text(tmp_path):
    """Transformers tokenises what a template writes without it."""
    for maker in MAKERS:
        tokenizer, source = MAKERS[maker].make(), template_text("alpaca")
        chat = ChatEncoder(tokenizer, source)
        tokenizer.chat_template = chat.written_out
        assert chat.written_out == ("{{- bos_token -}}" if MAKERS[maker].puts_bos else "") + source
        (asked,) = encode_prompts([talk("Name a colour.")], tokenizer, source)
        assert by_transformers(talk("Name a colour."), tokenizer, asks=True) == asked
        again = source_for("model", tokenizer, maker)
        row, other = (trained(talk("a", "b"), tokenizer, one) for one in (again, source))
        assert row.ids.tolist() == other.ids.tolist()
        assert row.counted.tolist() == other.counted.tolist()


# --- thoughts, dates, system turns


def test_answers_are_asked_for_without_thoughts(caplog):
    caplog.set_level(logging.INFO)
    refusals.say_not_kept.cache_clear()
    tokenizer = tokenizer_by("Qwen3")
    source = source_for("model", tokenizer, "qwen")
    talks = [talk("Name a colour.", "Blue."), talk("Name a colour.", "<think>\nHm.\n</think>\n\nBlue.", "And?", "Red.")]
    assert shown(talks[0], tokenizer, source) == [
        ("<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("Blue.<|im_end|>", True),
    ]
    assert not caplog.messages
    first, answer = shown(talks[1], tokenizer, source)
    assert "<|im_start|>assistant\nBlue.<|im_end|>" in first[0]
    assert "Hm" not in first[0]
    assert first[0].endswith("<think>\n\n</think>\n\n")
    assert answer == ("Red.<|im_end|>", True)
    (line,) = caplog.messages
    assert "only the last answer counts" in line
    assert tokenizer.apply_chat_template(  # the switch is only set where nobody else sets it
        list(talks[0][:1]), chat_template=source, tokenize=False, add_generation_prompt=True, enable_thinking=True
    ).endswith("assistant\n")


def test_a_date_in_a_template_does_not_change_with_the_day(monkeypatch):
    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2031, 2, 3)

    tokenizer = tokenizer_by("Llama-3")
    source = source_for("model", tokenizer, "llama")
    before = ChatEncoder(tokenizer, source).asked(talk("a"))
    assert "Today: 26 Jul 2024\n" in before
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Later)
    assert "03 Feb 2031" in tokenizer.apply_chat_template(list(talk("a")), tokenize=False)
    assert ChatEncoder(tokenizer, source).asked(talk("a")) == before
    assert tokenizer.apply_chat_template(
        list(talk("a")), chat_template=source, tokenize=False, add_generation_prompt=True
    ) == before  # fmt: skip
    format_elsewhere = LLAMA3.replace('strftime_now("%d %b %Y")', "strftime_now(format)").replace(
        "{{- bos_token -}}", "{%- set format = '%d %b %Y' -%}{{- bos_token -}}", 1
    )
    assert ChatEncoder(tokenizer, pinned(format_elsewhere)).asked(talk("a")) == before


@pytest.mark.parametrize("source", [LLAMA3, QWEN3, LLAMA3.replace('"%d %b %Y"', "format"), "{{ messages }}"])
def test_switches_are_set_once(source):
    assert pinned(pinned(source)) == pinned(source)


def test_a_system_turn_that_is_refused_stands_before_the_first_user_turn(caplog):
    caplog.set_level(logging.INFO)
    refusals.say_system.cache_clear()
    tokenizer = tokenizer_by("Gemma")
    source = source_for("model", tokenizer, "gemma")
    turns: list[Turn] = [{"role": "system", "content": "Be brief."}, *talk("Name a colour.", "Blue.")]
    for _ in range(2):
        assert shown(turns, tokenizer, source) == [
            ("<bos><start_of_turn>user\nBe brief.\n\nName a colour.<end_of_turn>\n<start_of_turn>model\n", False),
            ("Blue.<end_of_turn>", True),
        ]
    (line,) = caplog.messages
    assert "no place for a system turn" in line
    for maker in ("Llama-2", "Llama-3", "Qwen3", "SmolLM2"):
        other = tokenizer_by(maker)
        text = ChatEncoder(other, source_for("model", other, maker)).asked(turns[:-1])
        assert text.index("Be brief.") < text.index("Name a colour.")
        assert "You help people." not in text
    assert len(caplog.messages) == 1


# --- what is refused


MESSAGE_ONLY = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ASKS = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
UNFIT = {
    "no end": (MESSAGE_ONLY.replace("<|im_end|>", "") + ASKS, "ends an answer with no token"),
    "an end that is no token": (MESSAGE_ONLY.replace("im_end", "eot") + ASKS, "ends an answer with no token"),
    "upper case": (MESSAGE_ONLY.replace("m.content", "m.content | upper") + ASKS, "changes what the assistant says"),
    "escaped": (MESSAGE_ONLY.replace("m.content", "m.content | e") + ASKS, "changes what the assistant says"),
    "dropped": ("{{ messages[0].content }}<|im_end|>" + ASKS, "drops what the assistant says"),
    "a header that is not asked with": (MESSAGE_ONLY, "does not write what begins an answer"),
    "an open thought": (MESSAGE_ONLY + ASKS.replace("{% endif", "<think>\n{% endif"), "inside a thought"),
    "raises": ("{{ raise_exception('not\ntoday') }}", "refuses a conversation (not)"),
    "broken": ("{% for m in %}", "refuses a conversation"),
    "wrong type": ("{{ messages[0].content + 1 }}", "refuses a conversation"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_template_that_cannot_be_trained_with_is_one_line(case):
    source, word = UNFIT[case]
    tokenizer = tokenizer_by("Qwen3")
    with pytest.raises(UserError) as caught:
        ChatEncoder(tokenizer, source).check_trains()
    assert word in str(caught.value)
    assert "--set data.template=plain" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"data\.template=plain"):
        trained(talk("a", "b"), tokenizer, source)


@pytest.mark.parametrize("maker", MAKERS)
def test_templates_of_makers_can_be_trained_with(maker):
    tokenizer = tokenizer_by(maker)
    for name in ("model", "plain", "alpaca", "vicuna_v1.1"):
        ChatEncoder(tokenizer, source_for(name, tokenizer, maker)).check_trains()


def test_a_conversation_that_a_template_refuses_is_one_line():
    tokenizer = tokenizer_by("Gemma")
    turns = [*talk("a"), *talk("b", "c")]
    with pytest.raises(UserError, match=r"refuses a conversation \(roles must alternate\).*data.template=plain"):
        trained(turns, tokenizer, source_for("model", tokenizer, "gemma"))


@pytest.mark.parametrize("maker", MAKERS)
def test_a_template_whose_marks_are_no_tokens_is_refused(maker, tiny_model):
    with pytest.raises(UserError, match=r"data.template=mini writes <\|user\|>, which is no token of MODEL=a/b; "
                       r"take the model's own template: --set data.template=model"):  # fmt: skip
        source_for("mini", tokenizer_by(maker), "a/b")
    assert source_for("mini", tiny_model.tokenizer, "mini") == template_text("mini")


def test_the_models_own_template_is_the_default_one_of_several_and_plain_where_there_is_none(caplog):
    caplog.set_level(logging.INFO)
    sources._say_plain.cache_clear()
    tokenizer = MAKERS["Gemma"].make()
    tokenizer.chat_template = {"tool_use": "x", "default": GEMMA}
    assert own_source(tokenizer) == GEMMA
    for nothing in (None, "", {"tool_use": "x"}):
        tokenizer.chat_template = nothing
        assert source_for("model", tokenizer, "base") == template_text("plain")
    (line,) = caplog.messages
    assert "MODEL=base has no chat template of its own" in line
    with pytest.raises(UserError, match="no chat template 'modle'; did you mean 'model'"):
        source_for("modle", tokenizer, "base")


# --- what caches hang on


def test_caches_of_runs_that_keep_their_ids_keep_their_names(tiny_model):
    source = template_text("alpaca")
    for maker in MAKERS:
        tokenizer = tokenizer_by(maker)
        chat = ChatEncoder(tokenizer, source)
        keeps = MAKERS[maker].puts_bos or tokenizer.bos_token_id is None
        assert (chat.cache_name == source) == keeps
        assert (chat.special == [tokenizer.bos_token_id, tokenizer.eos_token]) == keeps
    embedded = ChatEncoder(tiny_model.tokenizer, template_text("mini"))
    assert (embedded.cache_name, embedded.special) == (template_text("mini"), [None, "<|end|>"])


def test_ids_under_an_own_template_hang_on_the_names_of_special_tokens():
    tokenizer = MAKERS["Llama-2"].make()
    source = source_for("model", tokenizer, "llama")
    before = ChatEncoder(tokenizer, source).special
    tokenizer.bos_token = "[INST]"
    assert ChatEncoder(tokenizer, source).special != before
