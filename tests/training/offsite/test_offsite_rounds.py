"""Rounds of every method on an emulator: resume, bytes, the proximal term, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from architectures import make_folder
from offsite_models import LORA, aligner, load_offsite
from resumed_rounds import Killed, killed_at, left_behind, same_bits
from senders import own_parts
from sweeps import MIXING, PLAIN_LORA, UNLIKE, sweep

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_jsonl
from fedllm_bench.common.trees import norm, num_bytes, tmap
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.adapters.emulated import EMULATOR
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.registry import make_method
from fedllm_bench.runs.offsite.parting import emulated
from fedllm_bench.training.engines import in_process
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun

ON = ("offsite.variant=fedot", "offsite.left=1", "offsite.right=1", "offsite.drop=0.5", "offsite.steps=3")
BIOT = ("offsite.variant=fedbiot", "offsite.right=1", "offsite.steps=3", "offsite.round_steps=2")
SHORT = ("federation.rounds=2", "local.steps=1", "local.lr=1e-3", "local.lr_end=1e-4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("models") / "llama", "llama", layers=4)


@pytest.fixture(scope="module")
def model(folder):
    return load_offsite(folder, "adapter")


@pytest.fixture(scope="module")
def last_alone(folder):
    return load_offsite(folder, "adapter", left=0, variant="fedbiot", drop=0.3)


def run_of(model, clients, config, folder):
    method = emulated(make_method(config, len(clients)), model, config)
    given = vars(config.offsite) | {"lr": 1e-2}
    align = aligner(model, folder / "checkpoint", config.local, method, **given)
    folder.mkdir()
    return TrainingRun(config=config, method=method, clients=clients, map_blocks=in_process(model, method, config),
                       folder=folder, prepare=align)  # fmt: skip


def start_of(model):
    return initial_adapter(model.layers, rank=LORA.rank, seed=0)


@pytest.mark.parametrize("name", sweep(sorted(METHODS.keys() - {*PLAIN_LORA, *MIXING}), *UNLIKE))
def test_every_method_of_one_adapter_trains_and_resumes_with_the_same_bits(
    name, model, tiny_clients, tiny_run_config, tmp_path
):
    config = tiny_run_config(name, *ON, *SHORT, *own_parts(name, "layers.0."))
    whole, broken = (run_of(model, tiny_clients, config, tmp_path / part) for part in ("whole", "broken"))
    server = run_rounds(whole, start_of(model))
    assert server.params.keys() == start_of(model).keys()
    if not whole.method.personal:
        assert norm(tmap(torch.sub, server.params, start_of(model))) > 1e-4
    with pytest.raises(Killed):
        run_rounds(replace(broken, map_blocks=killed_at(broken.map_blocks, 1, 0)), start_of(model))
    run_rounds(broken, start_of(model))
    assert same_bits(left_behind(broken), left_behind(whole))


def test_fedbiot_aligns_in_each_round_and_sends_the_emulator_down(last_alone, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", *BIOT, "offsite.drop=0.3", *SHORT)
    run = run_of(last_alone, tiny_clients, config, tmp_path / "run")
    server = run_rounds(run, start_of(last_alone))
    first, second = read_jsonl(run.folder / "rounds.jsonl")
    assert [record["alignment"]["steps"] for record in (first, second)] == [3, 2]
    adapter, emulator = num_bytes({"": server.params}), num_bytes({"": server.slots[EMULATOR]})
    assert first["bytes_up"] == 3 * adapter
    assert first["bytes_down"] == 3 * (adapter + emulator)


def test_fedot_keeps_its_emulator_and_sends_adapters_alone(model, tiny_clients, tiny_run_config, tmp_path):
    run = run_of(model, tiny_clients, tiny_run_config("fedavg", *ON, *SHORT), tmp_path / "run")
    first, _ = run.prepare(run.method.init(start_of(model)))
    server = run_rounds(run, start_of(model))
    assert same_bits(server.slots[EMULATOR], first.slots[EMULATOR])
    records = read_jsonl(run.folder / "rounds.jsonl")
    assert ["alignment" in record for record in records] == [True, False]
    adapter = num_bytes({"": server.params})
    assert [(record["bytes_up"], record["bytes_down"]) for record in records] == [(3 * adapter, 3 * adapter)] * 2


def test_the_proximal_term_is_that_of_fedprox(last_alone, tiny_clients, tiny_run_config, tmp_path):
    """On the same emulator FedBiOT with mu is FedProx with mu, bit for bit, and both stay nearer than without."""
    more = (*SHORT, "local.steps=4", "offsite.drop=0.3")
    ours = tiny_run_config("fedavg", *BIOT, *more, "offsite.mu=5.0")
    prox = tiny_run_config("fedprox", *BIOT, *more, "offsite.mu=0", "method.mu=5.0")
    free = tiny_run_config("fedavg", *BIOT, *more, "offsite.mu=0")
    servers = [
        run_rounds(run_of(last_alone, tiny_clients, config, tmp_path / str(k)), start_of(last_alone))
        for k, config in enumerate((ours, prox, free))
    ]
    assert same_bits(servers[0].params, servers[1].params)
    assert not same_bits(servers[0].params, servers[2].params)


def test_what_stays_with_a_client_is_drawn_to_nothing(last_alone, tiny_clients, tiny_run_config, tmp_path):
    """The server has no value of it but the first, to which no client is to come back."""
    ours = ("offsite.drop=0.3", *SHORT, "local.steps=4", "method.own_share=0.75", "method.local_parts=lora_B")
    own = []
    for mu in ("0", "5.0"):
        config = tiny_run_config("fedrep", *BIOT, *ours, f"offsite.mu={mu}", "federation.rounds=1")
        run = run_of(last_alone, tiny_clients, config, tmp_path / mu)
        run_rounds(run, start_of(last_alone))
        own.append(left_behind(run)["states"])
    assert sum(map(bool, own[0])) == 3
    assert same_bits(*own)


def test_numbers_along_seeded_directions_have_no_proximal_term(tiny_run_config):
    with pytest.raises(UserError, match=r"^offsite.mu=0.01: fedkseed sends numbers along .*; give --set offsite.mu=0$"):
        make_method(tiny_run_config("fedkseed", *BIOT), 6)
    make_method(tiny_run_config("fedkseed", *BIOT, "offsite.mu=0"), 6)


def test_without_steps_there_is_no_emulator_to_keep_or_send(model, tiny_run_config):
    config = tiny_run_config("fedavg", *ON[:-1], "offsite.steps=0")
    server = emulated(make_method(config), model, config).init(start_of(model))
    assert EMULATOR not in server.slots


def test_a_model_without_a_student_has_the_method_itself(tiny_model, tiny_run_config):
    assert emulated(FedAvg(), tiny_model, tiny_run_config()) == FedAvg()


@pytest.mark.parametrize("name", sorted({*PLAIN_LORA, *MIXING}))
def test_methods_of_several_adapters_or_ranks_are_refused(name, tiny_run_config):
    with pytest.raises(UserError, match=f"^offsite.variant=fedot: {name} is of "):
        make_method(tiny_run_config(name, *ON), 6)


@pytest.mark.parametrize(
    "other",
    [
        "model.quantization=4bit",
        "model.quantization=8bit",
        "model.device_map=auto",
        "lora.dora=true",
        "lora.ranks=2,4",
        *(
            f"communication.lora_aggregation={rule}"
            for rule in ("flex", "stack", "exact", "restart", "fair", "share_a")
        ),
        "engine=trl",
        "engine=ray",
    ],
)
def test_what_does_not_go_with_it_is_refused_in_one_line(other, tiny_run_config):
    option = {"engine": other.removeprefix("engine=")} if other.startswith("engine=") else {}
    text = f"offsite.variant=fedot: offsite tuning does not go with {other}; leave one of them out"
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        tiny_run_config("fedavg", *ON, *([] if option else [other]), **option)


def test_preferences_and_published_rules_are_refused(tiny_run_config):
    with pytest.raises(UserError, match=r"does not go with data\.task=preference"):
        tiny_run_config("fedavg", *ON, dataset="chatbot_pa", metrics="preference_loss")
    with pytest.raises(UserError, match="does not go with variant=released"):
        tiny_run_config("fedavg", *ON, variant="released")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("offsite.left=1",), "offsite.left=1: offsite.variant is none, so it changes nothing"),
        (("offsite.mu=1.0",), "offsite.mu=1.0: offsite.variant is none, so it changes nothing"),
        (("offsite.variant=fedot",), "offsite.variant=fedot: offsite.left and offsite.right are 0"),
        ((*BIOT, "offsite.left=1"), "offsite.left=1: the adapter of fedbiot is the last layers alone"),
        ((*BIOT, "offsite.steps=0"), "offsite.steps=0: fedbiot aligns its emulator"),
        ((*ON, "offsite.mu=0.1"), "offsite.mu: it is of offsite.variant=fedbiot"),
        ((*ON, "offsite.kl_weight=0.1"), "offsite.kl_weight: it is of offsite.variant=fedbiot"),
        ((*ON, "offsite.round_steps=1"), "offsite.round_steps: it is of offsite.variant=fedbiot"),
        ((*ON, "offsite.kd_weight=0"), "offsite.kd_weight=0: all weights of the alignment's loss are 0"),
        ((*ON, "offsite.rows=2147483647"), "offsite.steps=3, offsite.rows=2147483647: an alignment takes 10,000,000"),
        ((*BIOT, "offsite.round_steps=9999999"), "offsite.round_steps=9999999, offsite.rows=4: an alignment takes"),
        ((*ON, "offsite.steps=0", "offsite.lr=0.1"), "offsite.lr: offsite.steps is 0, so nothing is aligned"),
    ],
)
def test_settings_that_would_change_nothing_are_refused(given, text, tiny_run_config):
    with pytest.raises(UserError, match=f"^{re.escape(text)}"):
        tiny_run_config("fedavg", *given)


def test_a_run_without_it_keeps_its_hash(tiny_run_config):
    assert "offsite" not in tiny_run_config().to_dict()
    assert tiny_run_config("fedavg", *ON).to_dict()["offsite"]["left"] == 1
