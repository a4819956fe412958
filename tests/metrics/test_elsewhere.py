"""Batches that others compute: the same scores, in the same order, kept and gone on with as in one process."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from benches import bench_loader
from items import SETTINGS
from tiny import random_tree

from fedllm_bench.common.interrupts import Interrupted, Stop
from fedllm_bench.common.ledger import Ledger
from fedllm_bench.common.mixtures import Mixture
from fedllm_bench.common.trees import Tree
from fedllm_bench.data.chat import template_text
from fedllm_bench.data.pairs import tokenise_pairs
from fedllm_bench.metrics import running
from fedllm_bench.metrics.batches import ALL, Batches, OwnAdapters, using_adapters
from fedllm_bench.metrics.items import of_clients, pair_items
from fedllm_bench.metrics.memorisation import OfMemory
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.plugins import in_use
from fedllm_bench.runs.reference import with_reference
from fedllm_bench.runs.scoring import evaluate
from fedllm_bench.training.cluster.computing import Piece
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel

PLUGIN = """
from fedllm_bench.metrics.likelihood import HeldoutLoss
from fedllm_bench.scores.score import MetricInfo

class BareLoss:
    info = MetricInfo(name="bare_loss", version="1", unit="nats", higher_is_better=False, description="")
    needs_probes = False
    task = "sft"

    def score(self, model, items, settings):
        return HeldoutLoss().score(model, items, settings)

