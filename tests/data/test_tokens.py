"""The token cache: what is cut and skipped is counted, what is cached is what was asked for, and whole."""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from token_files import MINI, files_of, same
from tokenizers.processors import TemplateProcessing

from fedllm_bench.data import tokens
from fedllm_bench.data.chat import template_text
from fedllm_bench.data.manifest import PARTS, Split
from fedllm_bench.data.rows import SftRow
from fedllm_bench.data.tokens import encode, tokenise_split


@dataclass(frozen=True)
class Rows:
    """A split of rows that a test makes up."""

    texts: dict[str, list[tuple[str, str]]]
    hash: str = "h"

    def rows(self, part: str) -> list[SftRow]:
        return [row(*texts) for texts in self.texts.get(part, [])]


def row(prompt: str, completion: str) -> SftRow:
    turns = ({"role": "user", "content": prompt}, {"role": "assistant", "content": completion})
    return SftRow(client_id="c", split="train", row_id="1", language="eng", source="", messages=turns)


@pytest.fixture
def tokenizer(tiny_model) -> Any:
    return tiny_model.tokenizer


@pytest.fixture
def poisoned(monkeypatch) -> None:
    """From here on, to tokenise is an error."""

    def encode(*args: Any) -> None:
        raise AssertionError("tokenised although the cache has it")

    monkeypatch.setattr(tokens, "encode", encode)


def test_parts_hold_the_rows_of_the_split_in_order(tiny_split: Split, tokenizer, tmp_path):
    found = tokenise_split(tiny_split, tokenizer, MINI, 256, tmp_path)
    assert found.keys() == set(PARTS)
    for part in PARTS:
        direct = encode(tiny_split.rows(part), tokenizer, MINI)
        assert len(found[part]) == len(direct)
        assert (found[part].num_cut, found[part].num_skipped, found[part].num_lost) == (0, 0, 0)
        assert found[part].rows.tolist() == list(range(len(direct)))
        for number, expected in enumerate(direct):
            assert found[part][number].ids.tolist() == expected.ids.tolist()
            assert found[part][number].counted.tolist() == expected.counted.tolist()
    assert len(found["train"]) > 100


def test_many_rows_are_numbered_through_all_portions(tiny_split: Split, tokenizer, tmp_path, monkeypatch):
    whole = tokenise_split(tiny_split, tokenizer, MINI, 20, tmp_path / "a")
    monkeypatch.setattr(tokens, "ROWS_AT_ONCE", 7)
    portions = tokenise_split(tiny_split, tokenizer, MINI, 20, tmp_path / "b")
    assert same(whole, portions)
    assert whole["train"].num_cut > 0


def test_rows_are_cut_on_the_right_and_those_without_a_counted_token_skipped(tokenizer, tmp_path):
    pairs = [("one", "two"), ("one", "two " * 30), ("one " * 30, "two")]
    found = encode([row(*pair) for pair in pairs], tokenizer, MINI)
    lengths = [len(each.ids) for each in found]
    limit = 20
    assert lengths[0] < limit < min(lengths[1:])
    part = tokenise_split(Rows({"train": pairs}), tokenizer, MINI, limit, tmp_path)["train"]
    assert (part.num_cut, part.num_skipped) == (2, 1)
    assert part.rows.tolist() == [0, 1]
    direct = found[1]
    assert part[1].ids.tolist() == direct.ids[:limit].tolist()
    assert part[1].num_counted == int(direct.counted[:limit].sum()) > 0
    assert part.num_counted == found[0].num_counted + part[1].num_counted
    assert part.num_lost == int(direct.counted[limit:].sum()) + found[2].num_counted > 2


def test_a_row_of_exactly_the_sequence_length_is_not_cut(tokenizer, tmp_path):
    length = len(encode([row("one", "two three")], tokenizer, MINI)[0].ids)
    split = Rows({"train": [("one", "two three")]})
    assert tokenise_split(split, tokenizer, MINI, length, tmp_path)["train"].num_cut == 0
    assert tokenise_split(split, tokenizer, MINI, length - 1, tmp_path)["train"].num_cut == 1


def test_an_empty_part_is_empty(tokenizer, tmp_path):
    found = tokenise_split(Rows({"train": [("a", "b")]}), tokenizer, MINI, 64, tmp_path)
    assert [len(found[part]) for part in PARTS] == [1, 0, 0]


