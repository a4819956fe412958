"""The alignment before round 1 is done once for all runs with the same one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from architectures import make_folder
from offsite_models import LAYERS, LORA, aligner, load_offsite
from resumed_rounds import same_bits
from tiny import settings

from fedllm_bench.methods.adapters.emulated import Emulated
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.offsite import alignment
from fedllm_bench.training.offsite.alignment import FILE, first_emulator


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_offsite(make_folder(tmp_path_factory.mktemp("models") / "llama", "llama", layers=LAYERS), "adapter")


def test_a_second_run_reads_the_first_alignment_and_makes_its_own_later_ones(model, tmp_path, monkeypatch):
    method = Emulated(inner=FedAvg(), first=first_emulator(model, LORA.rank, 0), realigns=True)
    server = method.init(initial_adapter(model.layers, LORA.rank, 0))
    given = {"variant": "fedbiot", "left": 0, "round_steps": 2}
    one, other = (
        replace(aligner(model, tmp_path / name, settings(), method, **given), shared=tmp_path / "shared")
        for name in ("one", "other")
    )
    first, notes = one(server)
    later, _ = one(replace(first, round=1))
    assert (tmp_path / "shared" / FILE).is_file()
    assert (tmp_path / "one" / FILE).is_file()
    with monkeypatch.context() as patch:
        patch.setattr(alignment, "alignment_loss", None)  # nothing is computed again
        again, same = other(server)
    assert same_bits(again, first)
    assert same == notes
    assert same_bits(other(replace(again, round=1))[0], later)
