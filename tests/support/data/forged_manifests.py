"""Split folders with an edited manifest."""

from __future__ import annotations

import json
from pathlib import Path

from fedllm_bench.data import manifest as m


def forge(folder: Path, **fields: object) -> None:
    """Change fields of the manifest and make its own checksum agree, as a forger would."""
    value = json.loads((folder / m.MANIFEST).read_text()) | fields
    value.pop("manifest_sha256")
    value = {key: json.loads(m.canonical_json(item)) for key, item in value.items()}
    text = json.dumps(value | {"manifest_sha256": m.sha256_json(value)}, indent=2, ensure_ascii=False) + "\n"
    (folder / m.MANIFEST).write_text(text)
