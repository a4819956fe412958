"""A run whose base changes, from one end to the other: its adapter goes wherever another run's goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench_runs import outcome, quick, run
from benches import bench_loader, run_of, trained
from merged_models import logits
from safetensors.torch import load_file, save_file
from submissions import codes, context, submitted
from tiny import random_tree

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.common.trees import tmap
from fedllm_bench.data.manifest import Split
from fedllm_bench.leaderboard.checks import validate
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.metrics.items import of_clients
from fedllm_bench.metrics.likelihood import HeldoutLoss
from fedllm_bench.runs import personalise
from fedllm_bench.training.block import train_block
from fedllm_bench.training.checkpoint import load_server
from fedllm_bench.training.tasks import tasks_of_steps

SMALL = ("lora.rank=4", "lora.alpha=12", "federation.rounds=2", "federation.clients_per_round=3", "local.steps=2",
         "local.micro_batch=4", "local.accumulation=1", "evaluation.personal_steps=2")  # fmt: skip


METRICS = ("--metrics", "heldout,mini_exact,mini_choice")
EXACT = (*SMALL, "communication.lora_aggregation=exact", "evaluation.every=1", "evaluation.local_clients=1")
WORDS = (*METRICS, *(word for setting in EXACT for word in ("--set", setting)))


@pytest.mark.parametrize("rule", ["stack", "exact"])
def test_clients_personalise_the_base_that_the_rounds_have_made(rule, tiny_split, tiny_folder, tmp_path_factory):
    load = bench_loader(tiny_split, tiny_folder, tmp_path_factory, SMALL)
    bench = load("fedavg", f"communication.lora_aggregation={rule}", "local.lr=5e-3", "local.lr_end=5e-3")
    change = random_tree(bench.initial, seed=2, scale=0.1, dtype=torch.float32)
    server = replace(trained(bench), slots={"residual": change})
    found = personalise.personalise(bench, server)
    plain, local = replace(run_of(bench), method=FedAvg()), personalise.local_of(bench.config, server.round)
    (task,) = tasks_of_steps(plain, replace(server, round=personalise.ROUND), [1], 2)
    (result,) = train_block(bench.model, FedAvg(), bench.method.broadcast(server), [task], local)
    own = tmap(lambda x, d: x + d, server.params, result.upload["delta"])
    client = bench.clients.ids[1]
    items = [item for item in of_clients(bench.items, [client]) if item.part == "heldout"]
    with bench.model.using(own):
        without = HeldoutLoss().score(bench.model, items, bench.settings)
        with bench.model.carrying(change):
            expected = HeldoutLoss().score(bench.model, items, bench.settings)
    ours = [score.value for score in found if score.cluster == client]
    assert ours == pytest.approx([score.value for score in expected], abs=1e-4)
    assert ours != pytest.approx([score.value for score in without], abs=1e-2)


@pytest.fixture(scope="module")
def folder(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with quick():
        return run("fedavg", tiny_split.folder, tmp_path_factory.mktemp("run"), *WORDS)


@pytest.mark.slow
def test_the_adapter_is_a_plain_one_of_the_same_scale(folder, tmp_path):
    settings = files.read_json(folder / "adapter" / "adapter_config.json")
    tree = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert settings["r"] > 4
    assert settings["lora_alpha"] / settings["r"] == 3
    assert {t.shape[0 if ".lora_A." in n else 1] for n, t in tree.items()} == {settings["r"]}
    assert cli.main(["merge", str(folder), "--out", str(tmp_path / "merged")]) == 0
    base = Path(settings["base_model_name_or_path"])
    expected = logits(base, folder / "adapter")
    assert torch.allclose(logits(tmp_path / "merged"), expected, atol=1e-3)
    assert not torch.allclose(logits(base), expected, atol=1e-2)
    server = load_server(folder / "checkpoint")
    assert server is not None
    assert set(server.slots) == {"residual"}


@pytest.mark.slow
def test_it_answers_and_goes_to_the_board_whole(folder, tiny_split, tmp_path):
    with quick():
        assert cli.main(["answer", str(folder), "--metrics", "mini"]) == 0
        assert cli.main(["judge", str(folder), "--judge", "mini_rule"]) == 0
        made = submitted([folder], tmp_path / "board", adapters="all")
        assert codes(validate.validate(made, context(tiny_split))) == {"few-seeds"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda tree: {name: 50 * tensor for name, tensor in tree.items()}, "adapter-distance"),
        (
            lambda tree: {n: t[:4] if ".lora_A." in n else t[:, :4].contiguous() for n, t in tree.items()},
            "adapter-file",
        ),
    ],
)
def test_an_adapter_that_the_rounds_did_not_make_is_found(change, code, folder, tiny_split, tmp_path):
    with quick():
        made = submitted([folder], tmp_path / "board", adapters="all")
    (file,) = made.glob("runs/*/adapter/adapter_model.safetensors")
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    assert code in codes(validate.validate(made, context(tiny_split)))


@pytest.mark.slow
def test_the_same_command_again_does_nothing_anew(folder, tiny_split):
    before = outcome(folder)
    with quick():
        run("fedavg", tiny_split.folder, folder.parents[2], *WORDS)
    assert outcome(folder) == before