METRICS = {"bare_loss": BareLoss()}
"""

SMALL = ("lora.rank=4", "lora.alpha=8", "federation.rounds=2", "federation.clients_per_round=3")


class Others:
    """A process with a base of its own, which is sent batches; after `most` of them a signal comes."""

    def __init__(self, model: LoraModel, adapters: Mapping[str, Tree], most: int = 10**9) -> None:
        self.model, self.adapters, self.most = model, adapters, most
        self.computed = 0

    def __call__(self, model: LoraModel, pieces: Iterable[Piece], stop: Stop) -> Iterator[list[Any]]:
        for piece in pieces:
            if self.computed == self.most:
                stop.signum = 2
                return
            self.computed += 1
            sent: Piece = pickle.loads(pickle.dumps(piece))
            assert sent.num_rows > 0
            with using_adapters(self.model, self.adapters, sent.owners):
                yield sent.compute(self.model)


@pytest.fixture(scope="module")
def other(load_tiny: Any) -> LoraModel:
    model: LoraModel = load_tiny()
    return model


@pytest.fixture(autouse=True)
def _several_batches_of_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "ANSWER_TOKENS", 0)


def adapter_of(model: LoraModel, seed: int = 1) -> Tree:
    return random_tree(initial_adapter(model.layers, 4, 0), seed=seed, scale=0.3, dtype=None)


def settings_with(batches: Batches) -> Any:
    return replace(SETTINGS, batch_tokens=300, batches=batches)


def asked_of_memory(items: list[Any]) -> list[Any]:
    """Some held-out items as if they were training rows, and some as canaries with the code of another as control."""
    some = [item for item in items if item.part == "heldout" and item.tokens is not None][:12]
    members = [replace(item, part="train", row=replace(item.row, row_id=f"t-{item.row.row_id}")) for item in some]
    canaries = [replace(item, part="canary", choices=("12345678", "87654321", "11112222")) for item in some]
    return [*items, *members, *canaries]


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_gives_the_same_bits(name, tiny_model, other, items, pair_clients):
    tree = adapter_of(tiny_model)
    scored = items if METRICS[name].task == "sft" else pair_items(pair_clients)
    scored = asked_of_memory(scored) if isinstance(METRICS[name], OfMemory) else scored
    others = Others(other, {ALL: tree})
    with tiny_model.using(tree):
        expected = METRICS[name].score(tiny_model, scored, settings_with(Batches()))
        found = METRICS[name].score(tiny_model, scored, settings_with(Batches(elsewhere=others)))
    assert found == expected
    assert found
    assert others.computed > (name != "edit_f05"), "several batches, but of the few corrections"


@pytest.mark.parametrize("name", ["heldout", "mini_exact"])
def test_mixtures_are_computed_elsewhere_too_and_gone_on_with(name, tiny_model, other, items, tmp_path):
    """Also where the signal comes between two adapters of a batch."""
    clients = list(dict.fromkeys(item.row.client_id for item in items))[:4]
    parts = [adapter_of(tiny_model, seed) for seed in range(3)]
    shares = ((0.2, 0.5, 0.3), (0.7, 0.2, 0.1))
    own = OwnAdapters.mixed(tiny_model, {one: Mixture(parts, shares[k % 2]) for k, one in enumerate(clients)})
    scored, ledger = of_clients(items, clients), Ledger(tmp_path / "mixed.batches", "key")
    expected = METRICS[name].score(tiny_model, scored, settings_with(Batches(own=own)))
    others = Others(other, own.of_client)
    few = Others(other, own.of_client, most=4 if name == "heldout" else 1)
    with pytest.raises(Interrupted):
        METRICS[name].score(tiny_model, scored, settings_with(Batches(own=own, ledger=ledger, elsewhere=few)))
    again = Ledger(tmp_path / "mixed.batches", "key")
    assert METRICS[name].score(tiny_model, scored, settings_with(Batches(own=own, ledger=again, elsewhere=others))) == (
        expected
    )
    assert others.computed > 1


@pytest.mark.parametrize("name", ["heldout", "mini_exact"])
def test_clients_have_their_own_adapters_elsewhere_too(name, tiny_model, other, items):
    clients = list(dict.fromkeys(item.row.client_id for item in items))[:4]
    trees = {client: adapter_of(tiny_model, seed) for seed, client in enumerate(clients)}
    scored, own = of_clients(items, clients), OwnAdapters(tiny_model, trees)
    expected = METRICS[name].score(tiny_model, scored, settings_with(Batches(own=own)))
    others = Others(other, trees)
    assert METRICS[name].score(tiny_model, scored, settings_with(Batches(own=own, elsewhere=others))) == expected
    assert others.computed > 1


def test_after_a_stop_others_are_asked_for_the_batches_that_are_left(tiny_model, other, items, tmp_path: Path):
    tree, path = adapter_of(tiny_model), tmp_path / "kept"
    whole = Others(other, {ALL: tree})
    expected = METRICS["heldout"].score(tiny_model, items, settings_with(Batches(elsewhere=whole)))
    cut = Others(other, {ALL: tree}, most=2)
    with pytest.raises(Interrupted):
        METRICS["heldout"].score(
            tiny_model, items, settings_with(Batches(ledger=Ledger(path, "k"), elsewhere=cut, stop=Stop()))
        )
    rest = Others(other, {ALL: tree})
    kept = Batches(ledger=Ledger(path, "k"), elsewhere=rest)
    assert METRICS["heldout"].score(tiny_model, items, settings_with(kept)) == expected
    assert (cut.computed, rest.computed) == (2, whole.computed - 2)
    here = settings_with(Batches(ledger=Ledger(path, "k")))
    assert METRICS["heldout"].score(tiny_model, items, here) == expected, "what others computed serves this process"


def test_the_base_alone_is_asked_for_without_an_adapter(tiny_model, other, items):
    others = Others(other, {})
    expected = METRICS["heldout"].score(tiny_model, items, settings_with(Batches()))
    assert METRICS["heldout"].score(tiny_model, items, settings_with(Batches(elsewhere=others))) == expected


def test_the_reference_of_dpo_comes_from_others_too(pair_split, tiny_model, other, tmp_path: Path):
    parts = tokenise_pairs(pair_split, tiny_model.tokenizer, template_text("mini"), 256, tmp_path)
    others, found = Others(other, {}), []
    for number, elsewhere in enumerate((None, others)):
        cache = tmp_path / str(number)
        made = with_reference(parts, tiny_model, base_hash="x", batch_tokens=400, cache=cache, elsewhere=elsewhere)
        found.append({name: np.asarray(part.reference).tolist() for name, part in made.items()})
    assert found[0] == found[1]
    assert others.computed > 3


def test_of_a_plugin_nothing_is_computed_elsewhere(tiny_split, tiny_folder, tmp_path_factory, tmp_path: Path):
    """It may do anything with the model that it is given."""
    (tmp_path / "mine.py").write_text(PLUGIN)
    bench = bench_loader(tiny_split, tiny_folder, tmp_path_factory, SMALL)("fedavg")
    with in_use([tmp_path / "mine.py"]):
        expected = evaluate(bench, [(None, bench.items)], "here", metrics=["bare_loss", "heldout"])
        others = Others(bench.model, {})
        workers: Any = SimpleNamespace(under=lambda *args: others)
        found = evaluate(replace(bench, workers=workers), [(None, bench.items)], "there", metrics=["bare_loss"])
        assert (found["bare_loss"], others.computed) == (expected["bare_loss"], 0)
        assert evaluate(replace(bench, workers=workers), [(None, bench.items)], "there", metrics=["heldout"])
    assert others.computed > 0
    assert len(expected["bare_loss"]) == len(bench.items)
