"""A cell with everything loaded: base model, tokenised clients, held-out items, method."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.common.trees import Tree
from fedllm_bench.config import plugins
from fedllm_bench.config.run import RunConfig
from fedllm_bench.config.starting import locate_adapter
from fedllm_bench.data.clients import Clients
from fedllm_bench.data.encoder import ChatEncoder
from fedllm_bench.data.pairs import AnyPart
from fedllm_bench.data.templates.sources import source_for
from fedllm_bench.data.tokens import encode
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.registry import make_method
from fedllm_bench.methods.robust.attacks import OF_ROWS
from fedllm_bench.metrics.items import HELDOUT, HeldoutItem, PairItem, heldout_items, pair_items
from fedllm_bench.metrics.memorisation import OfMemory
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.metrics.running import EvalSettings
from fedllm_bench.metrics.sample import is_sampled, sampled, trained_alone
from fedllm_bench.mini.probes import load_probes
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.load_checks import check_answers_fit, check_asked, check_layers, check_looked_at, check_trainable
from fedllm_bench.runs.offsite.parting import emulated, load_trained
from fedllm_bench.runs.offsite.public_rows import PublicRows, check_not_own, check_public, public_rows
from fedllm_bench.runs.poisoning import check_texts
from fedllm_bench.runs.row_tokens import Encoded, apart_in, memory_items, planted_in, reward_beta, tokens_of
from fedllm_bench.scores.score import LOSSES
from fedllm_bench.training.batches import schedule
from fedllm_bench.training.budget import rounds_within
from fedllm_bench.training.clock.simulating import check_devices, planned_timeline
from fedllm_bench.training.clock.timeline import Timeline
from fedllm_bench.training.cluster.computing import Workers
from fedllm_bench.training.faults import participants
from fedllm_bench.training.model import limits
from fedllm_bench.training.model.base import load_tokenizer
from fedllm_bench.training.model.carried import principal_adapter
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bench:
    """A cell with everything loaded; `items` are the held-out rows that are scored, all of them or a sample.

    `workers` of Ray compute scores, where there are some; else this process does.
    """

    cell: Cell
    model: LoraModel
    clients: Clients
    items: Sequence[HeldoutItem] | Sequence[PairItem]
    settings: EvalSettings
    metrics: tuple[str, ...]
    workers: Workers | None = None
    public: PublicRows | None = None

    @property
    def config(self) -> RunConfig:
        return self.cell.config

    @property
    def loss(self) -> str:
        """The metric that is the loss of this split's task."""
        return LOSSES[self.cell.split.task]

    @cached_property
    def method(self) -> FedAvg:
        return emulated(make_method(self.config, len(self.clients)), self.model, self.config)

    @cached_property
    def initial(self) -> Tree:
        if self.config.communication.lora_aggregation == "restart":
            return principal_adapter(self.model.layers, self.config.lora.rank)
        return initial_adapter(self.model.layers, self.config.lora.rank, self.config.seed)

    @cached_property
    def num_rounds(self) -> int:
        """The rounds that the budget of bytes has room for; a :class:`UserError` where it has none."""
        if self.config.communication.budget_mb is None:
            return self.config.federation.rounds
        plan = schedule(self.config, len(self.clients), self.clients.file_order)
        return rounds_within(self.config, self.method, self.initial, plan, self.checked)

    @cached_property
    def checked(self) -> list[int]:
        """The clients whose validation rows are scored in a check; of a personal method those with an own adapter that
        is scored in the end. None where the run does not stop early.
        """
        of_client = [self.clients.validation_rows[client] for client in self.clients.ids]
        asked = self.local_sample if self.method.personal else range(len(of_client))
        return [client for client in asked if of_client[client]]

    @cached_property
    def timeline(self) -> Timeline | None:
        """That of the clock; a :class:`UserError` where its file of devices does not fit the clients."""
        return planned_timeline(self.config, self.method, self.clients, self.initial)

    @cached_property
    def visited(self) -> frozenset[int]:
        """The clients whom the schedule chooses at least once, and who do not drop out each time."""
        return participants(self.config, len(self.clients), self.clients.file_order)

    @cached_property
    def local_sample(self) -> list[int]:
        """The clients of the baseline `local`: see :func:`trained_alone`."""
        evaluation, ids = self.config.evaluation, self.clients.ids
        sizes = [len(self.clients.train_rows[client]) for client in ids]
        named = {item.row.client_id for item in self.items if item.part in HELDOUT}
        scored = {place for place, client in enumerate(ids) if client in named} if is_sampled(evaluation) else None
        return trained_alone(sizes, self.visited if evaluation.local_clients else (), evaluation.local_clients, scored)


def check_cell(cell: Cell) -> None:
    """Raise a :class:`UserError` for what can be known to fail before anything is loaded or written."""
    if cell.config.model.adapter is not None:
        locate_adapter(cell.config.model.adapter)
    cell.config.federation.check(len(cell.split.manifest.clients))
    make_method(cell.config, len(cell.split.manifest.clients))
    if cell.config.clock.is_on:
        check_devices(cell.config, [client.id for client in cell.split.manifest.clients])
    planted_in(cell)
    check_public(cell.config)
    check_not_own(cell)
    _check_views(cell.config, usable_metrics(cell))


