"""How far each client's rows lie from all other clients' rows, as in the diversity report."""

from __future__ import annotations

from collections.abc import Sequence

from fedllm_bench.diversity.rows import DiversityRow


def distances(rows: Sequence[DiversityRow], embedder: str | None, device: str) -> tuple[str, dict[str, float | None]]:
    """What the prompts were embedded with, and client -> unbiased MMD^2 of its prompts and all others'.

    None for a client with a single row. Raises a :class:`UserError` where the encoder cannot be loaded.
    """
    from fedllm_bench.diversity.embedding.cache import default_cache
    from fedllm_bench.diversity.embedding.embedding import distance_to_rest
    from fedllm_bench.diversity.embedding.encoder import embed
    from fedllm_bench.diversity.embedding.settings import EncoderSettings

    found = embed([row.prompt for row in rows], EncoderSettings(name=embedder, device=device), default_cache())
    return found.id, distance_to_rest(rows, found.vectors)
