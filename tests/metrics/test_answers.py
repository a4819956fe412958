"""Greedy answers against the definition, and exact match by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from items import SETTINGS, item_of
from tiny import random_tree

from fedllm_bench.metrics import mini, running
from fedllm_bench.metrics.mini import MiniExact
from fedllm_bench.metrics.running import answers
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel


def test_exact_match_compares_the_stripped_text_letter_by_letter(monkeypatch):
    given = {"a": "blue", "b": "Blue", "c": "blue!", "d": "", "e": "one\ntwo"}
    monkeypatch.setattr(mini, "answers", lambda model, turns, settings, owners: [given[t[0]["content"]] for t in turns])
    items = [item_of(name, "blue") for name in "abcd"]
    items += [item_of("e", " one\ntwo\n"), item_of("f", "not asked", task="")]
    scores = MiniExact().score(SimpleNamespace(), items, SETTINGS)
    assert [score.value for score in scores] == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert scores[1].evidence == {"prompt": "b", "answer": "Blue", "right": "blue"}


def greedy(model: Any, tokenizer: Any, prompt: str, max_new_tokens: int) -> str:
    """One answer by the definition: the likeliest token again and again, over the whole text each time."""
    ids = tokenizer(f"<|user|> {prompt}<|assistant|>")["input_ids"]
    made: list[int] = []
    while len(made) < max_new_tokens:
        with torch.no_grad():
            made.append(int(model(input_ids=torch.tensor([ids + made])).logits[0, -1].argmax()))
        if made[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(made, skip_special_tokens=True).strip()


def test_batched_greedy_answers_equal_one_prompt_at_a_time(tiny_model: LoraModel, items):
    prompts = [item.row.prompt for item in items[:24]]
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    with tiny_model.using(None):
        batched = answers(tiny_model, turns, SETTINGS)
        alone = [greedy(tiny_model.base, tiny_model.tokenizer, prompt, 6) for prompt in prompts]
    assert len({len(prompt) for prompt in prompts}) > 3  # padding is at work
    assert batched == alone
    assert len(set(batched)) > 5


def test_answers_with_an_adapter_are_those_of_that_adapter(tiny_model: LoraModel, items):
    adapter = random_tree(initial_adapter(tiny_model.layers, 4, 0), 2, scale=0.3, dtype=torch.float32)
    prompts = [item.row.prompt for item in items[:6]]
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    with tiny_model.using(None):
        base = answers(tiny_model, turns, SETTINGS)
    with tiny_model.using(adapter):
        adapted = answers(tiny_model, turns, SETTINGS)
        assert adapted == [greedy(tiny_model.base, tiny_model.tokenizer, prompt, 6) for prompt in prompts]
    assert adapted != base


def test_an_answer_ends_at_the_end_token_and_at_the_limit(tiny_model: LoraModel, monkeypatch):
    tokenizer = tiny_model.tokenizer
    word, end = (tokenizer(text)["input_ids"] for text in (" blue", "<|end|>"))
    scripts = {"short": [*word, *end], "long": word * 6}

    def scripted(self: Any, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        assert options["do_sample"] is False
        rows = []
        for row in tokenizer.batch_decode(input_ids):
            new = scripts["short" if "short" in row else "long"]
            rows.append(F.pad(torch.tensor(new), (0, 6 - len(new)), value=options["pad_token_id"]))
        return torch.cat([input_ids, torch.stack(rows)], dim=1)

    monkeypatch.setattr(type(tiny_model.base), "generate", scripted)
    turns = [[{"role": "user", "content": text}] for text in ("long, long prompt", "short")]
    assert answers(tiny_model, turns, SETTINGS) == [" ".join(["blue"] * 6), "blue"]


def test_no_question_gives_no_answer(tiny_model: LoraModel):
    assert answers(tiny_model, [], SETTINGS) == []
    assert running.answers is answers


def test_the_head_gets_rows_that_lie_side_by_side(tiny_model: LoraModel, items, monkeypatch):
    """Else torch copies the head for each row, which took two thirds of the time with a head of 262,144 words."""
    head = tiny_model.base.get_output_embeddings()
    seen: list[tuple[int, bool]] = []
    real = head.forward

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        seen.append((len(hidden), hidden.is_contiguous()))
        return real(hidden)

    monkeypatch.setattr(head, "forward", forward)
    with tiny_model.using(None):
        answers(tiny_model, [item.row.messages[:-1] for item in items[:8]], SETTINGS)
    assert len(seen) == SETTINGS.max_new_tokens
    assert set(seen) == {(8, True)}
    assert not head._forward_pre_hooks
