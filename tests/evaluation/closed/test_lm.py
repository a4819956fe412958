"""The resident model answers lm-eval's requests as lm-eval's own HFLM does, on the same tiny model."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import architectures
import pytest
from own_tokenizers import TOKENIZERS, byte_level_bpe

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.ledger import Ledger
from fedllm_bench.evaluation.answering.stop_strings import StopTexts, cut_at
from fedllm_bench.training.model.lora_model import LoraModel

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from fedllm_bench.evaluation.closed import likelihood
from fedllm_bench.evaluation.closed.generation import settings_of
from fedllm_bench.evaluation.closed.lm import ResidentLM
from fedllm_bench.evaluation.closed.texts import ClosedTexts, windows

WORDS = [
    *(["Name", "a", "colour,", "please.", "The", "token", "closes", "a", "turn,", "and", "the", "user", "goes", "on."]),
    *("Été", "漢字", "🙂\nQuestion:", "Answer:"),
]
CONTEXT = 96  # tokens of the model in these tests


@pytest.fixture(scope="module")
def model(tiny_model: LoraModel) -> LoraModel:
    """Its tokenizer begins a text with a token, as Llama's."""
    return replace(tiny_model, tokenizer=byte_level_bpe())


@pytest.fixture(scope="module")
def wide(double_model: LoraModel) -> LoraModel:
    """The same in float64."""
    return replace(double_model, tokenizer=byte_level_bpe())


def ours(model: LoraModel, folder: Path, *, template: str | None = None, key: str = "k") -> ResidentLM:
    texts = ClosedTexts(model.tokenizer, template)
    return Short(model=model, texts=texts, kept=Ledger(folder / "kept", key), batch_tokens=512, label="test")


class Short(ResidentLM):
    max_length = CONTEXT


def theirs(model: LoraModel, **options: Any) -> HFLM:
    return HFLM(pretrained=model.base, tokenizer=model.tokenizer, max_length=CONTEXT, **{"batch_size": 1, **options})


def text(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(count))


def request(kind: Any, number: int, *args: Any) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=args, idx=0, metadata=("task", number, 1))


def asked(pairs: Sequence[tuple[str, str]]) -> list[Instance]:
    return [request("loglikelihood", number, *pair) for number, pair in enumerate(pairs)]


def many_pairs() -> list[tuple[str, str]]:
    """Questions behind common examples with one-token choices, long choices, no context, cut ones, odd ones."""
    rng = random.Random(0)
    shots = text(rng, 12)
    pairs = [(f"{shots}\n\n{text(rng, 3)}\nAnswer:", f" {letter}") for _ in range(5) for letter in "ABCD"]
    pairs += [(f"Question: {text(rng, 5)}", " " + text(rng, count)) for count in (1, 2, 6, 9)]
    question = f"Question: {text(rng, 14)}"
    pairs += [(question, " " + text(rng, count)) for count in (1, 2, 5, 5)]
    pairs += [
        ("", "Name a colour"),
        ("", " a"),
        ("", "漢字 🙂"),
        ("a ", "b"),
        ("a  \n", " b"),
        ("🙂", "🙂🙂"),
        ("Ét", "é"),
    ]
    pairs += [(text(rng, 60), " " + text(rng, 4)), (text(rng, 200), " A"), (text(rng, 3), " " + text(rng, 16))]
    return pairs


def assert_same(found: Sequence[tuple[float, bool]], expected: Sequence[tuple[float, bool]]) -> None:
    assert len(found) == len(expected) > 0
    for (value, is_greedy), (other, was_greedy) in zip(found, expected, strict=True):
        assert value == pytest.approx(other, abs=1e-5, rel=2e-7)  # HFLM adds up in float32
        assert is_greedy == was_greedy


def can_be_scored(pairs: Sequence[tuple[str, str]], tokenizer: Any) -> list[tuple[str, str]]:
    """Without those that HFLM ends at."""
    cut = ClosedTexts(tokenizer).pairs(pairs)
    kept = [pair for pair, ids in zip(pairs, cut, strict=True) if ids.continuation]
    assert len(kept) > len(pairs) - 6
    return kept


def test_a_benchmark_s_context_cuts_what_the_model_holds(model: LoraModel, tmp_path: Path) -> None:
    def length(context: int) -> int:
        texts = ClosedTexts(model.tokenizer, None)
        kept = Ledger(tmp_path / "kept", "k")
        return ResidentLM(model, texts, kept, batch_tokens=512, label="test", context=context).max_length

    assert length(10) == 10
    assert length(10**9) == length(0) > 10