def test_a_token_before_the_text_is_never_counted(tokenizer):
    with_bos = copy.deepcopy(tokenizer)
    bos = with_bos.bos_token = tokenizer.convert_ids_to_tokens(40)
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(f"{bos} $A", special_tokens=[(bos, 40)])
    (plain,) = encode([row("a", "b")], tokenizer, MINI)
    (found,) = encode([row("a", "b")], with_bos, MINI)
    assert found.ids.tolist() == [40, *plain.ids.tolist()]
    assert found.counted.tolist() == [False, *plain.counted.tolist()]
    assert tokens.encode_prompts([row("a", "b").messages[:1]], with_bos, MINI)[0][0] == 40


def test_the_second_call_does_not_tokenise(tiny_split: Split, tokenizer, tmp_path, request):
    first = tokenise_split(tiny_split, tokenizer, MINI, 64, tmp_path)
    request.getfixturevalue("poisoned")
    assert same(first, tokenise_split(tiny_split, tokenizer, MINI, 64, tmp_path))


def test_tokens_are_mapped_from_disk_and_read_only(tiny_split: Split, tokenizer, tmp_path):
    """A split of a million rows must not be held in memory, nor be changed by whoever reads it."""
    for _ in range(2):  # just written, and cached
        part = tokenise_split(tiny_split, tokenizer, MINI, 64, tmp_path)["train"]
        assert all(isinstance(getattr(part, name), np.memmap) for name in tokens.ARRAYS)
        assert isinstance(part[3].ids, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            part.ids[0] = 1


def other_vocabulary(tokenizer: Any) -> Any:
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["qqq"])
    return other


@pytest.mark.parametrize("change", ["split", "template", "tokenizer", "length"])
def test_other_inputs_are_tokenised_anew(change, tokenizer, tmp_path, request):
    split = Rows({"train": [("a", "b")]})
    tokenise_split(split, tokenizer, MINI, 64, tmp_path)
    request.getfixturevalue("poisoned")
    changed = {
        "split": (replace(split, hash="other"), tokenizer, MINI, 64),
        "template": (split, tokenizer, template_text("alpaca"), 64),
        "tokenizer": (split, other_vocabulary(tokenizer), MINI, 64),
        "length": (split, tokenizer, MINI, 63),
    }
    tokenise_split(split, tokenizer, MINI, 64, tmp_path)
    with pytest.raises(AssertionError, match="tokenised"):
        tokenise_split(*changed[change], tmp_path)


def test_a_killed_tokenisation_leaves_nothing_that_would_be_used(tiny_split: Split, tokenizer, tmp_path, monkeypatch):
    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tokens.files, "write_json", killed)  # the last file of the folder
        with pytest.raises(KeyboardInterrupt):
            tokenise_split(tiny_split, tokenizer, MINI, 64, tmp_path)
    assert not list((tmp_path / "tokens").iterdir())
    again = tokenise_split(tiny_split, tokenizer, MINI, 64, tmp_path)
    assert same(again, tokenise_split(tiny_split, tokenizer, MINI, 64, tmp_path / "other"))


@pytest.mark.parametrize("damage", ["no counts", "half counts", "missing", "truncated", "empty"])
def test_a_damaged_cache_is_written_again(damage, tiny_split: Split, tokenizer, tmp_path):
    first = tokenise_split(tiny_split, tokenizer, MINI, 64, tmp_path)
    expected = {part: [first[part][i].ids.tolist() for i in range(len(first[part]))] for part in PARTS}
    folder = files_of(tmp_path)
    shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(folder)  # the mapped files live on; the damage must not reach them
    shutil.move(tmp_path / "copy", folder)
    counts, ids = folder / "counts.json", folder / "train.ids.npy"
    match damage:
        case "no counts":
            counts.unlink()
        case "half counts":
            counts.write_text(counts.read_text()[:20])
        case "missing":
            ids.unlink()
        case "truncated":
            ids.write_bytes(ids.read_bytes()[:-100])
        case "empty":
            ids.write_bytes(b"")
    again = tokenise_split(tiny_split, tokenizer, MINI, 64, tmp_path)
    assert {part: [again[part][i].ids.tolist() for i in range(len(again[part]))] for part in PARTS} == expected
