"""Ways of training the clients of a round, which end at the same adapters: this suite's, and what one would take else.

  ours       the engine of a run, with the blocks of clients that a run makes
  loop       plain PEFT, one client after another: rows tokenised, padded and moved once, torch's fused AdamW
  trl        a TRL trainer for each client as TRL makes it: its own preparation of rows, gradient checkpointing
  published  the shape of the published code: for each client a tokenisation, a Trainer, copies of the adapter

The last three train micro-batches in the order of the plan, each padded to its longest row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fedllm_bench.benchmarks.perf import published
from fedllm_bench.benchmarks.perf.cases import Work
from fedllm_bench.benchmarks.perf.turns import Variant, peft_loop
from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.config.run import Local
from fedllm_bench.data.pairs import AnyRow, PairRow
from fedllm_bench.data.tokens import TokenRow
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.batches import Batch, collate
from fedllm_bench.training.client_round import Block, ClientTask
from fedllm_bench.training.engines import in_process
from fedllm_bench.training.passes import PassPlan, passes_of
from fedllm_bench.training.tasks import batched, clients_per_block
from fedllm_bench.training.trl_client import CPU, adapter_parameters, put

PlannedRows = list[list[list[AnyRow]]]  # [step][micro-batch][row]


@dataclass(frozen=True)
class Micro:
    """A micro-batch; `terms` are those of the loss in its whole step, `reference` has shape (pairs, 2)."""

    batch: Batch
    terms: int
    reference: Tensor | None

    @property
    def mask(self) -> Tensor:
        return (self.batch.ids != 0).long()  # 0 is padding, and in no row


def blocks_of(work: Work) -> list[Block]:
    """The clients of the round in blocks, as a run makes them."""
    return list(batched(work.tasks, clients_per_block(work.config, work.tasks[0].rows, work.model.plan)))


def ours(work: Work, blocks: Sequence[Block] | None = None) -> list[Tree]:
    """Raises a :class:`RuntimeError` for a client without a finite answer."""
    engine = in_process(work.model, FedAvg(), work.config)
    ends = []
    for results in engine({"params": work.start}, blocks or blocks_of(work), work.local):
        for result in results:
            if result.failure:
                raise RuntimeError(f"client {result.client_id} has no finite answer ({result.failure})")
            ends.append(tmap(torch.add, work.start, result.upload["delta"]))
    return ends


def planned_rows(task: ClientTask) -> PlannedRows:
    """The rows of a task in the order of its plan."""
    return [[[task.rows[task.row_numbers[i]] for i in micro] for micro in step] for step in task.steps]


def sequences_of(rows: Sequence[AnyRow]) -> list[TokenRow]:
    return [sequence for row in rows for sequence in row.sequences]


def prepared(task: ClientTask) -> list[list[Micro]]:
    """For the loop: everything that can be made beforehand, [step][micro-batch]."""
    made = []
    for micros in planned_rows(task):
        terms = sum(row.num_terms for rows in micros for row in rows)
        made.append([Micro(collate(sequences_of(rows), CPU), terms, _reference(rows)) for rows in micros])
    return made


def _reference(rows: Sequence[AnyRow]) -> Tensor | None:
    pairs = [row.reference for row in rows if isinstance(row, PairRow)]
    return torch.tensor(pairs, dtype=torch.float32) if pairs else None


def loop(work: Work, steps: Sequence[Sequence[Sequence[Micro]]]) -> list[Tree]:
    loss_of = token_loss if work.local.loss == "sft" else partial(pair_loss, beta=work.local.dpo_beta)
    return [peft_loop(work.peft_model, work.start, work.local, own, loss_of) for own in steps]


def token_loss(model: Any, micro: Micro) -> Any:
    words = {"input_ids": micro.batch.ids, "attention_mask": micro.mask, "labels": micro.batch.targets}
    return model(**words, use_cache=False, num_items_in_batch=micro.terms).loss


def pair_loss(model: Any, micro: Micro, beta: float) -> Tensor:
    assert micro.reference is not None
    logits = model(input_ids=micro.batch.ids, attention_mask=micro.mask, use_cache=False).logits
    ratios_P2 = summed_log_likelihood(logits, micro.batch.targets).view(-1, 2) - micro.reference
    return -F.logsigmoid(beta * (ratios_P2[:, 0] - ratios_P2[:, 1])).sum() / micro.terms


def summed_log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """Of the counted tokens of each row, shape (B,), from logits (B, T, V) and targets (B, T) with -100 elsewhere."""
    nll = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), reduction="none")
    return -nll.view(len(targets), -1).sum(1)


def by_trl(work: Work) -> list[Tree]:
    return train_by_trl(work.peft_model, work.model.tokenizer, work.tasks, work.start, work.local)


def train_by_trl(peft_model: Any, tokenizer: Any, tasks: Sequence[ClientTask], start: Tree, local: Local) -> list[Tree]:
    from fedllm_bench.training import trl
    from fedllm_bench.training.losses.trl_trainers import make_preference_trainer, preference_trainer

    parameters, ends = adapter_parameters(peft_model), []
    local = replace(local, gradient_checkpointing=True)  # its default
    sft = local.loss == "sft"
    for task in tasks:
        put(parameters, start)
        with trl.undisturbed(), tempfile.TemporaryDirectory() as folder:
            from trl import SFTTrainer  # draws from Python's generator when it is loaded

            steps = planned_rows(task)
            args = trl.arguments(local, steps, output_dir=folder, use_cpu=peft_model.device == CPU)
            if sft:
                args.dataset_kwargs = None  # it prepares the rows itself
                trainer = trl.make_trainer(SFTTrainer, peft_model, tokenizer, steps, args=args)
            else:
                kind = preference_trainer(local.loss)
                trainer = make_preference_trainer(kind, peft_model, tokenizer, steps, local, args=args)
            trainer.train()
            trl.unpatch(peft_model)
            peft_model.get_base_model().gradient_checkpointing_disable()
        ends.append({name: parameters[name].detach().clone() for name in start})
    return ends


def looped(work: Work) -> list[Tree]:
    return loop(work, [prepared(task) for task in work.tasks])


WAYS: dict[str, Callable[[Work], list[Tree]]] = {
    "ours": ours,
    "loop": looped,
    "trl": by_trl,
    "published": published.train,
}
NAMES = tuple(WAYS)


def make_ways(work: Work) -> dict[str, Variant]:
    """All ways by name; what the loop has ready is made here."""
    steps = [prepared(task) for task in work.tasks]
    return {name: partial(way, work) for name, way in WAYS.items()} | {"loop": partial(loop, work, steps)}


def useful_tokens(tasks: Sequence[ClientTask]) -> int:
    """Tokens of the rows, without padding."""
    rows = [sequence for task in tasks for micros in planned_rows(task) for rows in micros
            for sequence in sequences_of(rows)]  # fmt: skip
    return sum(len(row.ids) for row in rows)


def counted_tokens(tasks: Sequence[ClientTask]) -> int:
    """Of the rows, those that the loss counts."""
    return sum(row.num_counted for task in tasks for micros in planned_rows(task) for rows in micros
               for row in sequences_of(rows))  # fmt: skip


def padded(rows: Sequence[AnyRow]) -> int:
    lengths = [len(sequence.ids) for sequence in sequences_of(rows)]
    return len(lengths) * max(lengths)


def planned_tokens(tasks: Sequence[ClientTask]) -> int:
    """Tokens with padding, where micro-batches are padded one by one in the order of the plan."""
    return sum(padded(rows) for task in tasks for micros in planned_rows(task) for rows in micros)


def processed_tokens(blocks: Sequence[Block], plan: PassPlan) -> int:
    """Tokens, padding included, that go through the base in `ours`, pass by pass; packed passes have no padding."""
    found = 0
    for block in blocks:
        for number in range(max(len(task.steps) for task in block)):
            active = [task for task in block if number < len(task.steps)]
            for rows in passes_of(active, number, plan.tokens, packed=plan.packed):
                sequences = [sequence for each in rows for sequence in each.row.sequences]
                found += collate(sequences, CPU, packed=plan.packed).ids.numel()
    return found