@pytest.mark.parametrize("pass_tokens", [0, 10**6], ids=["with families", "apart"])
def test_likelihoods_are_those_of_hflm(
    model: LoraModel, wide: LoraModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pass_tokens: int
) -> None:
    monkeypatch.setattr(likelihood, "PASS", pass_tokens)
    pairs = can_be_scored(many_pairs(), model.tokenizer)
    with model.using(None):
        expected = theirs(model).loglikelihood(asked(pairs))
        found = ours(model, tmp_path).loglikelihood(asked(pairs))
    assert_same(found, expected)
    with wide.using(None):
        expected = theirs(wide).loglikelihood(asked(pairs))
        found = ours(wide, tmp_path, key="wide").loglikelihood(asked(pairs))
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-9)


def test_what_the_model_itself_would_say_is_greedy(tiny_model: LoraModel, tmp_path: Path) -> None:
    contexts = ["Name a colour,", "The token closes", "Answer:", "Question: Which?"]
    wanted = [request("generate_until", 0, each, {"max_gen_toks": 1, "until": []}) for each in contexts]
    with tiny_model.using(None):
        lm = ours(tiny_model, tmp_path)
        pairs = list(zip(contexts, lm.generate_until(wanted), strict=True))
        found = lm.loglikelihood(asked(pairs))
        assert_same(found, theirs(tiny_model).loglikelihood(asked(pairs)))
    assert any(is_greedy for _, is_greedy in found)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_kind_of_tokenizer_is_cut_at_the_same_places(tiny_model: LoraModel, tmp_path: Path, kind: str) -> None:
    model = replace(tiny_model, tokenizer=TOKENIZERS[kind]())
    pairs = can_be_scored(many_pairs(), model.tokenizer)
    with model.using(None):
        assert_same(ours(model, tmp_path).loglikelihood(asked(pairs)), theirs(model).loglikelihood(asked(pairs)))


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "cohere", "windows"])
def test_other_architectures_are_scored_as_by_hflm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """With positions in a table, capped or scaled logits, and attention to a window, which shares no beginnings."""
    if kind == "windows":
        monkeypatch.setitem(architectures.OF_ITS_OWN, "mistral", {"sliding_window": 8})
    monkeypatch.setattr(likelihood, "PASS", 0)
    named = "mistral" if kind == "windows" else kind
    loaded = architectures.load(architectures.make_folder(tmp_path / kind, named), "all-linear")
    model = replace(loaded, tokenizer=byte_level_bpe())
    pairs = can_be_scored(many_pairs(), model.tokenizer)
    with model.using(None):
        expected = theirs(model).loglikelihood(asked(pairs))
        found = ours(model, tmp_path).loglikelihood(asked(pairs))
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-6)


def test_whole_texts_are_scored_as_by_hflm(model: LoraModel, tmp_path: Path) -> None:
    """Also those of several windows."""
    rng = random.Random(1)
    texts = [text(rng, count) for count in (1, 5, 40, 150)] + ["", "漢字"]
    requests = [request("loglikelihood_rolling", number, each) for number, each in enumerate(texts)]
    with model.using(None):
        expected = theirs(model).loglikelihood_rolling(requests)
        assert ours(model, tmp_path).loglikelihood_rolling(requests) == pytest.approx(expected, abs=1e-4)


def test_windows_are_those_of_lm_eval() -> None:
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    for count in (1, 4, 5, 6, 11, 23):
        ids = list(range(10, 10 + count))
        expected = map(make_disjoint_window, get_rolling_token_windows(ids, 7, 5, 1))
        assert [(list(pair.context), list(pair.continuation)) for pair in windows(ids, 7, 5)] == list(expected)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_greedy_answers_are_those_of_hflm(tiny_model: LoraModel, tmp_path: Path, batch_size: int) -> None:
    """Stop strings that end inside a token among them, and contexts that are cut."""
    rng = random.Random(2)
    free = theirs(tiny_model).generate_until(
        [request("generate_until", 0, "Name a", {"max_gen_toks": 30, "until": []})]
    )[0]
    inside = free[7:9]  # two characters somewhere in what the model says
    kwargs = [
        {"max_gen_toks": 30, "until": []},
        {"max_gen_toks": 30, "until": [inside, "\n"]},
        {"max_gen_toks": 12, "until": "e", "do_sample": False, "temperature": 0.0},
        {"until": ["\n\n"], "max_new_tokens": 5},
    ]
    contexts = ["Name a", text(rng, 4), text(rng, 90), "漢字 🙂"]
    requests = [request("generate_until", number, c, dict(k)) for number, c in enumerate(contexts) for k in kwargs]
    with tiny_model.using(None):
        expected = theirs(tiny_model, batch_size=batch_size).generate_until(requests)
        found = ours(tiny_model, tmp_path).generate_until(requests)
    assert found == expected
    assert inside not in found[1]
    assert len(set(found)) > 8


def test_drawn_answers_depend_on_the_item_alone(tiny_model: LoraModel, tmp_path: Path) -> None:
    kwargs = {"max_gen_toks": 8, "until": [], "do_sample": True, "temperature": 1.0}
    requests = [request("generate_until", number, "Name a", dict(kwargs)) for number in range(4)]
    with tiny_model.using(None):
        together = ours(tiny_model, tmp_path / "a").generate_until([requests[0], *requests])
        alone = ours(tiny_model, tmp_path / "b").generate_until(requests[3:])
    assert together[4] == alone[0]
    assert len(set(together)) == 5  # the first is asked twice: another draw


