"""Prompts of evaluation sets, and the rows in which they stand: those must not be trained on."""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedllm_bench.errors import UserError
from fedllm_bench.files import sha256_json

from .recipe import Sample

KEY_WORDS = 3  # a prompt of fewer words ("Write a poem") must be a whole turn, else half of all rows would go
ENDINGS = (".jsonl", ".csv")


def normal(text: str) -> tuple[str, ...]:
    """The words of a text, without case, punctuation and spacing."""
    return tuple(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


@dataclass(frozen=True)
class EvaluationPrompts:
    """`prompts` are sorted, unique and in words."""

    prompts: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, texts: Iterable[str]) -> EvaluationPrompts:
        return cls(tuple(sorted({words for text in texts if (words := normal(text))})))

    @cached_property
    def by_start(self) -> Mapping[tuple[str, ...], list[tuple[str, ...]]]:
        found = defaultdict(list)
        for prompt in self.prompts:
            found[prompt[:KEY_WORDS]].append(prompt)
        return dict(found)

    @property
    def record(self) -> dict[str, object]:
        """How the manifest names them."""
        return {"prompts": len(self.prompts), "sha256": sha256_json([list(prompt) for prompt in self.prompts])}

    @property
    def reason(self) -> str:
        return f"holds one of {len(self.prompts)} evaluation prompts (sha256 {str(self.record['sha256'])[:16]})"

    def without(self, samples: Sequence[Sample]) -> list[Sample]:
        return [sample for sample in samples if not self.stand_in(sample)]

    def stand_in(self, sample: Sample) -> bool:
        """Whether any turn or answer holds a prompt, word for word."""
        return any(map(self._stand_in_text, (*(content for _, content in sample.turns), *sample.answers)))

    def _stand_in_text(self, text: str) -> bool:
        words = normal(text)
        if len(words) < KEY_WORDS:
            return words in self.by_start
        starts = ((i, words[i : i + KEY_WORDS]) for i in range(len(words) - KEY_WORDS + 1))
        hits = ((i, prompt) for i, start in starts for prompt in self.by_start.get(start, ()))
        return any(words[i : i + len(prompt)] == prompt for i, prompt in hits)


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file or a folder: JSON lines with `turns` or `prompt`, csv with `goal`."""
    if not path.exists():
        raise UserError(f"no evaluation prompts at {path}: no such file or folder")
    files = sorted(file for file in path.rglob("*") if file.suffix in ENDINGS) if path.is_dir() else [path]
    prompts = [prompt for file in files for prompt in _prompts_of(file)]
    if not prompts:
        raise UserError(f"no evaluation prompts in {path}: JSON lines with 'turns' or 'prompt', or csv with 'goal'")
    return prompts


def _prompts_of(file: Path) -> Iterator[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".csv":
            records: list[object] = list(csv.DictReader(text.splitlines(keepends=True)))
        else:
            records = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"cannot read evaluation prompts in {file}: {str(error).splitlines()[0]}") from error
    for record in records:
        yield from _prompts_in(record)


def _prompts_in(record: object) -> list[str]:
    """A record without prompts has none: folders of evaluation assets hold answers and votes as well."""
    if not isinstance(record, dict):
        return []
    turns = record.get("turns")
    found = turns if isinstance(turns, list) else [record.get("prompt"), record.get("goal")]
    return [text for text in found if isinstance(text, str)]
