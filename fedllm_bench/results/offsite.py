"""`offsite` of results.json: how a model was parted and aligned, and the scores on the emulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic.dataclasses import dataclass

from fedllm_bench.results.entries import OBJECT, Int, MetricEntry, Number, Text


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class AlignmentOfRound:
    """The alignment before a round: its loss on public rows that it did not train on."""

    round: Int
    steps: Int
    before: Number
    after: Number


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class PublicBlock:
    """The public rows; `num_left_out` of the split's were also rows of the run's users."""

    split: Text
    num_rows: Int
    num_left_out: Int


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class OffsiteBlock:
    """`kept` are the layers that clients have, by number in the whole model.

    `adapter_bytes` are those of one upload as it is trained, in float32; `emulator_bytes` those of the emulator's
    layers, in the type of the model.
    `metrics` are those of the trained adapter on the emulator, as `metrics` of the file are plugged into the model.
    """

    variant: Text
    left: Int
    right: Int
    drop: Number
    num_layers: Int
    kept: tuple[Int, ...]
    adapter_bytes: Int
    emulator_bytes: Int
    public: PublicBlock | None
    alignments: tuple[AlignmentOfRound, ...]
    metrics: dict[Text, MetricEntry]


def alignments_of(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """From the rows of rounds.jsonl."""
    return [{"round": record["round"], **record["alignment"]} for record in rounds if "alignment" in record]
