"""What a split's hash is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fedllm_bench.common.files import canonical_json, sha256_json
from fedllm_bench.data.manifest_fields import ClientCount, SplitInfo, UnseenCount


def row_hash(records: Iterable[Mapping[str, Any]]) -> str:
    digest = hashlib.sha256()
    for record in records:
        digest.update(canonical_json(record).encode() + b"\n")
    return digest.hexdigest()


def whole_hash(
    info: SplitInfo,
    clients: Sequence[ClientCount],
    unseen: Sequence[UnseenCount],
    row_hashes: Mapping[Any, str],  # by part
    extra_files: Mapping[str, str],
) -> str:
    """Rows enter by content, not by parquet bytes; the cards and the raw files' names stay outside."""
    content = {
        **{key: getattr(info, key) for key in ("name", "dataset", "task", "recipe")},
        "funnel": [asdict(step) for step in info.funnel],
        "clients": [asdict(client) for client in clients],
        "unseen": [asdict(client) for client in unseen],
        "rows": dict(row_hashes),
        "extra_files": dict(extra_files),
    }
    return sha256_json(content)
