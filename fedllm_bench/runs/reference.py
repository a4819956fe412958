"""The reference of DPO: log-probabilities of both answers of each pair under the frozen base, once for all rounds.

The reference is the base with the starting adapter merged into it and no other adapter. It never changes, so it is
computed once per pair and kept on disk, named by the contents it depends on.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fedllm_bench.common import files
from fedllm_bench.common.cache import cached, key_of
from fedllm_bench.common.ledger import Ledger
from fedllm_bench.common.progress import Share
from fedllm_bench.data.pairs import FloatArray, PairPart
from fedllm_bench.data.tokens import TokenPart, TokenRow
from fedllm_bench.metrics.batches import Batches, Elsewhere
from fedllm_bench.metrics.likelihood import summed_nll
from fedllm_bench.training.model.lora_model import LoraModel


def with_reference(
    parts: Mapping[str, PairPart],
    model: LoraModel,
    *,
    base_hash: str,
    batch_tokens: int,
    cache: Path,
    elsewhere: Elsewhere | None = None,
) -> dict[str, PairPart]:
    """The same parts with the reference's log-probabilities, in nats, from the cache or written there.

    `base_hash` names the base by content, starting adapter included; a batch holds `batch_tokens` padded tokens.
    `elsewhere` computes batches of the base alone, where this process does not.
    """
    place = cache / "reference"
    key = reference_key(parts, model, base_hash=base_hash, batch_tokens=batch_tokens)
    path = place / f"{key}.batches"  # beside the final place, and written under the lock of whoever computes

    def compute(folder: Path) -> None:
        rows = [row for part in parts.values() for row in _sequences(part)]
        ledger = Ledger(path, key)
        _write(folder, _split_up(log_probabilities(model, rows, batch_tokens, ledger, elsewhere), parts))

    found = cached(place, key, compute, lambda folder: _read(folder, parts))
    path.unlink(missing_ok=True)
    return {name: replace(part, reference=found[name]) for name, part in parts.items()}


def reference_key(parts: Mapping[str, PairPart], model: LoraModel, *, base_hash: str, batch_tokens: int) -> str:
    """The name of a reference in the cache, by all that it depends on."""
    return key_of(
        {
            "base": base_hash,
            "dtype": str(model.base.dtype),
            "device": model.device.type,
            "threads": torch.get_num_threads(),
            "batch_tokens": batch_tokens,
            "tokens": {name: _content(part.sequences) for name, part in parts.items()},
        }
    )


def without_reference(parts: Mapping[str, PairPart]) -> dict[str, PairPart]:
    """The same parts with zeros in the place of the reference, to see how long a pair takes."""
    return {name: replace(part, reference=np.zeros((len(part), 2))) for name, part in parts.items()}


def log_probabilities(
    model: LoraModel,
    rows: Sequence[TokenRow],
    batch_tokens: int,
    ledger: Ledger | None = None,
    elsewhere: Elsewhere | None = None,
) -> FloatArray:
    """Summed log-probability of the counted tokens of each row under the base alone, shape (rows,), in nats.

    The values of finished batches are kept in `ledger` and taken from there.
    """
    with Share("reference", 1.0) as share, model.using(None):
        batches = Batches(ledger=ledger, share=share, room=1.0, elsewhere=elsewhere)
        return -np.array(summed_nll(model, rows, batch_tokens, batches), np.float64)


def _sequences(part: PairPart) -> list[TokenRow]:
    return [sequence for number in range(len(part)) for sequence in part[number].sequences]


def _content(part: TokenPart) -> str:
    digest = hashlib.sha256()
    for array in (part.ids, part.counted, part.starts):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _split_up(found: FloatArray, parts: Mapping[str, PairPart]) -> dict[str, FloatArray]:
    """The values of all parts one after the other, as (pairs, 2) of each."""
    ends = np.cumsum([2 * len(part) for part in parts.values()])
    pieces = np.split(found, ends[:-1])
    return {name: piece.reshape(-1, 2) for name, piece in zip(parts, pieces, strict=True)}


def _write(folder: Path, found: Mapping[str, FloatArray]) -> None:
    for name, values in found.items():
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        files.write_bytes(folder / f"{name}.npy", buffer.getvalue())


def _read(folder: Path, parts: Mapping[str, PairPart]) -> dict[str, FloatArray] | None:
    """What an earlier call left; None where a file is missing, damaged or of other pairs."""
    try:
        found = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in parts}
    except (OSError, EOFError, ValueError):
        return None
    right = all(values.shape == (len(parts[name]), 2) for name, values in found.items())
    return found if right else None
