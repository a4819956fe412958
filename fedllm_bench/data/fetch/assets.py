"""Evaluation assets: questions, reference answers, judge prompts, human votes. Pinned, checked, fetched when needed.

`sha256` pins bytes; `rows_sha256` pins the rows (one line of canonical JSON each, sorted) of assets whose public
form differs in spelling, column order or file format from the one that mirrors hold. Of an asset without either, the
number of rows and the names of its columns are checked.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import UserError, first_line, unknown
from fedllm_bench.common.files import cache_root, canonical_json
from fedllm_bench.data.fetch.download import Check, Unreachable, download, join, sha256_is

MAX_BYTES = 64 * 2**20
FASTCHAT = (
    "https://raw.githubusercontent.com/lm-sys/FastChat/0e6d3e4beaab66f4d3f93db72541a4abab8af28d/fastchat/llm_judge/data"
)
PUBLISHED_CODE = (
    "https://raw.githubusercontent.com/rui-ye/FedLLM-Bench/"
    "02cc26868c288165f82306b51d8d1afff76a2688/evaluation/open_ended"
)
SPACE = "https://huggingface.co/spaces/lmsys/mt-bench/resolve/main/data/mt_bench/model_answer"


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One file. `name` is its path in a mirror and in the cache; without an address only mirrors have it."""

    name: str
    address: str | None
    rows: int
    licence: str
    sha256: str | None = None
    rows_sha256: str | None = None
    columns: tuple[str, ...] = ()  # that every row has


def _fastchat(name: str, path: str, rows: int, sha256: str) -> Asset:
    return Asset(name=name, address=f"{FASTCHAT}/{path}", rows=rows, licence="Apache-2.0", sha256=sha256)


def _answers(model: str, rows_sha256: str) -> Asset:
    address = f"{SPACE}/{model}.jsonl"
    name = f"mt_bench/model_answer/{model}.jsonl"
    return Asset(name=name, address=address, rows=80, licence="Apache-2.0", rows_sha256=rows_sha256)


def _reference(name: str, path: str, rows: int, rows_sha256: str) -> Asset:
    address = f"{PUBLISHED_CODE}/{path}"
    return Asset(name=name, address=address, rows=rows, licence="CC-BY-NC-4.0", rows_sha256=rows_sha256)


def _votes(part: str, rows: int, rows_sha256: str) -> Asset:
    # Public only as parquet with whole conversations (HF lmsys/mt_bench_human_judgments); mirrors hold the votes.
    name = f"mt_bench/{part}_labels.jsonl"
    return Asset(name=name, address=None, rows=rows, licence="CC-BY-4.0", rows_sha256=rows_sha256)


_ALL = (
    _fastchat(
        "mt_bench/question.jsonl",
        "mt_bench/question.jsonl",
        80,
        "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
    ),
    _fastchat(
        "mt_bench/reference_answer_gpt-4.jsonl",
        "mt_bench/reference_answer/gpt-4.jsonl",
        30,
        "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
    ),
    _fastchat(
        "mt_bench/judge_prompts.jsonl",
        "judge_prompts.jsonl",
        8,
        "fd283293406d024f44c174b094ef48031d0687a4682fd3a56b29b138f80281b6",
    ),
    _fastchat(
        "vicuna_bench/question.jsonl",
        "vicuna_bench/question.jsonl",
        80,
        "c248c5c98ba45bb0c2aadae2f270e643bd32679c6c306a3b2a503ac4254cdaa5",
    ),
    Asset(
        name="advbench/harmful_behaviors.csv",
        address="https://raw.githubusercontent.com/llm-attacks/llm-attacks/main/data/advbench/harmful_behaviors.csv",
        rows=520,
        licence="MIT",
        rows_sha256="6a0e6b7f09d8431196e3740775d96384bcbf5d76a20e3d44a9e92b68c2576e0e",
    ),
    Asset(  # no copy was at hand to pin it by
        name="alpaca_eval/alpaca_eval.json",
        address="https://huggingface.co/datasets/tatsu-lab/alpaca_eval/resolve/main/alpaca_eval.json",
        rows=805,
        licence="CC-BY-NC-4.0",
        columns=("instruction", "dataset"),
    ),
    _votes("human", 3355, "8343705f595fe0a028bd134703fc15bae48a8669fd2b4a478de165b093e7a539"),
    _votes("gpt4_pair", 2400, "e9df4a69e94cc3f2eac0e70b23001ded04e9358a4369f7d9ae1461b94707f0d5"),
    _answers("alpaca-13b", "b6770343b819132491e03d960c12c79cf25a0434bca3040d47464b6a6db0f38e"),
    _answers("claude-v1", "90db00888a29f01958fc7da126df48d79718be2e93bd22a1a7dde93df99c805e"),
    _answers("gpt-3.5-turbo", "489fda8ff7382dd2bcab3c8a6670228126ee356963f1b4c6e6c0ff3c57371219"),
    _answers("gpt-4", "7d34bd53e398dd2d5932fb210631dcf046630c76431d2695178683b58fd8bf94"),
    _answers("llama-13b", "b02bd501ff31da52b773ce65f03f6d646aada5519e8b6b86fe63dc02ad90e207"),
    _answers("vicuna-13b-v1.2", "4b2e4fdb9339df6068a58b441b78c456a8208fb081901bedacd3920b9960bf9b"),
    _reference(
        "ref_gpt4/aya.json",
        "aya_evaluation/test_datasets.json",
        160,
        "2142be798f87486aa84efef07109f168aad6fdf3bf0cb9df52aa10fee960e56d",
    ),
    _reference(
        "ref_gpt4/chatbot.json",
        "data/chatbot/testset.json",
        50,
        "f8e60b6b2314fc6a4029fe19cc243886e80e2f67fdac8ad2ab559ac034cf3304",
    ),
    _reference(
        "ref_gpt4/wildchat.json",
        "data/wildchat/testset.json",
        50,
        "3d0e246918029beb5a6e3d0a07edd5c011f685df3b4cfe49183870f3a26c34a3",
    ),
)
ASSETS: dict[str, Asset] = {asset.name: asset for asset in _ALL}


