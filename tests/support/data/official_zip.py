"""A zip in the published format with tiny texts: five files, the published numbers of users and Fed-Aya's sizes."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

from fedllm_bench.data.published import AYA_SIZES, PUBLISHED, ROOT


def sample(kind: str, n: int) -> dict[str, Any]:
    if kind == "chat":
        turns = [("human", f"q{n}"), ("gpt", f"a{n}"), ("human", "and?"), ("gpt", "no")]
        return {"conversations": [{"from": who, "value": text} for who, text in turns]}
    if kind == "preference":
        return {"prompt": f"q{n}", "chosen": f"a{n}", "rejected": f"b{n}"}
    return {"instruction": f"q{n}", "response": f"a{n}", "language": "Standard Arabic"}


def sets() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The contents of the five files; the sizes are the published ones for Fed-Aya only."""
    made = {}
    for name, facts in PUBLISHED.items():
        sizes = AYA_SIZES if name == "aya" else (2,) * facts.clients
        made[name] = {f"u{i}": [sample(facts.kind, n) for n in range(size)] for i, size in enumerate(sizes)}
    return made


def packed(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def official_zip(root: str = ROOT) -> bytes:
    files = {}
    for name, users in sets().items():
        path = PUBLISHED[name].path + (".json" if name == "chatbot_it" else "")  # as in the published zip
        files[root + path] = json.dumps(users).encode()
    return packed(files)


def one_file(content: bytes, name: str = "aya") -> bytes:
    return packed({ROOT + PUBLISHED[name].path: content})
