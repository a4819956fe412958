"""Mirrors of splits: a folder, a web address or a dataset of the Hugging Face hub with an index of its files."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from fedllm_bench.common import network
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.files import SAFE_NAME, cache_root, new_folder, sha256_file, sha256_json, write_json
from fedllm_bench.data.fetch.download import GIB, Unreachable, download, is_url, join, sha256_is
from fedllm_bench.data.manifest import Split, check_target, open_split

INDEX, FORMAT = "index.json", 1
MAX_FILES, MAX_INDEX_BYTES, MAX_FILE_BYTES = 100, 2**20, 8 * GIB
HUB = "https://huggingface.co"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
WAYS_OUT = (
    "Give --from another mirror (a folder, https:// or hub:ORG/NAME@REV) or --from official, or build the split "
    "from upstream rows: fedllm-bench data build"
)


@checked(frozen=True)
class IndexFile:
    sha256: str
    bytes: int


@checked(frozen=True)
class MirrorIndex:
    """What index.json says: which split lies here, and the sha256 and size of each of its files."""

    format: int
    name: str
    dataset: str
    hash: str
    files: dict[str, IndexFile]


def publish(folder: Path, to: str) -> tuple[Split, str]:
    """Copy a verified split to a mirror; returns the split and the `--from` that finds it there."""
    split = open_split(folder)
    if to.startswith("hub:"):
        return split, _publish_hub(split, to.removeprefix("hub:"))
    if is_url(to):
        raise UserError(f"--to {to}: a web server cannot be written to; publish to a folder and serve that")
    target = Path(to)
    _check_mirror(target)
    try:
        with new_folder(target.resolve()) as part:
            _fill(split, part)
    except OSError as error:
        raise UserError(f"cannot write the mirror {to}: {error.strerror or error}; give --to another place") from error
    return split, to


def _fill(split: Split, folder: Path) -> None:
    for path in sorted(split.folder.iterdir()):
        if path.name == "manifest.json" or path.name in split.manifest.files:
            shutil.copyfile(path, folder / path.name)
    files = {p.name: {"sha256": sha256_file(p), "bytes": p.stat().st_size} for p in sorted(folder.iterdir())}
    head = {"format": FORMAT, "name": split.name, "dataset": split.manifest.dataset, "hash": split.hash}
    write_json(folder / INDEX, {**head, "files": files})


def _check_mirror(target: Path) -> None:
    """Refuse a place that holds anything but an older mirror."""
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"{target} is a file; give --to a folder")
    present = {path.name for path in target.iterdir()}
    own = {INDEX, *_read_index(target / INDEX).files} if INDEX in present else set()
    if others := sorted(present - own):
        raise UserError(f"{target} holds {others[0]!r}, no part of a mirror; remove it or give --to another folder")


def _publish_hub(split: Split, name: str) -> str:
    if not HUB_NAME.fullmatch(name):
        raise UserError(f"--to hub:{name} is not hub:ORG/NAME")
    from huggingface_hub import HfApi, errors

    # HTTPError is that of httpx2, or of httpx before version 2 of the hub's client
    failures = (errors.HTTPError, errors.HFValidationError, OSError)  # type: ignore[attr-defined]
    try:
        with network.blamed(), tempfile.TemporaryDirectory() as folder:
            _fill(split, Path(folder))
            api = HfApi()
            api.create_repo(name, repo_type="dataset", exist_ok=True)
            message = f"{split.name} {split.hash[:16]}"
            done = api.upload_folder(repo_id=name, repo_type="dataset", folder_path=folder, commit_message=message)
    except failures as error:  # also: no token, offline
        reason = first_line(error)
        raise UserError(
            f"cannot upload to hub:{name} ({reason}); log in with `hf auth login` and a token that may write, unset "
            f"HF_HUB_OFFLINE, or publish to a folder"
        ) from error
    return f"hub:{name}@{done.oid}"


def get_mirror(dataset: str, source: str, out: Path) -> Split:
    """The split of `dataset` that a mirror holds, verified, in `out`; from the cache when it was fetched before.

    Raises :class:`UserError` for a mirror that cannot be reached, holds another dataset, or whose files are not
    as its index says; nothing is then left in `out` or in the cache under the name of a wrong file.
    """
    check_target(out)
    base = base_address(source)
    index = _index(base)
    if index.dataset != dataset:
        raise UserError(f"{source} holds the dataset {index.dataset!r}, not {dataset!r}")
    try:
        with new_folder(out.resolve()) as part:
            for name, file in index.files.items():
                shutil.copyfile(_file(base, name, file), part / name)
            split = open_split(part)
            if (split.hash, split.manifest.dataset) != (index.hash, index.dataset):
                raise UserError(
                    f"{source}: the split's hash is {split.hash[:16]}, not {index.hash[:16]} as its index says"
                )
    except OSError as error:
        raise UserError(f"cannot write the split {out}: {error.strerror or error}; give --out another place") from error
    return replace(split, folder=out.resolve())


def base_address(source: str) -> str:
    """The folder or URL of a `--from`; a hub dataset at a revision is a URL too."""
    if not source.startswith("hub:"):
        return source
    name, _, revision = source.removeprefix("hub:").partition("@")
    if not HUB_NAME.fullmatch(name) or not REVISION.fullmatch(revision):
        raise UserError(f"--from {source[:200]} is not hub:ORG/NAME@REV (REV: best the 40 digits of a commit)")
    endpoint = os.environ.get("HF_ENDPOINT") or HUB
    return f"{endpoint.rstrip('/')}/datasets/{name}/resolve/{revision}"


def _index(base: str) -> MirrorIndex:
    """The index of a mirror: as it is now, or, where the mirror cannot be reached, as it was last time."""
    cached = cache_root() / "mirrors" / f"{sha256_json(base)[:20]}.json"
    try:
        download(join(base, INDEX), cached, _check_index, max_bytes=MAX_INDEX_BYTES)
    except Unreachable as error:
        if not cached.is_file():
            raise UserError(f"{error}. {WAYS_OUT}") from error
    return _read_index(cached)


def _file(base: str, name: str, file: IndexFile) -> Path:
    target = cache_root() / "files" / file.sha256
    if target.is_file() and sha256_file(target) == file.sha256:
        return target
    try:
        return download(join(base, name), target, sha256_is(file.sha256), max_bytes=file.bytes)
    except Unreachable as error:
        raise UserError(f"{error}. {WAYS_OUT}") from error


def _check_index(path: Path) -> None:
    _read_index(path)


def _read_index(path: Path) -> MirrorIndex:
    try:
        index: MirrorIndex = _adapter().validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:80] or "the file"
        raise UserError(f"{path.name} is no index of a split ({where!a}: {first['msg']})") from None
    for name, file in index.files.items():
        if not SAFE_NAME.fullmatch(name):
            raise UserError(f"{path.name} names the file {name[:100]!a}, which could leave the folder")
        if not re.fullmatch(r"[0-9a-f]{64}", file.sha256) or not 0 <= file.bytes <= MAX_FILE_BYTES:
            raise UserError(f"{path.name}: the sha256 or the size of {name!r} is impossible")
    if index.format != FORMAT or not 1 <= len(index.files) <= MAX_FILES:
        raise UserError(f"{path.name} has format {index.format} and {len(index.files)} files; format {FORMAT} is read")
    return index


def _adapter() -> Any:
    return TypeAdapter(MirrorIndex)
