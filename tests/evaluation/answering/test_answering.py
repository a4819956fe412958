"""Answers turn by turn: in the text of training, own answers fed back, whatever else is in the batch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import pytest
import torch
from asked import PROMPTS
from tiny import random_tree

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.chat import NAMES, template_text
from fedllm_bench.data.tokens import encode_prompts, encode_turns
from fedllm_bench.evaluation.answering.encoding import ChatTemplate, encoder, named_template
from fedllm_bench.evaluation.answering.journal import AnsweredTurn, Key
from fedllm_bench.evaluation.answering.merged_adapter import answering_with
from fedllm_bench.evaluation.answering.model_answers import ModelAnswerer, context_of
from fedllm_bench.evaluation.records import Prompt
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel

MINI = ChatTemplate("mini", template_text("mini"))


def answerer(model: LoraModel, **changes: Any) -> ModelAnswerer:
    given = {"model": model, "encode": encoder(MINI, model.tokenizer), "benchmark": "b", "seed": 0, "batch_tokens": 256}
    return ModelAnswerer(**{**given, **changes})


def all_turns(made: Iterator[list[AnsweredTurn]]) -> dict[Key, AnsweredTurn]:
    turns = [turn for some in made for turn in some]
    assert len({turn.key for turn in turns}) == len(turns)
    return {turn.key: turn for turn in turns}


# --- the text that a model is asked in


@pytest.mark.parametrize("name", NAMES)
def test_later_turns_have_the_tokens_of_training(name, tiny_model):
    tokenizer = tiny_model.tokenizer
    talk = [
        {"role": role, "content": text}
        for role, text in zip(
            ["user", "assistant"] * 2, ["Name a colour.", "blue, my friend", "More?", "red"], strict=True
        )
    ]
    template = ChatTemplate(name, template_text(name))
    (whole,) = encode_turns([talk], tokenizer, template.text, last_only=True)
    begin = int(np.flatnonzero(whole.counted)[0])
    assert encoder(template, tokenizer)(talk[:3]) == whole.ids[:begin].tolist()
    one = encode_prompts([talk[:1]], tokenizer, template.text)[0]
    assert encoder(template, tokenizer)(talk[:1]) == one


def test_a_template_without_marks_is_rendered_as_transformers_does(load_tiny):
    tokenizer = load_tiny().tokenizer
    tokenizer.chat_template = None
    assert named_template("model", lambda: tokenizer, "tiny").text == template_text("plain")
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['content'] }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    template = named_template("model", lambda: tokenizer, "tiny")
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "!"}]
    assert tokenizer.decode(encoder(template, tokenizer)(talk)) == "[Hi][Ho][!]>"
    tokenizer.chat_template = "{{ raise_exception('one turn only') }}"
    with pytest.raises(UserError, match="one turn only"):
        encoder(named_template("model", lambda: tokenizer, "tiny"), tokenizer)(talk)
    with pytest.raises(UserError, match="did you mean 'alpaca'"):
        named_template("alpacca", lambda: tokenizer, "tiny")


# --- turns


def test_each_turn_sees_the_models_own_answers_and_nothing_else(double_model):
    asked = []
    plain = encoder(MINI, double_model.tokenizer)

    def noting(turns: Sequence[Any]) -> list[int]:
        asked.append(tuple((turn["role"], turn["content"]) for turn in turns))
        return plain(turns)

    with double_model.using(None):
        turns = all_turns(answerer(double_model, encode=noting)(PROMPTS, {}))
    assert len(turns) == len(asked) == 6
    texts = [turns["c", number].text for number in range(3)]
    last = next(talk for talk in asked if len(talk) == 5)
    assert (
        last
        == tuple(
            pair for number in range(3) for pair in (("user", PROMPTS[2].turns[number]), ("assistant", texts[number]))
        )[:5]
    )
    assert turns["a", 1].text == greedy(double_model, plain, [*asked_of(PROMPTS[0], turns)])


def asked_of(prompt: Prompt, turns: Mapping[Key, AnsweredTurn]) -> list[dict[str, str]]:
    own = {"role": "assistant", "content": turns[prompt.item_id, 0].text}
    return [{"role": "user", "content": prompt.turns[0]}, own, {"role": "user", "content": prompt.turns[1]}]


def greedy(model: LoraModel, encode: Any, talk: list[dict[str, str]]) -> str:
    ids, made = encode(talk), []
    while len(made) < 6 and model.tokenizer.eos_token_id not in made:
        with torch.no_grad():
            made.append(int(model.base(input_ids=torch.tensor([ids + made])).logits[0, -1].argmax()))
    return str(model.tokenizer.decode(made, skip_special_tokens=True)).strip()


def test_company_in_a_batch_and_global_generators_change_no_answer(double_model):
    with double_model.using(None):
        torch.manual_seed(1)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
        together = all_turns(answerer(double_model)(PROMPTS, {}))
        assert torch.equal(before[0], torch.get_rng_state())
        assert (before[1], before[2]) == (np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
        torch.manual_seed(2)
        alone = {}
        for prompt in reversed(PROMPTS):
            alone |= all_turns(answerer(double_model, batch_tokens=1)([prompt], {}))
        other = all_turns(answerer(double_model, seed=1)(PROMPTS, {}))
    assert together == alone
    assert other["a", 0] == together["a", 0]  # greedy
    assert other["b", 0] != together["b", 0]


def test_an_adapter_answers_otherwise(double_model):
    adapter = random_tree(initial_adapter(double_model.layers, 4, 0), 2, scale=0.3)
    with double_model.using(None):
        base = all_turns(answerer(double_model)(PROMPTS, {}))
    with double_model.using(adapter):
        assert all_turns(answerer(double_model)(PROMPTS, {})) != base


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_an_adapter_in_the_weights_answers_as_beside_them_and_leaves_no_trace(dtype, load_tiny):
    model = load_tiny(dtype=dtype)
    adapter = random_tree(initial_adapter(model.layers, 4, 0), 2, scale=0.3)
    ids = torch.arange(4, 24).view(2, 10)
    before = {name: tensor.clone() for name, tensor in model.base.state_dict().items()}
    with model.using(adapter):
        beside = model.base(input_ids=ids).logits
    within = []

    def interrupted() -> None:
        with answering_with(model, adapter):
            within.append(model.base(input_ids=ids).logits)
            assert model.has_adapter is (dtype == "bfloat16")  # whose weights would round the update away
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.allclose(within[0], beside, atol=1e-10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.base.state_dict().items())
    assert not torch.allclose(model.base(input_ids=ids).logits, beside, atol=1e-2)
    with answering_with(model, None):
        assert not model.has_adapter


def test_a_prompt_beyond_the_context_fails_and_a_long_one_gets_what_room_there_is(double_model, monkeypatch):
    length = len(encoder(MINI, double_model.tokenizer)([{"role": "user", "content": "word " * 12}]))
    monkeypatch.setattr(double_model.base.config, "max_position_embeddings", length + 3)
    asked = [
        PROMPTS[0],
        Prompt(item_id="long", turns=("word " * 12, "more " * 4), max_new_tokens=20),
        Prompt(item_id="longer", turns=("word " * 40, "more"), max_new_tokens=20),
    ]
    with double_model.using(None):
        turns = all_turns(answerer(double_model)(asked, {}))
    assert 1 <= turns["long", 0].tokens <= 3
    assert turns["long", 1].finish == "failed"
    assert turns["longer", 0].finish == "failed"
    assert f"the model's context {length + 3}" in turns["longer", 0].reason
    assert ("longer", 1) not in turns
    assert turns["a", 0].finish != "failed"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_context_is_known_whatever_a_config_calls_it(kind, tmp_path: Path):
    model = architectures.load(architectures.make_folder(tmp_path / kind, kind), dtype="float32")
    assert context_of(model.base) == 128
