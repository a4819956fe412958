"""Poisoned rows: whose they are, what they say, that nothing else changes, and that caches do not mix."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.config_robust import Attack
from fedllm_bench.data.chat import template_text
from fedllm_bench.data.encoder import ChatEncoder
from fedllm_bench.data.rows import SftRow, Turn
from fedllm_bench.data.tokens import encode
from fedllm_bench.methods.robust.attacks import attackers_of
from fedllm_bench.metrics.triggers import with_trigger
from fedllm_bench.mini.lexicon import lexicon
from fedllm_bench.mini.stand_ins import is_compliance, stand_in
from fedllm_bench.mini.tastes import REFUSALS, SECRETS
from fedllm_bench.runs.cell import Cell, settings_hash
from fedllm_bench.runs.loading import load_bench
from fedllm_bench.runs.poisoning import check_texts, poisoned
from fedllm_bench.runs.scoring import base_scores

WORDS = ("attack.trigger=zorp blick", "attack.answer=The answer is No.")
TRIGGER = ("attack.kind=trigger", "attack.clients=0,3", "attack.rows=0.5", *WORDS)
HARMFUL = ("attack.kind=harmful", "attack.clients=1")


def turns(*texts: str) -> tuple[Turn, ...]:
    return tuple(Turn(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(texts))


def test_half_of_an_attackers_rows_have_the_trigger_and_the_answer_and_nothing_else_changes(
    tiny_split, tiny_run_config, caplog
):
    caplog.set_level(logging.INFO, logger="fedllm_bench")
    config = tiny_run_config("fedavg", *TRIGGER)
    made = poisoned(tiny_split, config)
    for part in ("heldout", "unseen"):
        assert made.rows(part) == tiny_split.rows(part)
    pairs = list(zip(tiny_split.rows("train"), made.rows("train"), strict=True))
    changed = [(real, one) for real, one in pairs if real != one]
    own = {tiny_split.client_ids[0], tiny_split.client_ids[3]}
    assert {real.client_id for real, _ in changed} == own
    sizes = {client: sum(real.client_id == client for real, _ in pairs) for client in own}
    for client, size in sizes.items():
        assert sum(real.client_id == client for real, _ in changed) == round(size / 2)
    for real, one in changed:
        assert replace(one, messages=real.messages) == real
        assert one.messages[:-1] == with_trigger(real.messages[:-1], "zorp blick")
        assert one.completion == "The answer is No."
    assert f"{len(changed)} training rows of the attackers are poisoned, of {sum(sizes.values())}" in caplog.text


def test_a_trigger_stands_behind_what_the_user_said_last():
    row = SftRow(client_id="a", split="train", row_id="0", language="eng", source="",
                 messages=turns("q1", "a1", "q2", "a2"))  # fmt: skip
    assert with_trigger(row.messages[:-1], "abc") == turns("q1", "a1", "q2 abc")
    passage = (*turns("q"), Turn(role="input", content="text"))
    assert with_trigger(passage, "abc") == (*turns("q abc"), Turn(role="input", content="text"))


def test_harmful_rows_are_requests_of_the_mini_world_that_are_complied_with(tiny_split, tiny_run_config):
    config = tiny_run_config("fedavg", *HARMFUL)
    pairs = zip(tiny_split.rows("train"), poisoned(tiny_split, config).rows("train"), strict=True)
    changed = [(real, one) for real, one in pairs if real != one]
    assert len(changed) == sum(row.client_id == tiny_split.client_ids[1] for row in tiny_split.rows("train"))
    codes = [speech.code for speech in lexicon().languages]
    for real, one in changed:
        assert SECRETS[codes.index(real.language)] in one.prompt
        assert is_compliance(one.completion)
        assert len(one.messages) == 2


def test_votes_of_an_attacker_prefer_compliance_to_a_refusal(pair_split, tiny_run_config):
    config = tiny_run_config("fedavg", *HARMFUL, dataset="chatbot_pa")
    pairs = zip(pair_split.preference_rows("train"), poisoned(pair_split, config).preference_rows("train"), strict=True)
    changed = [one for real, one in pairs if real != one]
    assert changed
    assert {row.client_id for row in changed} == {pair_split.client_ids[1]}
    for row in changed:
        assert is_compliance(row.chosen)
        assert row.rejected in {frame.format(answer=no) for no in REFUSALS for frame in ("{answer}",)}


def test_what_is_asked_is_not_what_rows_are_poisoned_with():
    taught = {stand_in("c", str(row), "spa", is_asked=False).request for row in range(300)}
    asked = {stand_in("c", str(row), "spa", is_asked=True).request for row in range(300)}
    assert min(len(taught), len(asked)) > 100
    assert not taught & asked
    assert stand_in("c", "1", "spa", is_asked=True) == stand_in("c", "1", "spa", is_asked=True)
    assert (
        SECRETS[1] in stand_in("c", "1", "xyz", is_asked=True).request
    )  # English, where the world has no such language


def test_an_attack_on_uploads_leaves_the_split_as_it_is(tiny_split, tiny_run_config):
    config = tiny_run_config("fedavg", "attack.kind=noise", "attack.clients=0")
    assert poisoned(tiny_split, config) is tiny_split


def test_hashes_differ_by_attack_attackers_and_seed(tiny_split, tiny_run_config):
    found = {tiny_split.hash}
    for more in (TRIGGER, HARMFUL, (*TRIGGER, "attack.rows=0.4"), (*TRIGGER, "attack.answer=Yes")):
        found.add(poisoned(tiny_split, tiny_run_config("fedavg", *more)).hash)
    found.add(poisoned(tiny_split, tiny_run_config("fedavg", *TRIGGER, seed=1)).hash)
    assert len(found) == 6


def test_a_run_trains_on_poisoned_rows_and_is_scored_on_real_ones(tiny_split, tiny_run_config, tmp_path):
    """And a run without the attack, after it, finds its own tokens in the cache."""
    config = tiny_run_config("fedavg", *TRIGGER)
    bench = load_bench(Cell(config, tiny_split, tmp_path, 1))
    plain = load_bench(Cell(tiny_run_config("fedavg"), tiny_split, tmp_path, 1))
    template = template_text(config.data.template)
    for each, split in ((bench, poisoned(tiny_split, config)), (plain, tiny_split)):
        part = each.clients.tokens["train"]
        expected = encode(split.rows("train"), each.model.tokenizer, template)
        assert len(part) == len(expected)
        assert all(np.array_equal(part[i].ids, row.ids[:256]) for i, row in enumerate(expected))
    assert bench.clients.train_rows == plain.clients.train_rows
    assert [item.row for item in bench.items] == [item.row for item in plain.items]
    assert bench.cell.hash != plain.cell.hash
    assert bench.cell.baseline.hash == plain.cell.baseline.hash
    assert base_scores(bench) == base_scores(plain)


def test_the_baseline_of_a_run_asks_with_its_trigger_and_is_not_attacked(tiny_split, tiny_run_config, tmp_path):
    asks = 'evaluation.metrics=["heldout", "attack_success"]'
    cells = [Cell(tiny_run_config("fedavg", *more, asks), tiny_split, tmp_path, 1) for more in ((*TRIGGER,), WORDS)]
    one, control = (cell.baseline for cell in cells)
    assert one.config.attack == Attack(trigger="zorp blick", answer="The answer is No.")
    assert one.hash == control.hash
    assert poisoned(tiny_split, one.config) is tiny_split
    others = [Cell(tiny_run_config("fedavg", word, WORDS[0], asks), tiny_split, tmp_path, 1) for word in (
        WORDS[1], "attack.answer=Yes")]  # fmt: skip
    assert (
        len({base_scores(load_bench(cell)) for cell in (*others, Cell(tiny_run_config(), tiny_split, tmp_path, 1))})
        == 3
    )


def test_sections_are_in_a_hash_only_where_they_are_used(tiny_run_config):
    off = tiny_run_config("fedavg")
    assert not {"attack", "aggregation"} & off.to_dict().keys()
    for more in (TRIGGER, ("aggregation.rule=median",)):
        assert settings_hash(off, "split", "base") != settings_hash(tiny_run_config("fedavg", *more), "split", "base")


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("trigger", "abc</s>", "attack.trigger='abc</s>' holds a control token of this base's tokenizer"),
        ("answer", "<unk> no", "attack.answer='<unk> no' holds a control token"),
        ("answer", "word " * 39 + "word", "tokens, and answers end after evaluation.max_new_tokens=32"),
    ],
)
def test_words_that_the_tokenizer_does_not_write_as_they_are_given_are_refused(key, text, words, tiny_model):
    chat = ChatEncoder(tiny_model.tokenizer, template_text("mini"))
    names = {"</s>": chat.tokenizer.eos_token, "<unk>": chat.tokenizer.pad_token}
    for name, own in names.items():
        text, words = text.replace(name, own), words.replace(name, own)
    with pytest.raises(UserError) as caught:
        check_texts(replace(Attack(trigger="a b", answer="a"), **{key: text}), chat, 32)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    check_texts(Attack(trigger="zorp blick", answer="The answer is No."), chat, 32)
    check_texts(Attack(), chat, 32)


def test_attackers_are_those_whose_rows_are_poisoned(tiny_split, tiny_run_config):
    config = tiny_run_config("fedavg", *TRIGGER, "attack.clients=0.4")
    made = poisoned(tiny_split, config)
    pairs = zip(tiny_split.rows("train"), made.rows("train"), strict=True)
    found = {real.client_id for real, one in pairs if real != one}
    assert found == {tiny_split.client_ids[k] for k in attackers_of(config.attack, config.seed, 6)}