def fetch(name: str) -> Path:
    """The file of an asset, from the cache, $FEDLLM_BENCH_MIRROR or its public address; checked each time.

    Raises :class:`UserError` for an unknown name, and where no place has the pinned content.
    """
    if name not in ASSETS:
        raise unknown("asset", name, ASSETS)
    asset = ASSETS[name]
    target, check = path_of(asset), check_of(asset)
    if cached(asset):
        return target
    mirror = os.environ.get("FEDLLM_BENCH_MIRROR")
    addresses = [*([join(mirror, name)] if mirror else []), *([asset.address] if asset.address else [])]
    tried = []
    for address in addresses:
        try:
            return download(address, target, check, max_bytes=MAX_BYTES)
        except Unreachable as error:
            tried.append(str(error))
    where = "; ".join(tried) or "it has no public address in this form"
    raise UserError(f"cannot fetch {name}: {where}. Set FEDLLM_BENCH_MIRROR to a folder or URL that has {name}")


def path_of(asset: Asset) -> Path:
    return cache_root() / "assets" / asset.name


def cached(asset: Asset) -> bool:
    """Whether the cache has the asset as it was pinned; a file that was changed does not count."""
    path = path_of(asset)
    if not path.is_file():
        return False
    try:
        check_of(asset)(path)
    except UserError:
        return False
    return True


def check_of(asset: Asset) -> Check:
    if asset.sha256:
        return sha256_is(asset.sha256)
    return functools.partial(_check_rows, asset)


def _check_rows(asset: Asset, path: Path) -> None:
    try:
        rows = READERS[Path(asset.name).suffix](path.read_text(encoding="utf-8-sig"))
        got = rows_sha256(rows)
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"not readable as {asset.name} ({first_line(error)})") from error
    if len(rows) != asset.rows or got != (asset.rows_sha256 or got):
        pinned = f" with {asset.rows_sha256[:16]}" if asset.rows_sha256 else ""
        raise UserError(f"{len(rows)} rows with hash {got[:16]}, not {asset.rows}{pinned}")
    for row in rows:
        if missing := [
            name for name in asset.columns if not isinstance(row, dict) or not isinstance(row.get(name), str)
        ]:
            raise UserError(f"a row of {asset.name} has no text under {', '.join(map(repr, missing))}")


def rows_sha256(rows: Iterable[Any]) -> str:
    """The hash of rows whatever their order and spelling."""
    digest = hashlib.sha256()
    for line in sorted(canonical_json(row) for row in rows):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _jsonl(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _json(text: str) -> list[Any]:
    """The items of a list, or of an object of lists with the key beside each."""
    value = json.loads(text)
    if isinstance(value, dict):
        return [[key, item] for key, items in value.items() for item in items]
    if not isinstance(value, list):
        raise ValueError(f"a JSON {type(value).__name__}, not a list")
    return value


def _csv(text: str) -> list[Any]:
    return list(csv.DictReader(io.StringIO(text)))


READERS: dict[str, Callable[[str], list[Any]]] = {".jsonl": _jsonl, ".json": _json, ".csv": _csv}
