"""FedAvg by hand: from a client split to an adapter, in one file that reads from top to bottom.

    python examples/fedavg_by_hand.py [OUT]

The choice of clients, the loop and the weighted mean stand here; the local steps of one client are the library's
(`train_block`). It ends at the same adapter, bit for bit on the same cores, as the command

    fedllm-bench bench aya fedavg --profile mini --set federation.rounds=2 --set federation.clients_per_round=4
        --set federation.weighting=examples --set local.steps=5 --set local.block_size=1

McMahan et al., 2017 (arXiv:1602.05629), Algorithm 1. It takes about half a minute on two cores.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedllm_bench.common import process

process.prepare()  # variables that torch reads when it is loaded, as for the command: on busy cores 31 s and not 156

from fedllm_bench.common.files import cache_root
from fedllm_bench.common.trees import Tree
from fedllm_bench.config import base_model, presets
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.chat import template_text
from fedllm_bench.data.clients import Clients
from fedllm_bench.data.manifest import Split
from fedllm_bench.data.tokens import tokenise_split
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.mini.dataset import mini_split
from fedllm_bench.training.batches import plan_steps
from fedllm_bench.training.block import train_block
from fedllm_bench.training.client_round import ClientResult, ClientTask
from fedllm_bench.training.model.adapter import save_adapter
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel, load_model

SEED = 0
SETTINGS = [
    "federation.rounds=2",
    "federation.clients_per_round=4",
    "federation.weighting=examples",  # a client counts by its rows
    "local.steps=5",
    "local.block_size=1",  # one client after another, as below
]


def main(out: Path) -> None:
    """Train on the embedded world and write the adapter to the folder `out`, in PEFT's format."""
    config = presets.load("aya", "fedavg", "mini", SETTINGS, seed=SEED)
    split = mini_split("aya", config.data.world_seed, cache_root())
    params = train(config, split)
    save_adapter(out, params, config.lora, str(base_model.locate(config.model.name)))
    print(f"The adapter is in {out}")


def train(config: RunConfig, split: Split) -> Tree:
    """The adapter after all rounds: PEFT name -> tensor."""
    # the base model is frozen; what is trained, sent and averaged is the adapter
    model = load_model(config.model, config.lora)
    template, length = template_text(config.data.template), config.local.sequence_length
    clients = Clients(split, tokenise_split(split, model.tokenizer, template, length, cache_root()))
    params = initial_adapter(model.layers, config.lora.rank, config.seed)
    for round_num in range(config.federation.rounds):
        chosen = choose(config, round_num, len(clients))
        results = [local_steps(config, model, clients, params, round_num, client) for client in chosen]
        mean = weighted_mean(results)
        params = {name: x + mean[name] for name, x in params.items()}
        losses = ", ".join(f"{result.client_id} {result.losses[-1]:.2f}" for result in results)
        print(f"Round {round_num + 1}, loss in each client's last step: {losses}")
    return params


def choose(config: RunConfig, round_num: int, num_clients: int) -> list[int]:
    """The clients of a round, uniformly without replacement: a function of the seed and the round alone."""
    rng = np.random.default_rng([0, config.seed, round_num])  # 0: other streams of the same seed begin otherwise
    return sorted(rng.choice(num_clients, config.federation.clients_per_round, replace=False).tolist())


def local_steps(
    config: RunConfig, model: LoraModel, clients: Clients, params: Tree, round_num: int, client: int
) -> ClientResult:
    """What one client sends after its local steps from `params`: the difference "delta", and its number of rows."""
    client_id = clients.ids[client]
    rows = clients.train_rows[client_id]
    local = replace(config.local, lr=config.local.lr_at(round_num, config.federation.rounds))
    sizes = {"steps": local.steps, "micro_batch": local.micro_batch, "accumulation": local.accumulation}
    task = ClientTask(
        client=client,
        client_id=client_id,
        seed=config.seed,
        round_num=round_num,
        rows=clients.tokens["train"],
        row_numbers=rows,
        steps=plan_steps(config.seed, round_num, client, num_rows=len(rows), **sizes),
        state={},  # FedAvg's clients keep nothing between rounds
    )
    (result,) = train_block(model, FedAvg(), {"params": params}, [task], local)
    return result


def weighted_mean(results: list[ClientResult]) -> Tree:
    """sum_k (n_k / n) delta_k over the clients of a round, n_k rows each."""
    num_rows = sum(result.num_examples for result in results)
    total: Tree = {}
    for result in results:  # in client order: floating-point sums are reproducible
        for name, delta in result.upload["delta"].items():
            weighted = delta * result.num_examples
            total[name] = total[name] + weighted if name in total else weighted
    return {name: tensor / num_rows for name, tensor in total.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "by_hand"))
