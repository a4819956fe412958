"""diversity.json: all sections of one split, put together (docs/diversity.md has the schema)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.manifest import Split
from fedllm_bench.diversity import inputs
from fedllm_bench.diversity.against import compared
from fedllm_bench.diversity.inputs import DiversityInputs
from fedllm_bench.diversity.section import Section
from fedllm_bench.diversity.settings import NO_MODEL, SECTIONS, DiversitySettings

if TYPE_CHECKING:
    from fedllm_bench.diversity.embedding.embedding import Arrays

log = logging.getLogger(__name__)
VERSION = 1
LEFT_OUT = "left out; name it in --only, or leave it out of --skip"
MEASURES: dict[str, Callable[[DiversityInputs], Section]] = {
    "quantity": inputs.quantity,
    "length": inputs.length,
    "language": inputs.language,
    "instruction": inputs.instruction,
    "embedding": inputs.embedding,
    "quality": inputs.quality,
    "preference": inputs.preference,
}
ALWAYS = ("quantity", "language")  # of which the entry of every client is made
Report = dict[str, Any]


def build(
    split: Split, settings: DiversitySettings, other: Split | None = None
) -> tuple[Report, Arrays | None, Report | None]:
    """The report of a split, its matrices of pairs of clients where they were computed, and the report of `other`.

    A section that cannot be computed has {"skipped": why}; the rest goes on.
    """
    own = DiversityInputs(split, settings)
    report, arrays = _one(own)
    if other is None:
        return report, arrays, None
    against = DiversityInputs(other, settings)
    report_of_other, _ = _one(against)
    return report | {"against": compared(report, report_of_other, own.rows, against.rows)}, arrays, report_of_other


def _one(own: DiversityInputs) -> tuple[Report, Arrays | None]:
    log.info("%s: %d rows of %d clients", own.split.name, len(own.rows), len(own.split.manifest.clients))
    found = {name: _measured(name, own) for name in (*ALWAYS, *(n for n in own.settings.sections if n not in ALWAYS))}
    clients: dict[str, dict[str, Any]] = {client.id: {"id": client.id} for client in own.split.manifest.clients}
    for name in (name for name in SECTIONS if name in found):
        for client, entry in found[name].clients.items():
            clients[client] |= entry
    sections = {name: found[name].section if name in own.settings.sections else _skipped(LEFT_OUT) for name in SECTIONS}
    report = {
        "diversity_version": VERSION,
        "split": _split(own),
        "settings": _settings(own, sections),
        "clients": list(clients.values()),
        "sections": sections,
    }
    arrays = own.embedded[1] if "skipped" not in sections["embedding"] else None
    plain: Report = jsonable(report)
    return plain, arrays


def _measured(name: str, own: DiversityInputs) -> Section:
    try:
        return MEASURES[name](own)
    except UserError as error:
        log.warning("%s: skipped (%s)", name, error)
        return Section(section=_skipped(str(error)))


def _skipped(why: str) -> dict[str, Any]:
    return {"skipped": why}


def _split(own: DiversityInputs) -> dict[str, Any]:
    split = own.split
    counts = {"rows": len(own.rows), "clients": len(split.manifest.clients)}
    return {"name": split.name, "dataset": split.manifest.dataset, "hash": split.hash, "task": split.task, **counts}


def _settings(own: DiversityInputs, sections: Mapping[str, Any]) -> dict[str, Any]:
    settings, model = own.settings, sections["quality"].get("model")
    return {
        "embedder": inputs.about_encoder(own) if "skipped" not in sections["embedding"] else None,
        "tokenizer": sections["length"].get("unit_tokens"),
        "quality_model": None if settings.quality_model == NO_MODEL else model,
        "seed": settings.seed,
        "permutations": settings.permutations,
        "max_rows": settings.max_rows,
    }


def jsonable(value: Any) -> Any:
    """`value` with plain numbers and lists; a number that is not finite is null."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(own) for key, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(own) for own in value]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.generic):
        return jsonable(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_files(report: Report, arrays: Arrays | None, other: Report | None, out: Path) -> Iterator[Path]:
    """diversity.json, clients.csv and, where there are any, pairs.parquet and against.json; what was written."""
    from fedllm_bench.diversity import tables

    files.make_folder(out)
    files.write_text(out / "clients.csv", tables.clients_csv(report))
    yield out / "clients.csv"
    if arrays is not None:
        files.write_bytes(out / "pairs.parquet", tables.pairs_parquet(report, arrays))
        yield out / "pairs.parquet"
    if other is not None:
        files.write_json(out / "against.json", other)
        yield out / "against.json"
    files.write_json(out / "diversity.json", report)  # last: where it stands, the others do
    yield out / "diversity.json"
