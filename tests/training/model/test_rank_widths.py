"""Ranks of clients beside the widths of the layers that they are for."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from torch import nn

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import Lora
from fedllm_bench.training.model import targets
from fedllm_bench.training.model.lora import AdaptedLayer


class Base(nn.ModuleDict):
    def get_output_embeddings(self) -> None:
        return None


def layers_with(ranks: str | None) -> Mapping[str, AdaptedLayer]:
    base = Base({"wide": nn.Linear(64, 32), "narrow": nn.Linear(12, 48)})
    return targets.insert(base, Lora(rank=64, alpha=64, dropout=0.0, targets=("wide", "narrow"), ranks=ranks))[0]


def test_a_rank_above_the_width_of_a_layer_is_refused_in_one_line() -> None:
    with pytest.raises(UserError) as caught:
        layers_with("4:0.5,16:0.5")
    assert str(caught.value) == (
        "lora.ranks=4:0.5,16:0.5: 16 is above 12, the smaller width of the layer narrow; give ranks up to 12, or name "
        "other layers with lora.targets"
    )


def test_ranks_up_to_the_width_are_fine() -> None:
    assert list(layers_with("4,12")) == list(layers_with(None)) == ["wide", "narrow"]
