"""Texts that begin alike have the tokens that they have alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from own_tokenizers import TOKENIZERS, byte_level_bpe
from tokenizers import Regex, pre_tokenizers

from fedllm_bench.evaluation.closed.tails import encoded_alike

# that of Llama-3: a full stop takes the ends of lines behind it
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def llama_3() -> Any:
    tokenizer = byte_level_bpe()
    split = pre_tokenizers.Split(Regex(LLAMA_3), behavior="isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    return tokenizer


KINDS = {**TOKENIZERS, "Llama-3": llama_3}
WORDS = [
    "Name",
    "a",
    "colour,",
    "please.",
    "The",
    "token",
    "é",
    "漢字",
    "🙂",
    "----",
    "aaaaaaa",
    "  two",
    "12345",
    "\n",
    "Answer:",
]


def texts() -> list[str]:
    rng = random.Random(3)

    def line(count: int) -> str:
        return " ".join(rng.choices(WORDS, k=count))

    found = []
    for _ in range(4):
        shots = "\n\n".join(f"{line(12)}.\nA. {line(3)}\nB. {line(2)}\nAnswer: A" for _ in range(5))
        for _ in range(6):
            context = f"{shots}\n\n{line(14)}\nA. {line(3)}\nB. {line(3)}\nAnswer:"
            found += [context, *(f"{context} {letter}" for letter in "ABCD")]
    return [*found, "", "a", "\n", "a\n" * 80, "a\n" * 80 + "b"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_has_the_tokens_that_it_has_alone(kind: str) -> None:
    tokenizer = KINDS[kind]()
    seen = []

    def encodings(some: Sequence[str]) -> Any:
        seen.extend(some)
        return tokenizer(list(some), add_special_tokens=False).encodings

    asked = texts()
    found = encoded_alike(asked, encodings)
    assert found == tokenizer(asked, add_special_tokens=False)["input_ids"]
    if kind in ("byte-level BPE", "Llama-3"):
        assert sum(map(len, seen)) < 0.5 * sum(map(len, asked))
