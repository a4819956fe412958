"""The alignment before round 1 is done once for all runs with the same one."""

from __future__ import annotations

import logging
import signal
import threading
from dataclasses import replace

import pytest
import torch
from architectures import make_folder
from filelock import FileLock
from offsite_models import LAYERS, LORA, aligner, load_offsite
from resumed_rounds import same_bits
from tiny import settings

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.interrupts import Interrupted, Stop
from fedllm_bench.methods.adapters.emulated import EMULATOR, Emulated
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.checkpoint import load_trees, save_trees
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


@pytest.fixture
def begun(model, tmp_path):
    """An alignment of 12 steps that has ended, its server, and what it came to."""
    method = Emulated(inner=FedAvg(), first=first_emulator(model, LORA.rank, 0))
    server = method.init(initial_adapter(model.layers, LORA.rank, 0))
    align = aligner(model, tmp_path / "checkpoint", settings(), method)
    return align, server, list(align(server))


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewritten(path, change):
    trees, about = load_trees(path)
    change(trees[EMULATOR], about)
    save_trees(path, trees, about)


def of_another_shape(path):
    rewritten(path, lambda tree, about: tree.update({name: t[:1] for name, t in tree.items()}))


def not_finite(path):
    rewritten(path, lambda tree, about: next(iter(tree.values())).fill_(torch.nan))


def of_other_steps(path):
    rewritten(path, lambda tree, about: about.update(step=7))


def without_notes(path):
    rewritten(path, lambda tree, about: about.update(notes={}))


@pytest.mark.parametrize("damage", [halved, of_another_shape, not_finite, of_other_steps, without_notes])
def test_a_damaged_file_is_made_anew_in_the_cache_and_refused_in_a_run(damage, begun, tmp_path, caplog):
    align, server, done = begun
    shared = replace(align, shared=tmp_path / "shared")
    assert same_bits(list(shared(server)), done)
    damage(tmp_path / "shared" / FILE)
    assert same_bits(list(shared(server)), done)
    assert "it is made anew" in caplog.text
    damage(align.folder / FILE)
    with pytest.raises(UserError, match="so that it was changed after the run wrote it; delete the folder") as error:
        align(server)
    assert "\n" not in str(error.value)


def test_who_waits_for_another_run_can_be_stopped(begun, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(alignment, "ASKED_EVERY", 0.05)
    align, server, done = begun
    stop = Stop()
    with FileLock(align.folder / ".align.lock"):
        threading.Timer(0.2, lambda: setattr(stop, "signum", signal.SIGINT)).start()
        with caplog.at_level(logging.INFO), pytest.raises(Interrupted):
            replace(align, stop=stop)(server)
    assert caplog.text.count("another process aligns the same emulator; waiting for it") == 1
    assert same_bits(list(align(server)), done)
