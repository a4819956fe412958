"""The two sections that are made of embeddings of prompts, as the report holds them."""

from __future__ import annotations

from typing import Any

from fedllm_bench.diversity.inputs import DiversityInputs
from fedllm_bench.diversity.section import Section


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
