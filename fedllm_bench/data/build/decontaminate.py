"""Prompts of evaluation sets, and the rows in which they stand: those must not be trained on.

Some items of the published Aya evaluation seem to come from Aya's own training rows.
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.files import RepeatedKey, sha256_json, unique_keys
from fedllm_bench.data.build.bad_rows import BadRow
from fedllm_bench.data.build.cells import Unclear, opened
from fedllm_bench.data.build.columns import Columns, check_names
from fedllm_bench.data.build.raw_files import ENDINGS, ending, open_raw, refuse_foreign
from fedllm_bench.data.build.readers import read_file
from fedllm_bench.data.build.sample import Sample
from fedllm_bench.data.fetch.assets import fetch
from fedllm_bench.data.words import normal

KEY_WORDS = 3  # a prompt of fewer words ("Write a poem") must be a whole turn, else half of all rows would go
TURNS, KEYS = "turns", ("prompt", "instruction", "goal")
COLUMNS = Columns({}, dict.fromkeys((TURNS, *KEYS), object))
# The sets that the suite evaluates on: name -> assets.
SETS: dict[str, tuple[str, ...]] = {
    "mt_bench": ("mt_bench/question.jsonl",),
    "vicuna_bench": ("vicuna_bench/question.jsonl",),
    "advbench": ("advbench/harmful_behaviors.csv",),
    "ref_gpt4": ("ref_gpt4/aya.json", "ref_gpt4/chatbot.json", "ref_gpt4/wildchat.json"),
}
KINDS = f"records with 'turns', 'prompt', 'instruction' or 'goal' in {', '.join(ENDINGS)}"
NOT_REMOVED = "decontaminate: off; rows may hold prompts of evaluation sets"


@dataclass(frozen=True)
class EvaluationPrompts:
    """`prompts` are sorted, unique and in words; without any, nothing is removed and the split says so."""

    prompts: tuple[tuple[str, ...], ...] = ()
    sets: tuple[str, ...] = ()  # of the suite

    @classmethod
    def of(cls, texts: Iterable[str], sets: Iterable[str] = ()) -> EvaluationPrompts:
        return cls(tuple(sorted({words for text in texts if (words := normal(text))})), tuple(sets))

    @cached_property
    def by_start(self) -> Mapping[tuple[str, ...], list[tuple[str, ...]]]:
        found = defaultdict(list)
        for prompt in self.prompts:
            found[prompt[:KEY_WORDS]].append(prompt)
        return dict(found)

    @property
    def sha256(self) -> str:
        return sha256_json([list(prompt) for prompt in self.prompts])

    @property
    def record(self) -> object:
        """How the manifest names them."""
        if not self.prompts:
            return "off"
        sets = {"sets": list(self.sets)} if self.sets else {}
        return {"prompts": len(self.prompts), "sha256": self.sha256, **sets}

    @property
    def reason(self) -> str:
        named = f" of {', '.join(self.sets)}" if self.sets else ""
        return f"holds one of {len(self.prompts)} evaluation prompts{named} (sha256 {self.sha256[:16]})"

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


def evaluation_prompts(how: str) -> EvaluationPrompts:
    """What `--decontaminate` means: "on" (the suite's own sets, fetched as assets), "off", or a file or folder.

    Raises a :class:`UserError` for a set that cannot be fetched, and for a file without prompts.
    """
    if how == "off":
        return EvaluationPrompts()
    if how != "on":
        return EvaluationPrompts.of(read_prompts(Path(how)))
    try:
        files = [fetch(name) for names in SETS.values() for name in names]
    except UserError as error:
        raise UserError(f"{error}, give --decontaminate a file or folder of prompts, or --decontaminate off") from error
    return EvaluationPrompts.of((prompt for file in files for prompt in read_prompts(file)), SETS)


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file or a folder: records with `turns`, `prompt`, `instruction` or `goal`.

    The formats are those of raw rows, but that a .json file is one list of records, or an object of such lists.
    """
    if not path.exists():
        raise UserError(f"no evaluation prompts at {path}: no such file or folder")
    files = sorted(file for file in path.rglob("*") if ending(file) in ENDINGS) if path.is_dir() else [path]
    prompts = [prompt for file in files for prompt in _prompts_of(file)]
    if not any(map(normal, prompts)):
        raise UserError(f"no evaluation prompts in {path}: {KINDS}")
    return prompts


def _prompts_of(file: Path) -> Iterator[str]:
    """What cannot be read is refused: rows with prompts that were passed over would be trained on."""
    try:
        if ending(file) not in ENDINGS:
            raise UserError(f"{file}: its name must end in {', '.join(ENDINGS)}, each also with .gz")
        for record in _document(file) if ending(file) == ".json" else _rows(file):
            yield from _prompts_in(str(file), record)
    except UserError as error:
        raise UserError(f"cannot read evaluation prompts: {error}") from error


def _rows(file: Path) -> Iterator[Mapping[str, object]]:
    return (record.values for record in read_file(file, file.name, COLUMNS, _stop))


def _stop(path: str, _: str, bad: BadRow) -> None:
    raise UserError(f"{path}, {bad}") from bad


def _document(file: Path) -> Iterator[Mapping[str, object]]:
    """A record that is no object has no prompts: folders of evaluation assets hold answers and votes as well."""
    try:
        refuse_foreign(file)
        with open_raw(file) as raw:
            value = json.loads(raw.read().decode("utf-8-sig"), object_pairs_hook=unique_keys)
    except UserError:
        raise
    except RepeatedKey as error:
        raise UserError(f"{file} has {error} in one object; rename or remove one") from error
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise UserError(f"{file} is not one JSON value: {first_line(error)}; name JSON lines .jsonl") from error
    for record in _items(value):
        if isinstance(record, dict):
            check_names(str(file), tuple(record), COLUMNS)
            yield record


def _items(value: object) -> list[object]:
    """The items of a list, or of all lists of an object: one for each language, for instance."""
    if isinstance(value, dict):
        return [item for items in value.values() if isinstance(items, list) for item in items]
    return value if isinstance(value, list) else []


def _prompts_in(where: str, record: Mapping[str, object]) -> list[str]:
    """The texts of one record; a :class:`UserError` where one is no text."""
    turns = _turns(where, record.get(TURNS))
    found = turns if isinstance(turns, list) else [record.get(key) for key in KEYS]
    texts = [text for text in found if isinstance(text, str)]
    if wrong := [text for text in found if not isinstance(text, str | None)]:
        raise UserError(f"{where}: a prompt is {type(wrong[0]).__name__}, not text; give each prompt or turn as text")
    return texts


def _turns(where: str, value: object) -> object:
    """The turns of a record; in csv they are JSON, or what `str` makes of a list."""
    try:
        return opened(value) if isinstance(value, str) else value
    except Unclear as error:
        raise UserError(
            f"{where}: 'turns' is no list of texts: it holds {error}; call a single text 'prompt'"
        ) from error
