"""A model of sentence-transformers over many texts: sorted by length, in batches of equal cost, kept as it goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.progress import track
from fedllm_bench.diversity.embedding.cache import ValueCache
from fedllm_bench.diversity.embedding.settings import ADVICE, EncoderSettings, Floats, key_of, prompt_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TEXTS_AT_ONCE = 1000
# On a CPU what a layer works on should stay in its cache: 160 texts took 2.8 s by 1,024 tokens, 3.9 s by 8,192.
BATCH_TOKENS = {"cpu": 1024, "cuda": 16_384}
SECONDS_BETWEEN_WRITES = 5.0  # what a kill may cost


@dataclass(frozen=True)
class Encoding:
    """An encoder in `folder`, loaded when the first text is not in the cache; `asked` begins the keys there."""

    settings: EncoderSettings
    folder: Path
    asked: tuple[str, ...]

    def vectors(self, texts: Sequence[str], cache: ValueCache | None) -> Floats:
        """For each distinct text a vector of length 1, the number of its tokens, and the limit it was cut to."""
        keys = [key_of(self.asked, text) for text in texts]
        found = dict(cache.get_many(keys)) if cache else {}
        missing = [number for number, name in enumerate(keys) if name not in found]
        new: dict[str, Floats] = {}
        last = time.monotonic()
        try:
            for number, vector in self._computed([texts[i] for i in missing]):
                new[keys[missing[number]]] = vector
                if cache and time.monotonic() - last > SECONDS_BETWEEN_WRITES:
                    cache.put_many(new)
                    found |= new
                    new, last = {}, time.monotonic()
        finally:  # also when interrupted
            if cache:
                cache.put_many(new)
        found |= new
        return np.stack([found[name] for name in keys])

    def _computed(self, texts: Sequence[str]) -> Iterator[tuple[int, Floats]]:
        if not texts:
            return
        tokens = self._num_tokens(texts)
        fitting = self.settings.batch_tokens or BATCH_TOKENS.get(self.model.device.type, BATCH_TOKENS["cuda"])
        plan = batches([min(length, self._limit) for length in tokens], fitting)
        for batch in track(plan, f"embed {len(texts)} texts", len(plan)):
            vectors = self._encode([texts[i] for i in batch])
            for i, vector in zip(batch, vectors, strict=True):
                yield i, np.array([*vector, tokens[i], self._limit], dtype=np.float32)

    def _encode(self, texts: list[str]) -> Floats:
        vectors: Floats = self.model.encode(
            texts,
            prompt=self._prompt,
            batch_size=len(texts),
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        if not np.isfinite(vectors).all():
            raise UserError(f"the encoder {self.folder.name!r} gives vectors that are not finite; {ADVICE}")
        return vectors

    def _num_tokens(self, texts: Sequence[str]) -> list[int]:
        """Before they are cut, with the prompt and special tokens."""
        prompt, lengths = self._prompt, []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = [prompt + text for text in texts[start : start + TEXTS_AT_ONCE]]
            lengths += [len(ids) for ids in self.model.tokenizer(some, truncation=False, verbose=False)["input_ids"]]
        return lengths

    @property
    def _prompt(self) -> str:
        """What `encode` puts before each text."""
        given = prompt_of(self.settings)
        return given if given is not None else self.model.prompts.get(self.model.default_prompt_name or "") or ""

    @property
    def _limit(self) -> int:
        return self.model.max_seq_length or self.settings.max_tokens

    @cached_property
    def model(self) -> SentenceTransformer:
        return load(self.folder, self.settings)


def load(folder: Path, settings: EncoderSettings) -> SentenceTransformer:
    """In float32 on any device, so that devices agree; a :class:`UserError` where it cannot be loaded."""
    import torch
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer

    options: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32}
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = SentenceTransformer(
            str(folder), device=device, local_files_only=True, model_kwargs=options, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise UserError(f"cannot load the encoder {folder.name!r} ({first_line(error)[:200]}); {ADVICE}") from error
    model.max_seq_length = min(model.max_seq_length or settings.max_tokens, settings.max_tokens)
    return model


def batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Places of texts, longest first: a batch, padded to its longest, has at most `batch_tokens` tokens.

    A text that is longer has a batch for itself. Longest first: what does not fit into memory shows at once, and the
    time that is left is not underestimated.
    """
    plan: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if plan and lengths[plan[-1][0]] * (len(plan[-1]) + 1) <= batch_tokens:
            plan[-1].append(place)
        else:
            plan.append([place])
    return plan
