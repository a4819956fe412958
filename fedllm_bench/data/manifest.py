"""The client split: one folder of parquet parts with a manifest that says, and proves, what is in it."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.files import (
    SAFE_NAME,
    canonical_json,
    new_folder,
    sha256_file,
    sha256_json,
    write_bytes,
    write_text,
)
from fedllm_bench.data.cards import CARD, HTML_CARD, write_cards
from fedllm_bench.data.client_split import PARTS, Part, Split, records_of
from fedllm_bench.data.lengths import TokenCounter, token_counter
from fedllm_bench.data.manifest_fields import (
    FORMAT,
    ClientCount,
    FunnelStep,
    Manifest,
    SplitInfo,
    UnseenCount,
    Upstream,
    UpstreamFile,
    UpstreamPart,
)
from fedllm_bench.data.rows import SCHEMAS, Row, Task
from fedllm_bench.data.split_hash import row_hash, whole_hash

__all__ = [
    "PARTS",
    "ClientCount",
    "FunnelStep",
    "Manifest",
    "Part",
    "Split",
    "SplitInfo",
    "UnseenCount",
    "Upstream",
    "UpstreamFile",
    "UpstreamPart",
    "check_same",
    "check_target",
    "open_split",
    "write_split",
]

MANIFEST = "manifest.json"
OWN_FILES = {CARD, HTML_CARD, *(f"{part}.parquet" for part in PARTS)}
REBUILD = "fetch or build the split again"


def write_split(
    folder: Path,
    info: SplitInfo,
    rows: Mapping[Part, Sequence[Row]],
    *,
    extra_files: Mapping[str, bytes] | None = None,
    counter: TokenCounter | None = None,
) -> Split:
    """Write a split folder whole or not at all; it replaces an older split there, and nothing else.

    Lengths in the cards are in tokens of `counter`, by default of the embedded tokenizer.
    """
    target, extra = folder.resolve(), dict(extra_files or {})
    check_names(info.name, extra)
    check_target(target)
    ordered = {part: sorted(rows.get(part, ()), key=lambda r: (r.client_id, r.row_id)) for part in PARTS}
    try:
        with new_folder(target) as part_folder:
            manifest = _write_files(part_folder, info, ordered, extra, counter or token_counter())
            write_text(part_folder / MANIFEST, _render(manifest))
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write the split {folder}: {reason}; give --out another place") from error
    return Split(target, manifest)


def _write_files(
    folder: Path,
    info: SplitInfo,
    rows: Mapping[Part, Sequence[Row]],
    extra: Mapping[str, bytes],
    counter: TokenCounter,
) -> Manifest:
    clients, unseen = _client_counts(rows)
    parts = [part for part in PARTS if part != "unseen" or rows[part]]
    for part in parts:
        table = pa.Table.from_pylist([vars(row) for row in rows[part]], schema=SCHEMAS[info.task])
        pq.write_table(table, folder / f"{part}.parquet", compression="zstd")
    for name, content in extra.items():
        write_bytes(folder / name, content)
    sizes = [client.train + client.heldout for client in clients]
    write_cards(folder, info, {part: rows[part] for part in parts}, sizes, counter)
    files = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
    row_hashes = {part: row_hash(vars(row) for row in rows[part]) for part in parts}
    whole = whole_hash(info, clients, unseen, row_hashes, _extra(files))
    return Manifest(**vars(info), clients=clients, unseen=unseen, files=files, hash=whole)


def _client_counts(
    rows: Mapping[Part, Sequence[Row]],
) -> tuple[tuple[ClientCount, ...], tuple[UnseenCount, ...]]:
    train, heldout, unseen = (Counter(row.client_id for row in rows[part]) for part in PARTS)
    if heldout.keys() - train.keys() or unseen.keys() & train.keys():
        raise ValueError("held-out rows need training rows of their client; unseen users must have none")
    clients = tuple(ClientCount(id=c, train=train[c], heldout=heldout[c]) for c in sorted(train))
    return clients, tuple(UnseenCount(id=c, heldout=unseen[c]) for c in sorted(unseen))


def _extra(files: Mapping[str, str]) -> dict[str, str]:
    return {name: sha for name, sha in files.items() if name not in OWN_FILES}


def _render(manifest: Manifest) -> str:
    """The text of manifest.json; its own checksum covers what the hash leaves out (licence, upstream)."""
    value = json.loads(canonical_json(asdict(manifest)))  # tuples become lists
    for field in ("notes", "parts"):
        if not value[field]:
            del value[field]
    ordered = {key: value[key] for key in asdict(manifest) if key in value}
    ordered["manifest_sha256"] = sha256_json(value)
    return json.dumps(ordered, indent=2, ensure_ascii=False) + "\n"


def check_names(name: str, extra: Iterable[str] = ()) -> None:
    if not SAFE_NAME.fullmatch(name):
        raise UserError(
            f"the split name {name!r} is not made of letters, digits, '.', '_' and '-'; give --name another"
        )
    for file in extra:
        if file in {MANIFEST, *OWN_FILES} or not SAFE_NAME.fullmatch(file):
            raise ValueError(f"an extra file cannot be called {file!r}")


def check_target(folder: Path) -> None:
    """Refuse a place for a split that holds anything but an older split with no other files in it."""
    target = folder.resolve()
    try:
        if not target.exists():
            return
        present = {path.name for path in target.iterdir()}
        own = {MANIFEST, *_parse(target / MANIFEST).files} if MANIFEST in present else set()
    except UserError:  # some other tool's manifest.json
        own = set()
    except NotADirectoryError:
        raise UserError(f"{target} is a file; give --out a folder") from None
    except OSError as error:
        raise UserError(f"cannot look into {target}: {error.strerror}; give --out another place") from error
    if others := sorted(present - own):
        raise UserError(f"{target} holds {others[0]!r}, no part of a split; remove it or give --out another folder")


def check_same(folder: Path, name: str, recipe: Mapping[str, Any], *, but: Collection[str] = ()) -> None:
    """Refuse a place that holds a split of another name or recipe: nothing else would keep it from being replaced.

    Options of the recipe in `but` are not compared. Raises a :class:`UserError`.
    """
    path = folder.resolve() / MANIFEST
    if not path.is_file():
        return
    there = _parse(path)
    before, now = ({k: v for k, v in r.items() if k not in but} for r in (there.recipe, recipe))
    other = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if there.name != name or other:
        what = f"a recipe that differs in {', '.join(other)}" if there.name == name else f"the name {name!r}"
        raise UserError(
            f"{folder} holds the split {there.name!r}, hash {there.hash[:16]}, and the new one has {what}; "
            "give another --out, or remove that folder"
        )


def open_split(folder: Path) -> Split:
    """The split in `folder`, after its manifest, files, schemas, counts and hash were all checked."""
    if not (folder / MANIFEST).is_file():
        raise UserError(f"no split in {folder}: it has no {MANIFEST}; build one with fedllm-bench data build")
    manifest = _parse(folder / MANIFEST)
    _check_files(folder, manifest)
    if (ids := [client.id for client in manifest.clients]) != sorted(set(ids)):
        raise UserError(f"{folder / MANIFEST}: clients are not sorted by unique id; {REBUILD}")
    unseen = {client.id: client.heldout for client in manifest.unseen}
    expected: dict[Part, dict[str, int]] = {
        "train": {c.id: c.train for c in manifest.clients},
        "heldout": {c.id: c.heldout for c in manifest.clients if c.heldout},
        **({"unseen": unseen} if unseen else {}),
    }
    hashes = {part: _check_part(folder, manifest.task, part, counts) for part, counts in expected.items()}
    whole = whole_hash(manifest, manifest.clients, manifest.unseen, hashes, _extra(manifest.files))
    if whole != manifest.hash:
        raise UserError(f"{folder / MANIFEST}: its hash is {manifest.hash[:16]}, the content's {whole[:16]}; {REBUILD}")
    return Split(folder, manifest)


def _parse(path: Path) -> Manifest:
    try:
        text = path.read_bytes().decode()
        value = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({first_line(error)}); {REBUILD}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a JSON {type(value).__name__}, not an object; {REBUILD}")
    if value.get("format") != FORMAT:
        raise UserError(f"{path} has format {value.get('format')!r}; this version reads {FORMAT}; {REBUILD}")
    try:
        manifest = _adapter().validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {where}: {first['msg']} ({len(error.errors())} in all); {REBUILD}") from None
    if _render(manifest) != text:
        raise UserError(f"{path} was changed after it was written; {REBUILD}")
    return manifest


@functools.cache
def _adapter() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


def _check_files(folder: Path, manifest: Manifest) -> None:
    needed = {CARD, "train.parquet", "heldout.parquet", *(["unseen.parquet"] if manifest.unseen else [])}
    if missing := sorted(needed - manifest.files.keys()):
        raise UserError(f"{folder / MANIFEST} names no file {missing[0]!r}; {REBUILD}")
    for name, expected in manifest.files.items():
        if not SAFE_NAME.fullmatch(name):
            raise UserError(f"{folder / MANIFEST} names the file {name!r}, which could leave the folder; {REBUILD}")
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing; {REBUILD}")
        if (got := sha256_file(folder / name)) != expected:
            raise UserError(f"{folder / name} was changed: sha256 {got[:16]}, not {expected[:16]}; {REBUILD}")


def _check_part(folder: Path, task: Task, part: Part, expected: Mapping[str, int]) -> str:
    """The hash of the rows of one part, whose schema, counts and split column were checked."""
    path = folder / f"{part}.parquet"
    split = "train" if part == "train" else "heldout"
    try:
        schema = pq.read_schema(path)
        if not schema.equals(SCHEMAS[task]):
            raise UserError(f"{path} has columns {schema.names}, not those of task {task!r} in type; {REBUILD}")
        counts: Counter[tuple[str, str]] = Counter()
        whole = row_hash(_counted(records_of(path), counts))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable parquet ({first_line(error)}); {REBUILD}") from error
    if counts != {(client, split): rows for client, rows in expected.items()}:
        raise UserError(f"{path} has {counts.total()} rows, not as {MANIFEST} counts them by client; {REBUILD}")
    return whole


def _counted(records: Iterable[dict[str, Any]], counts: Counter[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """The records as they are, while `counts` learns how many there are by (client, split)."""
    for record in records:
        counts[record["client_id"], record["split"]] += 1
        yield record
