"""The section of embeddings: what it holds, and one-language clients found with a real encoder."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_model import encoder_folder
from sklearn.metrics import adjusted_rand_score

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.manifest import Split
from fedllm_bench.diversity.embedding import encoder, settings
from fedllm_bench.diversity.embedding.embedding import Arrays, distance_to_rest, embedding_section
from fedllm_bench.diversity.rows import DiversityRow, read_rows
from fedllm_bench.mini.dataset import build_mini_aya
from fedllm_bench.mini.users import Population

Found = tuple[dict[str, Any], Arrays]


@dataclass(frozen=True)
class Settings:
    embedder: str | None = "lsa"
    permutations: int = 19
    seed: int = 0
    device: str = "cpu"


@pytest.fixture(scope="module")
def rows(tiny_split: Split) -> list[DiversityRow]:
    return read_rows(tiny_split)[::6]


@pytest.fixture(scope="module")
def found(rows: list[DiversityRow]) -> Found:
    return embedding_section(rows, Settings(), topics=["long" if len(row.prompt) > 25 else "short" for row in rows])


def test_the_section_is_json_and_its_parts_agree(rows: list[DiversityRow], found: Found) -> None:
    section, arrays = found
    clients = sorted({row.client for row in rows})
    m = len(clients)
    assert json.dumps(section, allow_nan=False)
    assert section["computed_on"] == {
        "rows": len(rows),
        "clients": m,
        "what": f"prompts embedded by {arrays.encoder['id']}",
    }
    assert arrays.clients == tuple(clients)
    assert sorted(section["order"]) == clients
    assert len(section["clusters"]["labels"]) == m
    assert arrays.vectors.shape == (len(rows), arrays.encoder["dimensions"])
    assert arrays.similarity.shape == arrays.mmd2.shape == (m, m)
    assert arrays.distance_to_rest.tolist() == pytest.approx(
        list(distance_to_rest(rows, arrays.vectors).values()), abs=1e-9
    )
    pairs = arrays.similarity[~np.eye(m, dtype=bool)]
    assert section["similarity"]["least"] == pairs.min() <= section["similarity"]["mean"] <= pairs.max()


def test_the_map_names_client_and_language_of_each_point(rows: list[DiversityRow], found: Found) -> None:
    section, arrays = found
    drawn = section["map"]
    assert len(drawn["pca"]) == len(drawn["tsne"]) == len(drawn["client"]) == len(drawn["language"]) == len(rows)
    assert [arrays.clients[place] for place in drawn["client"]] == [row.client for row in rows]
    assert drawn["language"] == [row.language for row in rows]


def test_both_indexes_say_what_they_were_permuted_in(found: Found) -> None:
    section, _ = found
    assert section["index"]["stratified_by"] == ["source", "language", "topic"]
    assert section["index_unstratified"]["stratified_by"] == []
    assert section["index_unstratified"]["strata"] == 1 < section["index"]["strata"]
    assert section["index"]["permutations"] == 19


def test_the_embedded_world_fetches_no_encoder(rows: list[DiversityRow], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(name: str) -> Path:
        asked.append(name)
        raise UserError("no network")

    monkeypatch.setattr(encoder, "_from_hub", refuse)
    own = rows[:8]
    assert embedding_section(own, Settings(embedder=None, permutations=0))[1].encoder["id"].startswith("lsa")
    assert asked == []
    real = [replace(row, source="a person") for row in own]
    assert embedding_section(real, Settings(embedder=None, permutations=0))[1].encoder["id"].startswith("lsa")
    assert asked == [settings.DEFAULT_MODEL]


def test_with_one_stratum_both_indexes_are_one(rows: list[DiversityRow]) -> None:
    same = [replace(row, source="one", language="eng") for row in rows]
    section, _ = embedding_section(same, Settings())
    index, other = section["index"], section["index_unstratified"]
    assert (index.pop("stratified_by"), other.pop("stratified_by")) == (["source", "language"], [])
    assert index == other
    assert index["value"] is not None


def test_one_client_and_single_rows_have_no_pairs(rows: list[DiversityRow]) -> None:
    own = [row for row in rows if row.client == rows[0].client]
    section, arrays = embedding_section(own, Settings())
    assert json.dumps(section, allow_nan=False)
    assert section["similarity"] == {"mean": None, "least": None, "largest": None}
    assert section["index"]["value"] is None
    assert np.isnan(arrays.distance_to_rest).all()
    single = [replace(row, client=f"c{place}") for place, row in enumerate(own[:5])]
    assert distance_to_rest(single, arrays.vectors[:5]) == {f"c{place}": None for place in range(5)}
    with pytest.raises(UserError, match="no rows"):
        embedding_section([], Settings())


@pytest.mark.slow
def test_clients_of_one_language_each_are_found(tmp_path: Path) -> None:
    """Eight languages, four clients of ten rows each, by an encoder that was trained on English."""
    by_language: dict[str, list[DiversityRow]] = {}
    population = Population(seed=3, num_users=16, num_below_cut=0, num_names=8)
    for row in read_rows(build_mini_aya(population, tmp_path / "split")):
        by_language.setdefault(row.language, []).append(row)
    chosen = [
        replace(row, client=f"{language}-{place % 4}")
        for language, own in sorted(by_language.items())
        for place, row in enumerate(own[:40])
    ]
    section, arrays = embedding_section(chosen, Settings(embedder=str(encoder_folder()), permutations=99))
    languages = [client.split("-")[0] for client in arrays.clients]
    assert len(arrays.clients) == 32
    assert adjusted_rand_score(languages, section["clusters"]["labels"]) > 0.9
    assert section["index_unstratified"]["rejected_at_0.05"]
    assert section["index_unstratified"]["value"] > 0.1
    assert not section["index"]["rejected_at_0.05"]  # within a language they are random clients
    assert abs(section["index"]["value"]) <= 2 * section["index"]["se"]
