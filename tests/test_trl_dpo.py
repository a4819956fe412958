"""TRL's DPOTrainer as the reference of preference training, and SFTTrainer of conversations of several turns."""

from __future__ import annotations

import pytest
from pairs import random_pairs
from test_dpo import dpo
from test_trl import SHARP, _double, check_equal, difference, random_tree  # noqa: F401
from tiny import client_task

from fedllm_bench.methods.base import FedAvg, Message
from fedllm_bench.reference import with_reference
from fedllm_bench.training.block import ClientTask, train_block
from fedllm_bench.training.engines import ENGINES
from fedllm_bench.training.lora import initial_adapter
from fedllm_bench.training.model import LoraModel
from fedllm_bench.trees import norm

ROWS, STEPS = (range(5), range(5, 9), range(9, 22)), (2, 0, 3)


@pytest.fixture(scope="module")
def part(double_model, tmp_path_factory):
    cache = tmp_path_factory.mktemp("reference")
    pairs = {"train": random_pairs(seed=4, num_pairs=22)}
    return with_reference(pairs, double_model, base_hash="tiny", batch_tokens=200, cache=cache)["train"]


def setting(model: LoraModel, method: FedAvg, part, local) -> tuple[Message, list[ClientTask]]:
    """A message and clients as after some rounds: nothing in them is zero."""
    start, dtype = initial_adapter(model.layers, rank=4, seed=0), model.base.dtype
    message = method.broadcast(method.init(random_tree(start, seed=6, scale=0.1, dtype=dtype)))
    message |= {key: random_tree(start, seed=7, scale=0.02, dtype=dtype) for key in message if key != "params"}
    tasks = []
    for k, rows in enumerate(ROWS):
        keys = method.client_init(message["params"])
        state = {key: random_tree(start, seed=20 + k, scale=0.02, dtype=dtype) for key in keys}
        tasks.append(client_task(k, part, rows, local, steps=STEPS[k], state=state))
    return message, tasks


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
@pytest.mark.parametrize("name", SHARP)
@pytest.mark.usefixtures("_double")
def test_dpo_trainer_trains_as_train_block_does(name, kind, part, double_model, tiny_run_config):
    """After some rounds, where a copy of the current adapter would be the wrong reference; with accumulation,
    clipping, weight decay, answers of unlike lengths and unequal numbers of steps."""
    method, local = SHARP[name], dpo(kind, accumulation=2, clip=0.05, weight_decay=0.1)
    message, tasks = setting(double_model, method, part, local)
    ours = train_block(double_model, method, message, tasks, local)
    (theirs,) = ENGINES["trl"](double_model, method, tiny_run_config())(message, [tasks], local)
    assert [len(result.losses) for result in theirs] == list(STEPS)
    for a, b in zip(ours, theirs, strict=True):
        check_equal(a, b, 1e-9)
    assert norm(theirs[2].upload["delta"]) > 0.1
