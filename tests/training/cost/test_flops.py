"""FLOP by the formula against what torch counts of the same steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from flop_counts import flops_of

from fedllm_bench.config.run import Lora, Model, RunConfig
from fedllm_bench.data.clients import Clients
from fedllm_bench.data.pairs import PairPart
from fedllm_bench.data.tokens import TokenPart
from fedllm_bench.methods.base import FedAvg, Server
from fedllm_bench.methods.ditto import Ditto
from fedllm_bench.methods.fedem import FedEM
from fedllm_bench.methods.fedmezo import FedMeZO
from fedllm_bench.metrics.likelihood import summed_nll
from fedllm_bench.metrics.running import GreedyBatch
from fedllm_bench.runs.reference import log_probabilities, without_reference
from fedllm_bench.training.block import train_block
from fedllm_bench.training.cost.model_flops import ModelFlops, NoFormula, model_flops
from fedllm_bench.training.cost.training_flops import RowSizes, StepFlops, _tasks, training_flops
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel, load_model
from fedllm_bench.training.run import TrainingRun
from fedllm_bench.training.tasks import tasks_of_round

RANK = 4
NEAR, NEARER = 0.03, 0.005
LENGTH, COUNTED = 24, 9  # of each sequence: attention pads rows of other lengths, and the formula does not


def even(part: TokenPart) -> TokenPart:
    """As many sequences of as many tokens each."""
    count = len(part.starts) - 1
    ids = np.arange(count * LENGTH, dtype=np.int32) % 91 + 5
    counted = np.tile(np.arange(LENGTH) >= LENGTH - COUNTED, count)
    return replace(part, ids=ids, counted=counted, starts=np.arange(count + 1) * LENGTH)


@pytest.fixture(scope="module")
def even_clients(tiny_clients) -> Clients:
    return Clients(tiny_clients.split, {name: even(part) for name, part in tiny_clients.tokens.items()})


@pytest.fixture(scope="module")
def even_pairs(pair_clients) -> Clients:
    parts = {name: PairPart(even(part.sequences)) for name, part in pair_clients.tokens.items()}
    return Clients(pair_clients.split, without_reference(parts))


def both(
    config: RunConfig, model: LoraModel, clients: Clients, method: FedAvg, tmp_path, chosen=(0, 1, 2)
) -> tuple[int, int]:
    """FLOP of one round of local steps, by the formula and by torch."""
    run = TrainingRun(config=config, method=method, clients=clients, map_blocks=None, folder=tmp_path)
    server = method.init(initial_adapter(model.layers, RANK, 0))
    plain = tasks_of_round(replace(run, method=FedAvg()), Server({}), chosen)
    of = StepFlops(model_flops(model, RANK), RowSizes.of(clients.tokens["train"], config.local), config.local)
    tasks = list(tasks_of_round(run, server, chosen))
    blocks = [tasks] if model.stackable else [[task] for task in tasks]
    message = method.broadcast(server)
    measured = flops_of(lambda: [train_block(model, method, message, block, config.local) for block in blocks])
    return sum(of.of_task(method, task) for task in plain), measured


METHODS = {
    "fedavg": FedAvg(),
    "ditto": Ditto(lam=0.1),  # two trainings
    "fedmezo": FedMeZO(mu=1e-3),  # forward alone
}


@pytest.mark.parametrize("method", METHODS)
def test_lora_steps_are_those_that_torch_counts(method, tiny_model, even_clients, tiny_run_config, tmp_path):
    formula, measured = both(tiny_run_config(), tiny_model, even_clients, METHODS[method], tmp_path)
    assert formula == pytest.approx(measured, rel=NEARER)


def test_layers_before_the_first_adapter_have_no_backward_pass(load_tiny, even_clients, tiny_run_config, tmp_path):
    some, every = load_tiny(targets=("v_proj",)), load_tiny()
    formula, measured = both(tiny_run_config(), some, even_clients, FedAvg(), tmp_path)
    assert formula == pytest.approx(measured, rel=NEAR)  # as plain products the first q and k need no gradient
    hidden = 32
    of_some, of_every = model_flops(some, RANK), model_flops(every, RANK)
    assert of_some.linear == of_every.linear
    assert of_some.linear - of_some.linear_inputs == 3 * hidden * hidden  # q, k and v of the first layer
    assert of_some.low_rank == 2 * RANK * 2 * hidden  # one adapter in each of two layers


def test_steps_of_a_mixture_pass_each_adapter_twice(tiny_model, even_clients, tiny_run_config, tmp_path):
    formula, measured = both(tiny_run_config(), tiny_model, even_clients, FedEM(adapters=2), tmp_path)
    assert formula == pytest.approx(measured, rel=NEARER)


@pytest.mark.parametrize("method", ["fedavg", "fedmezo"])
def test_full_training_has_the_products_that_lora_saves(method, tiny_folder, even_clients, tiny_run_config, tmp_path):
    whole = load_model(Model(name=str(tiny_folder), dtype="float32", trainable="full"), LORA)
    formula, measured = both(tiny_run_config(), whole, even_clients, METHODS[method], tmp_path)
    assert formula == pytest.approx(measured, rel=NEARER)
    full = model_flops(whole, RANK)
    assert full.low_rank == full.low_rank_back == 0
    assert full.linear_gradients == full.linear_inputs == full.linear


def test_packed_rows_of_any_length_on_the_mini_base(tiny_clients, tiny_run_config, tmp_path):
    mini = load_model(Model(name="mini", dtype="float32"), LORA)
    formula, measured = both(tiny_run_config(), mini, tiny_clients, FedAvg(), tmp_path, chosen=(0, 1))
    assert formula == pytest.approx(measured, rel=NEAR)


LORA = Lora(rank=RANK, alpha=8, dropout=0.0, targets=("q_proj", "v_proj"))


@pytest.mark.parametrize("loss", ["sigmoid", "orpo"])
def test_pairs(loss, tiny_model, even_pairs, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", f"local.dpo_loss={loss}", dataset="chatbot_pa")
    formula, measured = both(config, tiny_model, even_pairs, FedAvg(), tmp_path)
    assert formula == pytest.approx(measured, rel=NEARER)


def test_the_reference_of_pairs_is_one_pass_of_the_base(tiny_model, even_pairs, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", dataset="chatbot_pa")
    part, flops = even_pairs.tokens["train"], model_flops(tiny_model, RANK)
    rows = [row for number in range(len(part)) for row in part[number].sequences]
    measured = flops_of(lambda: log_probabilities(tiny_model, rows, 2048))
    run = TrainingRun(config=config, method=FedAvg(), clients=even_pairs, map_blocks=None, folder=tmp_path)
    assert training_flops(run, FedAvg(), flops, []) == pytest.approx(measured, rel=NEARER)


def test_evaluation_is_forward_alone(tiny_model, even_clients):
    flops, part = model_flops(tiny_model, RANK), even_clients.tokens["heldout"]
    rows, sizes = [part[number] for number in range(len(part))], RowSizes.of(part)
    adapter = initial_adapter(tiny_model.layers, RANK, 0)
    assert sizes.tokens.tolist() == [len(row.ids) for row in rows]
    assert sizes.counted.tolist() == [row.num_counted for row in rows]
    base = flops_of(lambda: summed_nll(tiny_model, rows, 2048))
    assert int(flops.forward(sizes.tokens, sizes.counted, has_adapter=False).sum()) == pytest.approx(base, rel=NEARER)
    with tiny_model.using(adapter):
        after = flops_of(lambda: summed_nll(tiny_model, rows, 2048))
    assert int(flops.forward(sizes.tokens, sizes.counted).sum()) == pytest.approx(after, rel=NEARER)


def test_an_answer_passes_each_token_once(tiny_model):
    prompts, most = [list(range(5, 45))] * 3, 12
    measured = flops_of(lambda: GreedyBatch(prompts, most, frozenset({4}))(tiny_model))
    formula = 3 * model_flops(tiny_model, RANK).answer(40, most, has_adapter=False)
    assert formula == pytest.approx(measured, rel=0.1)  # the last token is not passed


def test_a_model_with_other_weights_has_no_formula(load_tiny):
    model = load_tiny()
    model.base.get_decoder().layers[0].mixing = torch.nn.Conv1d(4, 4, 3)
    with pytest.raises(NoFormula, match=r"layers.0.mixing.weight belongs to a Conv1d"):
        model_flops(model, RANK)


def test_the_parts_by_hand():
    """W = 10, one adapter of I = 2, O = 3 and r = 1, one layer with a head of 4 numbers, H = 7."""
    flops = ModelFlops(linear=10, linear_inputs=6, linear_gradients=0, low_rank=5, low_rank_back=8, attention=8,
                       attention_back=16, head=7, head_back=7)  # fmt: skip
    assert flops.forward(3, 2) == 2 * (3 * 15 + 9 * 8 + 2 * 7)
    assert flops.forward(3, 2, has_adapter=False) == 2 * (3 * 10 + 9 * 8 + 2 * 7)
    assert flops.backward(3, 2) == 2 * (3 * (6 + 8) + 9 * 16 + 2 * 7)
    assert flops.answer(3, 2) == 2 * (5 * 15 + (9 + 6 + 3) * 8 + 2 * 7)


def test_under_a_clock_clients_have_the_steps_of_the_model_they_began_from(
    tiny_clients, tiny_run_config, tiny_model, tmp_path
):
    run = TrainingRun(config=tiny_run_config(), method=FedAvg(), clients=tiny_clients, map_blocks=None, folder=tmp_path)
    lost_and_stale = {"round": 3, "clients": [0, 1, 2], "staleness": [2, None, 0]}
    found = {task.client: task.steps for task in _tasks(run, FedAvg(), lost_and_stale)}
    at_first, now = ({t.client: t.steps for t in tasks_of_round(run, Server({}, round=r), (0, 2))} for r in (0, 2))
    assert found.keys() == {0, 2}
    assert found[0] == at_first[0] != now[0]
    assert found[2] == now[2]