def _check_views(config: RunConfig, metrics: Sequence[str]) -> None:
    """Refuse a look at each client's loss where the run does not score that metric."""
    loss = LOSSES[config.data.task]
    for key in ("every", "personal_steps"):
        value = getattr(config.evaluation, key)
        if value and loss not in metrics:
            raise UserError(f"evaluation.{key}={value} needs the metric {loss}; add it to METRICS, or give 0")


def load_bench(cell: Cell, *, is_baseline: bool = False, is_trial: bool = False, is_run: bool = False) -> Bench:
    """Load the base model, tokenise the split (or read both from the cache).

    `is_baseline`: of another cell with the same model and length, which has said what there is to say of them.
    `is_trial`: to see how long things take; preferences have zeros in the place of the reference, which takes long too.
    `is_run`: to be run, so that scores are computed where the config's engine trains; else they are here.
    """
    check_cell(cell)
    config, metrics = cell.config, usable_metrics(cell)
    torch.set_num_threads(cell.threads)
    tokenizer = load_tokenizer(cell.model_folder, config.model.name)
    template = _template(config, tokenizer)
    check_texts(config.attack, ChatEncoder(tokenizer, template), config.evaluation.max_new_tokens)
    model = load_trained(config, tokenizer)
    if not is_baseline:
        limits.check_length(model.base, config.model.name, config.local.sequence_length)
    is_spread = is_run and config.engine == "ray"
    workers = Workers.of(model, config.model, config.lora, config.ray, config.adapter) if is_spread else None
    tokens = tokens_of(cell, model, template, metrics, told=not is_baseline, is_trial=is_trial, workers=workers)
    clients = _clients(cell, tokens)
    check_layers(model, config)
    settings = EvalSettings(
        template=template,
        batch_tokens=config.evaluation.batch_tokens,
        max_new_tokens=config.evaluation.max_new_tokens,
        dpo_beta=reward_beta(config.local),
        attack=config.attack,
    )
    items = _items(cell, clients, metrics, lambda rows: encode(rows, tokenizer, template))
    check_answers_fit(model, config, items, settings)
    check_asked(metrics, items, is_told=not is_baseline)
    bench = Bench(cell, model, clients, items, settings, metrics, workers, public_rows(cell, tokenizer, template))
    check_looked_at(config, clients, bench.local_sample)
    _ = bench.num_rounds  # refuses a budget that is too small for one round
    _ = bench.timeline
    bench.method.init(bench.initial)  # refuses parts of the adapter that no tensor has
    return bench


def _clients(cell: Cell, tokens: Mapping[str, AnyPart]) -> Clients:
    """Those of the cell. Raises a :class:`UserError` where none can train, or votes cannot be parted."""
    config = cell.config
    clients = Clients(
        cell.split,
        tokens,
        shuffle_seed=config.seed if config.data.shuffle_users else None,
        parting_seed=config.seed if config.data.split_pairs else None,
        apart=apart_in(cell),
    )
    _ = clients.train_rows  # refuses votes whose answers cannot go to different clients
    check_trainable(config, clients)
    return clients


def _template(config: RunConfig, tokenizer: Any) -> str:
    """The source of the run's template; a :class:`UserError` for one that this base cannot be trained with."""
    source = source_for(config.data.template, tokenizer, config.model.name)
    ChatEncoder(tokenizer, source).check_trains()
    return source


def _items(
    cell: Cell, clients: Clients, metrics: Sequence[str], encoded: Encoded
) -> Sequence[HeldoutItem] | Sequence[PairItem]:
    """The held-out rows that are scored, and the training rows where metrics ask what is remembered of them."""
    config = cell.config
    if clients.split.task == "sft":
        items = sampled(heldout_items(clients), clients.split, config.evaluation)
        return items + memory_items(cell, clients, items, metrics, encoded)
    return sampled(pair_items(clients), clients.split, config.evaluation)


def _check_memory(config: RunConfig, name: str, metric: OfMemory) -> None:
    """Refuse to ask for canaries that are not there, and for members that the split's rows are not."""
    if "canary" in metric.parts and not config.data.canaries:
        raise UserError(f"METRICS={name}: no canary is planted; give --set data.canaries=16, or leave it out")
    if "train" not in metric.parts:
        return
    if config.data.swap_answers:
        raise UserError(
            f"METRICS={name}: data.swap_answers=true leaves no training row as it was; leave one of them out"
        )
    if config.attack.kind in OF_ROWS:
        raise UserError(
            f"METRICS={name}: attack.kind={config.attack.kind} changes training rows, which are the members that the "
            "metric asks of; leave one of them out"
        )


def usable_metrics(cell: Cell) -> tuple[str, ...]:
    """The metrics that this split has items for: those on the mini world's questions need its probes.

    Raises a :class:`UserError` for an unknown metric, for one of another task, or when none is left.
    """
    names, task = cell.config.evaluation.metrics, cell.split.task
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS, plugins.ADVICE)
        if isinstance(metric := METRICS[name], OfMemory):
            _check_memory(cell.config, name, metric)
        if METRICS[name].task != task:
            fitting = ", ".join(other for other, metric in METRICS.items() if metric.task == task)
            raise UserError(
                f"METRICS={','.join(names)}: {name} is for splits of task {METRICS[name].task}, {cell.split.name} "
                f"has {task}; there are {fitting}"
            )
    probes = bool(load_probes(cell.split))
    usable = tuple(name for name in names if probes or not METRICS[name].needs_probes)
    if not usable:
        raise UserError(f"METRICS={','.join(names)}: none fits the split {cell.split.name}; add heldout")
    return usable
