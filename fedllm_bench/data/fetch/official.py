"""The published zip of all five sets, turned into ordinary client splits (training rows only)."""

from __future__ import annotations

import json
import os
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedllm_bench.common.archive import check_zip, files_of, open_zip, read_entry
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import cache_root, read_json, sha256_file, sha256_json, write_json
from fedllm_bench.data.fetch.download import Unreachable, download, join
from fedllm_bench.data.fetch.drive import from_drive
from fedllm_bench.data.json_stream import is_unicode, users
from fedllm_bench.data.manifest import FunnelStep, Split, SplitInfo, Upstream, UpstreamFile, check_target, write_split
from fedllm_bench.data.published import ADDRESS, LICENCE, ORDER_FILE, ROOT, ZIP_NAME, Published, differences, published
from fedllm_bench.data.rows import PreferenceRow, SftRow, Turn

VERSION = "official-1"
ROLES = {"human": "user", "gpt": "assistant"}
LANGUAGES = {
    "standard arabic": "arb", "english": "eng", "spanish": "spa", "french": "fra",
    "portuguese": "por", "russian": "rus", "telugu": "tel", "simplified chinese": "zho",
}  # fmt: skip
REASONS = {
    "empty": "a text is empty",
    "broken": "a text holds half a surrogate pair",
    "turns": "not user and assistant in turn, ending with the assistant",
}
Row = SftRow | PreferenceRow


@dataclass
class Converted:
    """The rows of one published file, the sizes in its order, and what was left out."""

    rows: list[Any] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)


def get_official(dataset: str, out: Path, zip_file: Path | None = None) -> tuple[Split, list[str]]:
    """The published split of a dataset in `out`, and what is to be said about it, one line each.

    Without `zip_file` the zip is taken from the cache, else fetched. Differences from the published
    numbers are named, not refused. Raises :class:`UserError` for anything that is not the published format.
    """
    name, facts = published(dataset)
    check_target(out)
    path = zip_file if zip_file else fetch_zip()
    if not path.is_file():
        raise UserError(f"no zip at {path}; --zip takes the published {ZIP_NAME}")
    sha = sha256_file(path)
    member, converted = convert(path, facts)
    notes = [_record(sha, path.stat().st_size)]  # not before: what is refused is not remembered
    different = differences(facts, list(converted.sizes.values()))
    notes += [f"differs from the published {facts.title}: {line}" for line in different]
    if not different:
        notes.append(f"clients and samples are as published for {facts.title}")
    notes += [f"{count} samples left out: {REASONS[key]}" for key, count in sorted(converted.dropped.items())]
    file = UpstreamFile(name=ZIP_NAME, sha256=sha, rows=sum(converted.sizes.values()))
    info = _info(name, facts, file, converted, member, tuple(notes[1:]))
    order = json.dumps(list(converted.sizes), ensure_ascii=False, indent=0) + "\n"
    split = write_split(out, info, {"train": converted.rows}, extra_files={ORDER_FILE: order.encode()})
    return split, notes


def fetch_zip() -> Path:
    """The published zip in the cache, fetched (from $FEDLLM_BENCH_MIRROR first) when it is not there."""
    target = cache_root() / "official" / ZIP_NAME
    if target.is_file():
        return target
    mirror = os.environ.get("FEDLLM_BENCH_MIRROR")
    tried = []
    if mirror:
        try:
            return download(join(mirror, ZIP_NAME), target, check_zip)
        except Unreachable as error:
            tried.append(str(error))
    try:
        return from_drive(ADDRESS, target, check_zip)
    except Unreachable as error:
        tried.append(str(error))
    raise UserError(
        f"the published zip cannot be fetched: {'; '.join(tried)}. Give --zip FILE with a copy of it, --from a mirror "
        f"of the split, FEDLLM_BENCH_MIRROR with a folder or URL that has {ZIP_NAME}, or build from upstream rows"
    )


