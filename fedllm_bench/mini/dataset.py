"""The mini world as a client split: raw rows in upstream columns, through the same pipeline as real rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.cache import cached
from fedllm_bench.data.build.pipelines import load_pipeline
from fedllm_bench.data.manifest import Split, open_split
from fedllm_bench.mini.chats import wildchat_multi_rows, wildchat_rows
from fedllm_bench.mini.lexicon import lexicon
from fedllm_bench.mini.probes import PROBES
from fedllm_bench.mini.raw import RawRow, probe
from fedllm_bench.mini.tables import ROWS, build_table
from fedllm_bench.mini.tables import VERSION as TABLES_VERSION
from fedllm_bench.mini.users import Answered, Population, make_rows
from fedllm_bench.mini.votes import arena_rows

VERSION = 2  # raise it when equal seeds give other rows
MIN_SAMPLES = 16  # users below the cut have fewer than 12 rows, those above at least 20
# Three in four conversations have several turns: at most 9 of those below the cut, at least 15 of those above.
MIN_SAMPLES_MULTI = 12


def aya_row(row: Answered) -> dict[str, str]:
    """One row in the columns of CohereForAI/aya_dataset."""
    language = lexicon().languages[row.item.language]
    return {
        "inputs": row.item.prompt,
        "targets": row.item.completion,
        "language": language.name,
        "language_code": language.code,
        "annotation_type": "original-annotations",
        "user_id": row.user_id,
        "source": f"mini:{row.item.task}",
    }


def write_raw(folder: Path, rows: Sequence[RawRow]) -> None:
    """Raw files train.jsonl and test.jsonl, by whose names the pipelines know the upstream's two splits."""
    for split in ("train", "test"):
        files.write_jsonl(folder / f"{split}.jsonl", [row.columns for row in rows if row.split == split])


def aya_rows(population: Population) -> list[RawRow]:
    """All raw rows, with probes of the held-out ones."""
    return [RawRow(row.split, aya_row(row), _aya_probe(row)) for row in make_rows(population)]


def _aya_probe(row: Answered) -> dict[str, Any] | None:
    item = row.item
    turns = (item.prompt, item.completion)
    return probe(row.user_id, turns, item.task, row.holder, item.choices) if row.split == "test" else None


def probes(rows: Sequence[RawRow], without: str) -> bytes:
    """What the world knows of each held-out question, as JSON lines; rows are named by their text."""
    known = [row.probe for row in rows if row.probe is not None and row.probe["task"] != without]
    return "".join(files.canonical_json(record) + "\n" for record in known).encode()


@dataclass(frozen=True)
class Variant:
    """How the mini world becomes one of the data sets. No question of the task `unprobed` has a probe."""

    dataset: str
    rows: Callable[[Population], list[RawRow]]
    min_samples: int = MIN_SAMPLES
    unprobed: str = ""

    def __call__(self, population: Population, out: Path) -> Split:
        """Generate the raw rows of `population` and build their split in `out`."""
        rows = self.rows(population)
        with tempfile.TemporaryDirectory() as raw:
            write_raw(Path(raw), rows)
            return self.build(Path(raw), population, out, probes(rows, self.unprobed))

    def build(self, raw: Path, population: Population, out: Path, known: bytes) -> Split:
        """The split of raw rows that were written before."""
        pipeline = load_pipeline(self.dataset)
        recipe = replace(pipeline.DECLARATION.recipe, min_samples=self.min_samples, heldout="upstream", leakage="exact")
        declaration = replace(
            pipeline.DECLARATION,
            upstream=f"the mini world {files.canonical_json(asdict(population))}",
            licence="Apache-2.0 (generated)",
            version=f"mini-{VERSION}",
        )
        name = f"mini-{self.dataset}"
        split: Split = pipeline.build(raw, out, recipe, name, declaration=declaration, extra_files={PROBES: known})
        return split


def mini_split(dataset: str, world_seed: int, cache: Path, variant: str = "paper") -> Split:
    """The embedded split of a dataset, built into the cache when it is not there yet.

    `variant` "released" is another split for the training sets whose authors released one.
    """
    builder = BUILDERS[dataset] if dataset in BUILDERS else partial(build_table, dataset, variant=variant)
    population = Population(seed=world_seed)
    named: dict[str, Any] = {"version": VERSION, "population": asdict(population)}
    if dataset in ROWS:
        named |= {"tables": TABLES_VERSION, "recipe": load_pipeline(dataset, variant=variant).DECLARATION.version}
        named |= {"variant": variant} if variant == "released" else {}
    key = files.sha256_json(named)[:10]
    return cached(
        cache / "splits",
        f"mini-{dataset}-w{world_seed}-{key}",
        make=lambda folder: builder(population, folder),
        read=lambda folder: open_split(folder) if (folder / "manifest.json").is_file() else None,
    )


build_mini_aya = Variant("aya", aya_rows)
BUILDERS = {
    "aya": build_mini_aya,
    # To a harmful request there is no right answer, and two candidates, not four: in no share of right ones.
    "chatbot_it": Variant("chatbot_it", arena_rows, unprobed="harmful"),
    "chatbot_pa": Variant("chatbot_pa", arena_rows),
    "wildchat": Variant("wildchat", wildchat_rows),
    "wildchat_multi": Variant("wildchat_multi", wildchat_multi_rows, MIN_SAMPLES_MULTI),
}
