"""How texts are embedded: the model, its limits and its prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedllm_bench.common.errors import UserError
from fedllm_bench.diversity.embedding.cache import key

Floats = NDArray[np.float32]

# Of the small multilingual encoders it covers the languages of the suite, Telugu too; 384 dimensions, 512 tokens
# (Wang et al., 2024, arXiv:2402.05672). It was trained with a prompt before each text, "query: " where both texts of
# a pair are alike.
DEFAULT_MODEL = "intfloat/multilingual-e5-small"

PROMPTS = {DEFAULT_MODEL: "query: "}

ADVICE = "give --embedder lsa, or the folder or name of a model of sentence-transformers with safetensors"


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """`name`: "lsa", a folder, an id of the hub, or None for the multilingual default (LSA where it cannot be had).

    Texts are cut to `max_tokens`, or to the model's own limit where that is less. `batch_tokens` bounds a batch,
    padding included; None is what suits the device. `prompt` goes before each text; None is the model's own.
    """

    name: str | None = None
    device: str = "auto"
    max_tokens: int = 256
    batch_tokens: int | None = None
    prompt: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("max_tokens", "batch_tokens"):
            given = getattr(self, field)
            if given is not None and given < 1:
                raise UserError(f"{field}={given}: give at least 1")


def prompt_of(encoder: EncoderSettings) -> str | None:
    return encoder.prompt if encoder.prompt is not None else PROMPTS.get(encoder.name or DEFAULT_MODEL)


def key_of(asked: tuple[str, ...], text: str) -> str:
    return key(*asked, text)
