"""Preference pairs as tokens: what counts, what is cut and skipped, and the reference kept on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from pairs import plain_logp, random_pairs
from token_files import MINI, files_of, same

from fedllm_bench.data import pairs, tokens
from fedllm_bench.data.chat import NAMES, template_text
from fedllm_bench.data.clients import Clients
from fedllm_bench.data.manifest import PARTS
from fedllm_bench.data.pairs import encode_pairs, tokenise_pairs
from fedllm_bench.data.rows import PreferenceRow
from fedllm_bench.data.tokens import encode_prompts
from fedllm_bench.runs import reference
from fedllm_bench.runs.reference import with_reference
from fedllm_bench.training.model.lora import attach, detach
from fedllm_bench.training.passes import PassPlan
from fedllm_bench.training.tasks import clients_per_block


@pytest.fixture
def tokenizer(tiny_model) -> Any:
    return tiny_model.tokenizer


@dataclass(frozen=True)
class Votes:
    """A split of pairs that a test makes up."""

    texts: dict[str, list[tuple[str, str, str]]]
    hash: str = "h"
    task: str = "preference"

    def preference_rows(self, part: str) -> list[PreferenceRow]:
        return [vote(*texts) for texts in self.texts.get(part, [])]


def vote(prompt: str, chosen: str, rejected: str, before: tuple[str, ...] = ()) -> PreferenceRow:
    said = [*before, prompt]
    turns = tuple({"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said))
    common = {"client_id": "c", "split": "train", "row_id": "1", "language": "eng", "source": ""}
    return PreferenceRow(**common, prompt=turns, chosen=chosen, rejected=rejected)


@pytest.mark.parametrize("template", NAMES)
@pytest.mark.parametrize("before", [(), ("who", "me"), ("who", "me", "what", "that")])
def test_only_the_last_answer_counts_and_both_follow_the_prompt_of_generation(template, before, tokenizer):

    text, eos = template_text(template), tokenizer.eos_token
    row = vote("and now", "yes sir", "no", before)
    (pair,) = encode_pairs([row], tokenizer, text)
    (prompt,) = encode_prompts([row.prompt], tokenizer, text)
    for sequence, answer in ((pair.chosen, "yes sir"), (pair.rejected, "no")):
        start = len(prompt)
        assert sequence.ids[:start].tolist() == prompt
        assert sequence.counted.tolist() == [False] * start + [True] * (len(sequence.ids) - start)
        between = "" if template == "alpaca_input" else " "  # Stanford's answer begins right behind the colon
        assert tokenizer.decode(sequence.ids[start:]) == f"{between}{answer}{eos}"


def test_pairs_are_cut_on_the_right_and_left_out_where_either_answer_has_no_token(tokenizer, tmp_path, caplog):
    texts = [("one", "two", "no"), ("one", "two", "no " * 30), ("one " * 30, "two", "no"), ("1", "2", "3")]
    encoded = encode_pairs(Votes({"t": texts}).preference_rows("t"), tokenizer, MINI)
    found = [max(len(s.ids) for s in pair.sequences) for pair in encoded]
    limit = 20
    assert found[0] < limit < min(found[1:3])
    with caplog.at_level("INFO"):
        part = tokenise_pairs(Votes({"train": texts}), tokenizer, MINI, limit, tmp_path)["train"]
    assert (part.num_cut, part.num_skipped, len(part)) == (2, 1, 3)
    assert part.rows.tolist() == [0, 1, 3]
    assert len(part[1].rejected.ids) == limit
    assert part[1].rejected.num_counted > part[1].chosen.num_counted > 0
    # both answers of the pair that is left out are lost, also the one that fits
    left_out = sum(answer.num_counted for answer in encoded[2].sequences)
    assert part.num_lost == int(encoded[1].rejected.counted[limit:].sum()) + left_out
    assert part.num_counted == sum(answer.num_counted for i in range(3) for answer in part[i].sequences)
    assert part.reference is None
    assert part[2].reference is None
    assert "2 of 4 pairs are longer than 20 tokens and were cut; 1 of them keep no token of an answer" in caplog.text


def test_a_pair_of_exactly_the_sequence_length_is_not_cut(tokenizer, tmp_path):
    (pair,) = encode_pairs([vote("one", "two", "three four")], tokenizer, MINI)
    split, length = Votes({"train": [("one", "two", "three four")]}), len(pair.rejected.ids)
    assert tokenise_pairs(split, tokenizer, MINI, length, tmp_path)["train"].num_cut == 0
    assert tokenise_pairs(split, tokenizer, MINI, length - 1, tmp_path)["train"].num_cut == 1


def test_parts_hold_the_pairs_of_the_split_in_order(pair_split, tokenizer, tmp_path):
    found = tokenise_pairs(pair_split, tokenizer, MINI, 256, tmp_path)
    assert found.keys() == set(PARTS)
    for part in PARTS:
        direct = encode_pairs(pair_split.preference_rows(part), tokenizer, MINI)
        assert len(found[part]) == len(direct) > 0
        assert found[part].rows.tolist() == list(range(len(direct)))
        for number, pair in enumerate(direct):
            for ours, theirs in zip(found[part][number].sequences, pair.sequences, strict=True):
                assert ours.ids.tolist() == theirs.ids.tolist()
                assert ours.counted.tolist() == theirs.counted.tolist()
    assert isinstance(found["train"].ids, np.memmap)


def test_the_second_call_does_not_tokenise(pair_split, tokenizer, tmp_path, monkeypatch):
    first = tokenise_pairs(pair_split, tokenizer, MINI, 64, tmp_path)
    monkeypatch.setattr(pairs, "encode_turns", None)
    again = tokenise_pairs(pair_split, tokenizer, MINI, 64, tmp_path)
    assert same(*({name: part.sequences for name, part in found.items()} for found in (first, again)))
    with pytest.raises(TypeError):
        tokenise_pairs(pair_split, tokenizer, MINI, 63, tmp_path)


def test_clients_have_their_own_pairs(pair_clients: Clients):
    rows = pair_clients.split.preference_rows("train")
    part = pair_clients.tokens["train"]
    assert len(pair_clients) == 6
    for client, numbers in pair_clients.train_rows.items():
        assert numbers
        assert {rows[int(part.rows[number])].client_id for number in numbers} == {client}


def test_a_block_holds_fewer_clients_of_pairs(pair_clients, tiny_run_config):
    """A pair is two sequences: BLOCK_TOKENS bounds their sum."""
    config = tiny_run_config("fedavg", "local.micro_batch=8", "local.block_size=100")
    whole = pair_clients.tokens["train"]
    mean = len(whole.ids) / len(whole)
    rows = config.local.micro_batch * config.local.accumulation
    assert clients_per_block(config, whole, PassPlan()) == int(8192 / (rows * mean))


# --- the reference


@pytest.fixture
def parts():
    return {"train": random_pairs(seed=4, num_pairs=9), "heldout": random_pairs(seed=5, num_pairs=4)}


def ask(parts, model, cache, **changes: Any):
    return with_reference(parts, model, **{"base_hash": "b", "batch_tokens": 60, "cache": cache, **changes})


def test_the_reference_is_the_base_whatever_adapter_was_used_before(parts, double_model, trained_tree, tmp_path):
    attach(double_model.layers, {name: tensor[None] for name, tensor in trained_tree.items()})
    detach(double_model.layers)
    found = ask(parts, double_model, tmp_path)
    for name, part in found.items():
        assert part.reference.shape == (len(parts[name]), 2)
        for number in range(len(part)):
            with torch.no_grad():
                expected = [plain_logp(double_model.base, row).item() for row in part[number].sequences]
            assert part[number].reference == pytest.approx(expected, rel=1e-6)  # logits of the head in float64
    assert found["train"].reference.dtype == np.float64


@pytest.fixture
def trained_tree(double_model):
    from tiny import random_tree

    from fedllm_bench.training.model.lora import initial_adapter

    return random_tree(initial_adapter(double_model.layers, rank=4, seed=0), seed=6)


def test_it_is_computed_once_and_again_for_other_inputs(parts, double_model, tmp_path, monkeypatch):
    first = ask(parts, double_model, tmp_path)
    monkeypatch.setattr(reference, "summed_nll", None)
    again = ask(parts, double_model, tmp_path)
    for name in parts:
        assert np.array_equal(first[name].reference, again[name].reference)
    other = {**parts, "heldout": random_pairs(seed=6, num_pairs=4)}
    for changed in ({"base_hash": "c"}, {"batch_tokens": 61}, {"parts": other}):
        with pytest.raises(TypeError):
            ask(changed.pop("parts", parts), double_model, tmp_path, **changed)


@pytest.mark.parametrize("damage", ["missing", "truncated", "of other pairs"])
def test_a_damaged_cache_is_written_again(damage, parts, double_model, tmp_path):
    first = ask(parts, double_model, tmp_path)
    expected = first["train"].reference.tolist()
    (file,) = (tmp_path / "reference").glob("*/train.npy")
    content = file.read_bytes()
    file.unlink()
    if damage == "truncated":
        file.write_bytes(content[:-9])
    if damage == "of other pairs":
        np.save(file, np.zeros((3, 2)))
    assert ask(parts, double_model, tmp_path)["train"].reference.tolist() == expected


def test_pairs_without_rows_have_an_empty_reference(double_model, tokenizer, tmp_path):
    found = tokenise_pairs(Votes({"train": [("a", "b", "c")]}), tokenizer, MINI, 64, tmp_path)
    whole = ask(found, double_model, tmp_path)
    assert [len(whole[part].reference) for part in PARTS] == [1, 0, 0]


def test_tokens_of_pairs_and_of_conversations_do_not_share_a_cache(tokenizer, tmp_path):
    both = Votes({"train": [("a", "b", "c")]})
    tokenise_pairs(both, tokenizer, MINI, 64, tmp_path)
    assert files_of(tmp_path)
    key = tokens.inputs(both, tokenizer, MINI, 64)
    folder = tmp_path / "tokens" / reference.files.sha256_json(key)[:20]
    assert not folder.exists()