def test_answers_are_kept_one_by_one(model: LoraModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed process has answered is not computed again, and the rest is the same to the last bit."""
    real, computed = likelihood._batch, []

    def noting(*args: Any) -> Any:
        computed.extend(args[3])
        return real(*args)

    pairs = can_be_scored(many_pairs(), model.tokenizer)
    with model.using(None):
        first = ours(model, tmp_path)
        expected = first.loglikelihood(asked(pairs))
        lines = first.kept.path.read_bytes().split(b"\n")
        first.kept.path.write_bytes(b"\n".join(lines[:9]) + b'\n["torn')
        monkeypatch.setattr(likelihood, "_batch", noting)
        assert ours(model, tmp_path).loglikelihood(asked(pairs)) == expected
        assert 0 < len(computed) <= len(lines) - 2
        computed.clear()
        assert ours(model, tmp_path).loglikelihood(asked(pairs)) == expected
    assert not computed


def test_a_choice_that_cannot_be_scored_is_told_and_is_no_number(model: LoraModel, tmp_path: Path) -> None:
    """HFLM ends with an AssertionError there."""
    lm = ours(model, tmp_path)
    with model.using(None):
        found = lm.loglikelihood(asked([("a", ""), ("a", " b"), ("a", " word" * 200)]))
    assert [math.isnan(value) for value, _ in found] == [True, False, True]
    assert set(lm.failed) == {("task", 0), ("task", 2)}


def test_without_memory_for_a_batch_halves_are_tried(
    model: LoraModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = likelihood._batch

    def small(*args: Any) -> Any:
        if len(args[3]) > 2:
            raise MemoryError
        return real(*args)

    pairs = many_pairs()
    with model.using(None):
        expected = ours(model, tmp_path / "a").loglikelihood(asked(pairs))
        monkeypatch.setattr(likelihood, "_batch", small)
        assert_same(ours(model, tmp_path / "b").loglikelihood(asked(pairs)), expected)


def test_the_name_of_a_control_token_in_a_question_is_text(model: LoraModel) -> None:
    """For HFLM it is the token; what the template writes is one here too."""
    tokenizer = model.tokenizer
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    from fedllm_bench.data.chat import template_text

    texts = ClosedTexts(tokenizer, template_text("mini"))
    (pair,) = texts.pairs([("What is <|end|>?", " <|end|>")])
    assert end not in (*pair.context, *pair.continuation)
    before = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    asked_in_chat = texts.chat([*before, {"role": "user", "content": "What is <|end|>?"}], goes_on=False)
    (ids,) = texts.encode([asked_in_chat])
    assert ids.count(end) == 1
    assert texts.shown(asked_in_chat).count("<|end|>") == 2


def test_a_chat_template_has_the_ids_of_the_tokenizer_itself(model: LoraModel) -> None:
    from fedllm_bench.data.chat import template_text

    history = [{"role": role, "content": "Name a colour."} for role in ("user", "assistant", "user")]
    texts = ClosedTexts(model.tokenizer, template_text("mini"))
    written = model.tokenizer.apply_chat_template(
        history, chat_template=template_text("mini"), tokenize=False, add_generation_prompt=True
    )
    text = texts.chat(history, goes_on=False)
    assert texts.shown(text) == written
    assert texts.encode([text])[0] == model.tokenizer.encode(written)
    begun = texts.chat([*history, {"role": "assistant", "content": "It is"}], goes_on=True)
    assert texts.shown(begun) == written + "It is"


def test_a_setting_of_generation_that_we_have_not_is_refused() -> None:
    assert settings_of("t", {"top_p": 0.9, "do_sample": False}).temperature == 0
    with pytest.raises(UserError, match="the task t asks for generation with repetition_penalty"):
        settings_of("t", {"repetition_penalty": 1.2})
    with pytest.raises(UserError, match="min_p"):
        settings_of("t", {"do_sample": True, "min_p": 0.1})
    assert settings_of("t", {"do_sample": True, "top_k": 40, "top_p": 0.75}).tail == (40, 0.75)
    assert settings_of("t", {"do_sample": False, "top_k": 40, "top_p": 0.75}).tail == (0, 1.0)


def test_stop_strings_are_found_across_and_inside_tokens(model: LoraModel) -> None:
    import torch

    ids = model.tokenizer.encode("The token closes", add_special_tokens=False)
    texts = StopTexts(model.tokenizer, [["n cl"], [], ["zz"]], [ids[:2]] * 3)
    assert texts(torch.tensor([ids[2:]] * 3)).tolist() == [True, False, False]
    assert cut_at("a Q: b\n", ["\n", "Q"]) == "a "
