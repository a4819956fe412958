"""What the sections of one report share: rows, the sample for models, and what is computed once for several."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fedllm_bench.common.files import sha256_json
from fedllm_bench.data.lengths import token_counter
from fedllm_bench.data.manifest import Split
from fedllm_bench.diversity.embedding.cache import default_cache
from fedllm_bench.diversity.language import language_section
from fedllm_bench.diversity.length import length_section
from fedllm_bench.diversity.preference import preference_section
from fedllm_bench.diversity.quality.duplicates import find_duplicates
from fedllm_bench.diversity.quality.ifd import Difficulty, difficulties
from fedllm_bench.diversity.quality.quality import quality_section
from fedllm_bench.diversity.quality.quality_model import QualityModel, open_reader, quality_model
from fedllm_bench.diversity.quantity import quantity_section
from fedllm_bench.diversity.rows import DiversityRow, read_rows
from fedllm_bench.diversity.section import Section, by_client
from fedllm_bench.diversity.settings import NO_MODEL, DiversitySettings

if TYPE_CHECKING:
    from fedllm_bench.diversity.embedding.embedding import Arrays

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DiversityInputs:
    """A split and what its report is computed with. What costs time is computed when it is first asked for."""

    split: Split
    settings: DiversitySettings

    @cached_property
    def rows(self) -> list[DiversityRow]:
        return read_rows(self.split)

    @cached_property
    def sample(self) -> list[DiversityRow]:
        """The rows that models read: all, or about `max_rows` of them."""
        return sample_rows(self.rows, self.settings.max_rows, self.settings.seed)

    @cached_property
    def quality_model(self) -> QualityModel | None:
        if self.settings.quality_model == NO_MODEL:
            return None
        return quality_model(self.split, self.settings.quality_model, self.settings.device)

    @cached_property
    def embedded(self) -> tuple[dict[str, Any], Arrays]:
        from fedllm_bench.diversity.embedding.embedding import embedding_section

        return embedding_section(self.sample, self.settings)


def quantity(work: DiversityInputs) -> Section:
    return quantity_section(work.rows)


def length(work: DiversityInputs) -> Section:
    return length_section(work.rows, token_counter(work.settings.tokenizer))


def language(work: DiversityInputs) -> Section:
    return language_section(work.rows)


def preference(work: DiversityInputs) -> Section:
    return preference_section(work.rows)


def quality(work: DiversityInputs) -> Section:
    chosen = work.quality_model
    found: list[Difficulty | None] = []
    if chosen is not None:
        if chosen.note:
            log.warning("quality: IFD by %s; name a base model with --quality-model", chosen.note)
        reader = open_reader(chosen, work.settings.device)
        found = difficulties(work.sample, reader, default_cache())
    measured = quality_section(work.rows, find_duplicates(work.rows), work.sample if chosen else [], found)
    about = {"model": chosen.name if chosen else None, "note": chosen.note if chosen else ""}
    section = {**about, **measured.section}
    if chosen is not None:
        section["computed_on"]["what"] = f"IFD by {chosen.note or chosen.name}; duplicates over {len(work.rows):,} rows"
    return Section(section=section, clients=measured.clients)


LEAST = 2  # rows that stay of each client: fewer have no unbiased distance


def sample_rows(rows: Sequence[DiversityRow], most: int | None, seed: int) -> list[DiversityRow]:
    """About `most` rows, as large a share of each client, but at least LEAST of it; all where `most` is None or more.

    A row stays when the hash of (seed, client, row id) is low, so the sample does not follow the order of rows.
    """
    if most is None or len(rows) <= most:
        return list(rows)
    kept: list[DiversityRow] = []
    for own in by_client(rows).values():
        count = max(min(LEAST, len(own)), math.floor(len(own) * most / len(rows)))
        ranked = sorted(own, key=lambda row: sha256_json([seed, "diversity", row.client, row.row_id]))
        kept += sorted(ranked[:count], key=lambda row: row.row_id)
    return kept


def embedding(work: DiversityInputs) -> Section:
    section, arrays = work.embedded
    labels, distances = section["clusters"]["labels"], arrays.distance_to_rest.tolist()
    clients = {
        client: {"cluster": label, "distance_to_rest": distance}
        for client, label, distance in zip(arrays.clients, labels, distances, strict=True)
    }
    return Section(section=section, clients=clients)


def instruction(work: DiversityInputs) -> Section:
    from fedllm_bench.diversity.instruction.instruction import instruction_section

    _, arrays = work.embedded
    section = dict(instruction_section(work.sample, arrays.vectors, work.settings))
    return Section(section=section, clients=section.pop("clients", {}))


def about_encoder(work: DiversityInputs) -> dict[str, Any]:
    _, arrays = work.embedded
    return dict(arrays.encoder)