def _record(sha: str, size: int) -> str:
    """Keep the sha256 of the first zip that was seen here, and say how this one compares: none was published."""
    path = cache_root() / "official" / "zip_sha256.json"
    try:
        first = str(read_json(path)["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"sha256": sha, "bytes": size})
        return f"zip sha256 {sha} ({size} bytes); no hash was published, so this first one is recorded"
    if first != sha:
        return f"zip sha256 {sha} ({size} bytes) DIFFERS from the first one seen here, {first}"
    return f"zip sha256 {sha} ({size} bytes), the same as recorded"


def convert(path: Path, facts: Published) -> tuple[str, Converted]:
    """The name of the set's file in the zip, and its rows."""
    result = Converted()
    with open_zip(path) as archive:
        member = find_file(files_of(archive), facts.path, path)
        where = f"{path}: {member}"
        for user, samples in users(read_entry(archive, member), where):
            _add_user(result, user, samples, facts, where)
    if not result.rows:
        raise UserError(f"{where}: no sample is left; left out: {dict(result.dropped)}")
    return member, result


def find_file(names: Iterable[str], wanted: str, path: Path) -> str:
    """The entry that is the published file, with or without the root folder and a doubled ending."""
    found = [name for name in names if _plain(name) == wanted]
    if not found:
        raise UserError(f"{path} holds no {wanted}; is it the published {ZIP_NAME}?")
    if len(found) > 1:
        raise UserError(f"{path} holds {wanted} twice, as {found[0]!r} and {found[1]!r}")
    return found[0]


def _plain(name: str) -> str:
    name = name.removeprefix("./").removeprefix(ROOT)
    return name.removesuffix(".json") if name.endswith(".json.json") else name


def _add_user(result: Converted, user: str, samples: Iterable[Any], facts: Published, where: str) -> None:
    seen: Counter[str] = Counter()
    count = 0
    for sample in samples:
        count += 1
        content = CONTENTS[facts.kind](sample, f"{where}: sample {count} of user {user!r}")
        language = _language(sample.get("language"))
        if problem := _problem(content):
            result.dropped[problem] += 1
            continue
        key = sha256_json([user, content, language])
        row_id = sha256_json([key, seen[key]])[:16]  # the published sets repeat some samples: each keeps an id
        seen[key] += 1
        result.rows.append(_row(user, row_id, language, facts, content))
    result.sizes[user] = count


def _sft(sample: dict[str, Any], where: str) -> dict[str, Any]:
    prompt, answer = (_text(sample, key, where) for key in ("instruction", "response"))
    return {"messages": [_turn("user", prompt), _turn("assistant", answer)]}


def _chat(sample: dict[str, Any], where: str) -> dict[str, Any]:
    turns = sample.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise UserError(f"{where} has no list 'conversations' of turns")
    roles = [turn.get("from") for turn in turns]
    if unknown := [role for role in roles if not isinstance(role, str) or role not in ROLES]:
        raise UserError(f"{where}: a turn is from {ascii(unknown[0])[:40]}, not 'human' or 'gpt'")
    texts = [_text(turn, "value", where) for turn in turns]
    return {"messages": [_turn(ROLES[str(role)], text) for role, text in zip(roles, texts, strict=True)]}


def _preference(sample: dict[str, Any], where: str) -> dict[str, Any]:
    prompt, chosen, rejected = (_text(sample, key, where) for key in ("prompt", "chosen", "rejected"))
    return {"prompt": [_turn("user", prompt)], "chosen": chosen, "rejected": rejected}


CONTENTS = {"sft": _sft, "chat": _chat, "preference": _preference}


def _turn(role: str, text: str) -> Turn:
    return {"role": role, "content": text}


def _text(sample: dict[str, Any], key: str, where: str) -> str:
    if key not in sample:
        raise UserError(f"{where} has no {key!r}; it has {ascii(sorted(sample)[:8])[:100]}")
    value = sample[key]
    if value is not None and not isinstance(value, str):  # a null is an empty text
        raise UserError(f"{where}: {key!r} is {type(value).__name__}, not text")
    return value or ""


def _problem(content: dict[str, Any]) -> str:
    turns = content.get("messages") or content["prompt"]
    texts = [turn["content"] for turn in turns] + [content[key] for key in ("chosen", "rejected") if key in content]
    if not all(text.strip() for text in texts):
        return "empty"
    if not all(map(is_unicode, texts)):
        return "broken"
    roles = [turn["role"] for turn in content.get("messages", ())]
    ordered = len(roles) % 2 == 0 and roles == ["user", "assistant"] * (len(roles) // 2)
    return "" if ordered and (roles or "prompt" in content) else "turns"


def _language(value: Any) -> str:
    return LANGUAGES.get(value.replace("_", " ").strip().lower(), "und") if isinstance(value, str) else "und"


def _row(user: str, row_id: str, language: str, facts: Published, content: dict[str, Any]) -> Row:
    common: dict[str, Any] = {"client_id": user, "split": "train", "row_id": row_id}
    common |= {"language": language, "source": facts.title}
    if facts.kind == "preference":
        return PreferenceRow(**common, **{**content, "prompt": tuple(content["prompt"])})
    return SftRow(**common, messages=tuple(content["messages"]))


def _info(
    name: str, facts: Published, file: UpstreamFile, converted: Converted, member: str, notes: tuple[str, ...]
) -> SplitInfo:
    sizes = list(converted.sizes.values())
    recipe = {
        "heldout": 0.0,
        "file": member,
        "published": {"clients": facts.clients, "samples": facts.samples, "mean": facts.mean, "std": facts.std},
        "in_the_zip": {
            "clients": len(sizes),
            "samples": sum(sizes),
            "mean": round(statistics.fmean(sizes), 2),
            "std": round(statistics.pstdev(sizes), 2),
        },
    }
    return SplitInfo(
        name=f"{name}-official",
        dataset=name,
        task="preference" if facts.kind == "preference" else "sft",
        version=VERSION,
        upstream=Upstream(id=f"rui-ye/FedLLM-Bench {facts.title}, from {facts.upstream}", revision=None, files=(file,)),
        licence=LICENCE + facts.licence,
        recipe=recipe,
        funnel=_funnel(converted),
        notes=notes,
    )


def _funnel(converted: Converted) -> tuple[FunnelStep, ...]:
    left, clients = sum(converted.sizes.values()), len({row.client_id for row in converted.rows})
    all_clients = len(converted.sizes)
    steps = [FunnelStep(step="raw", rows_removed=0, rows_left=left, clients_left=all_clients, reason="samples read")]
    for number, (key, reason) in enumerate(REASONS.items(), start=1):
        removed = converted.dropped[key]
        left -= removed
        # clients who lost all samples are counted out by the last step
        now = clients if number == len(REASONS) else all_clients
        steps.append(FunnelStep(step=key, rows_removed=removed, rows_left=left, clients_left=now, reason=reason))
    return tuple(steps)
