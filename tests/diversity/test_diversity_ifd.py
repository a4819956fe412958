"""Instruction-following difficulty: equal to transformers' own loss, kept by content, the same after a kill."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diverse_rows import Memory, row
from makers import tokenizer_by

from fedllm_bench.data.chat import template_text
from fedllm_bench.data.templates.sources import source_for
from fedllm_bench.diversity.quality import ifd
from fedllm_bench.diversity.quality.duplicates import find_duplicates
from fedllm_bench.diversity.quality.ifd import Reader, difficulties
from fedllm_bench.diversity.quality.quality import quality_section

ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
PROMPTS = {
    "mini": ("<|user|> {}<|assistant|>", "<|assistant|>"),
    "alpaca": (ALPACA + "\n\n### Instruction:\n{} \n\n### Response:", " \n\n### Response:"),
}
ROWS = [
    row("a", "what is it", "it is red"),
    row("a", "and then", "a city by the river, as far as I know"),
    row("b", "what is it", "no"),
    row("b", "quelle est la couleur", "rouge et vert"),
]


@pytest.fixture(scope="module")
def reader(tiny_model):
    return Reader(model=tiny_model, id="tiny", template=template_text("mini"), max_tokens=128, batch_tokens=64)


def mean_loss(model, context: str, completion: str) -> float:
    """By transformers: labels of the completion alone."""
    start = model.tokenizer(context, add_special_tokens=False)["input_ids"]
    answer = model.tokenizer(f" {completion}", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([start + answer])
    labels = torch.tensor([[-100] * len(start) + answer])
    with torch.no_grad():
        return float(model.base(input_ids=ids, labels=labels).loss)


@pytest.mark.parametrize("template", PROMPTS)
def test_ifd_is_the_ratio_of_two_losses_of_transformers(reader, template):
    asked, announced = PROMPTS[template]
    found = difficulties(ROWS, replace(reader, template=template_text(template)), Memory())
    for r, difficulty in zip(ROWS, found, strict=True):
        given = mean_loss(reader.model, asked.format(r.prompt), r.completion)
        alone = mean_loss(reader.model, announced, r.completion)
        assert (difficulty.given, difficulty.alone) == pytest.approx((given, alone), rel=1e-4)
        assert difficulty.ifd == pytest.approx(given / alone, rel=1e-4)


def test_control_tokens_in_a_text_are_text_and_no_number_of_before_is_taken_for_it(reader):
    texts = [("what is it", "it is red"), ("what is it", "it <|end|> is"), ("<|user|> what", "no")]
    of_old = [ifd.sha256_json(["ifd-1", "tiny", reader.template, 128, *text]) for text in texts]
    assert [reader.key(text) == old for text, old in zip(texts, of_old, strict=True)] == [True, False, False]
    (found,) = difficulties([row("a", *texts[1])], reader, Memory())
    tokenizer = reader.model.tokenizer
    assert found.num_tokens > len(tokenizer(" it <|end|> is")["input_ids"])
    pieces = [tokenizer(text)["input_ids"] for text in (" it <", "|", "end", "|", ">", " is")]
    assert found.num_tokens <= sum(map(len, pieces))


def test_the_token_that_ends_an_answer_is_not_counted(reader):
    (found,) = difficulties(ROWS[:1], reader, Memory())
    assert found.num_tokens == len(reader.model.tokenizer(" it is red", add_special_tokens=False)["input_ids"])


def test_a_response_beyond_the_longest_row_is_unscored_and_counted(reader):
    rows = [row("a", "word " * 200, "never read"), *ROWS]
    found = difficulties(rows, reader, Memory())
    assert found[0] is None
    assert None not in found[1:]
    section = quality_section(rows, find_duplicates(rows), rows, found).section
    assert (section["ifd_rows"], section["ifd_unscored"]) == (4, 1)


def test_a_long_response_is_cut_to_equal_tokens_on_both_sides(reader):
    short = replace(reader, max_tokens=16)
    (found,) = difficulties([row("a", "what is it", "a city by the river " * 20)], short, Memory())
    length = len(reader.model.tokenizer("<|user|> what is it<|assistant|>", add_special_tokens=False)["input_ids"])
    assert found.num_tokens == 16 - length


def test_equal_texts_are_read_once_and_other_settings_again(reader):
    kept = Memory()
    rows = ROWS + [replace(r, client="c", row_id="other") for r in ROWS]
    found = difficulties(rows, reader, kept)
    assert found[:4] == found[4:]
    assert kept.num_written == 4
    difficulties(rows, replace(reader, id="another model"), kept)
    difficulties(rows, replace(reader, max_tokens=100), kept)
    assert kept.num_written == 12


def test_what_is_kept_is_not_read_again(reader, monkeypatch):
    kept = Memory()
    before = difficulties(ROWS, reader, kept)
    monkeypatch.setattr(ifd, "summed_nll", lambda *args: pytest.fail("the model was asked"))
    assert difficulties(ROWS, reader, kept) == before


class Killed(Memory):
    """Its process ends at the second write."""

    def put_many(self, values):
        if self.num_written:
            raise KeyboardInterrupt
        super().put_many(values)


def test_after_a_kill_only_the_rest_is_read_and_every_digit_is_the_same(reader, monkeypatch):
    monkeypatch.setattr(ifd, "ROWS_AT_ONCE", 3)
    rng = np.random.default_rng(0)
    rows = [row("a", f"question {i}", "word " * int(rng.integers(1, 20)) + str(i)) for i in range(10)]
    whole = difficulties(rows, reader, Memory())
    killed = Killed()
    with pytest.raises(KeyboardInterrupt):
        difficulties(rows, reader, killed)
    rest = Memory(killed)
    assert len(rest) == 3
    assert difficulties(rows, reader, rest) == whole
    assert rest.num_written == 7


def test_ifd_of_a_client_is_over_its_rows(reader):
    found = difficulties(ROWS, reader, Memory())
    values = [difficulty.ifd for difficulty in found]
    measured = quality_section(ROWS, find_duplicates(ROWS), ROWS, found)
    own = measured.clients["b"]["ifd"]
    assert (own["mean"], own["rows"]) == (pytest.approx(np.mean(values[2:])), 2)
    assert own["sd"] == pytest.approx(np.std(values[2:]))
    assert measured.section["ifd"]["median"] == pytest.approx(np.median(values))
    assert measured.section["share_above_one"] == np.mean(np.array(values) > 1)


def test_under_a_models_own_template_the_mark_that_ends_an_answer_is_left_out():
    """It is not the tokenizer's end token; the header before an answer is what announces it."""
    tokenizer = tokenizer_by("Gemma")
    own = source_for("model", tokenizer, "gemma")
    model: Any = SimpleNamespace(tokenizer=tokenizer)
    asking = Reader(model=model, id="x", template=own, max_tokens=128, batch_tokens=64)
    assert tokenizer.decode(asking.announced) == "<end_of_turn>\n<start_of_turn>model\n"
    (both,) = ifd._sequences([("Name a colour.", "Blue.")], asking)
    assert both is not None
    assert [tokenizer.decode(row.ids[row.counted]) for row in both] == ["Blue.", "Blue."]
    assert tokenizer.decode(both[0].ids).endswith("<start_of_turn>model\nBlue.")
