"""What is refused, or said, once the model and the rows of a run are loaded and before anything is computed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.config_uploads import CHANGES_BASE
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.clients import Clients
from fedllm_bench.data.pairs import PairRow, encode_pairs, whole
from fedllm_bench.data.tokens import TokenRow, encode
from fedllm_bench.metrics.attack import OfAttack
from fedllm_bench.metrics.items import HeldoutItem, PairItem
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.metrics.running import EvalSettings
from fedllm_bench.metrics.user_answers import OfAnswer, asked_of
from fedllm_bench.scores.score import LOSSES
from fedllm_bench.training.batches import schedule
from fedllm_bench.training.model import limits
from fedllm_bench.training.model.carried import plain_layers
from fedllm_bench.training.model.lora_model import LoraModel

log = logging.getLogger(__name__)


def check_layers(model: LoraModel, config: RunConfig) -> None:
    """Refuse a rule on layers that it is not made for."""
    rule = config.communication.lora_aggregation
    if rule in CHANGES_BASE:
        plain_layers(model.layers)
    flat = all(len(shape) == 2 for layer in model.layers.values() for shape in layer.shapes(1))
    if rule not in ("mean", "frozen_a") and not flat:
        raise UserError(f"communication.lora_aggregation={rule}: it is of matrices A and B; name other lora.targets")


def check_asked(metrics: Sequence[str], items: Sequence[Any], *, is_told: bool) -> None:
    """Say how many rows a metric scores that does not score all; refuse one that scores none."""
    for name in metrics:
        metric = METRICS[name]
        if isinstance(metric, OfAnswer) and (asked := asked_of(metric, items)) < len(items) and is_told:
            log.info("%s scores %d of %d held-out rows, and leaves out the others", name, asked, len(items))


def check_answers_fit(
    model: LoraModel, config: RunConfig, items: Sequence[HeldoutItem] | Sequence[PairItem], settings: EvalSettings
) -> None:
    """Refuse metrics that ask for more tokens than a table of positions has: those whose answers are generated."""
    table = limits.table_of(model.base)
    of_probes = [name for name in config.evaluation.metrics if METRICS[name].needs_probes]
    of_answers = [name for name in config.evaluation.metrics if isinstance(METRICS[name], OfAnswer | OfAttack)]
    metrics = [*of_probes, *of_answers]
    rows: Sequence[Any] = [item.row for item in items if item.task or of_answers]
    if table is None or not metrics or not rows:
        return
    encoded: Sequence[TokenRow | PairRow]
    encoded = (encode if config.data.task == "sft" else encode_pairs)(rows, model.tokenizer, settings.template)
    longest = max(len(part.ids) for row in encoded for part in row.sequences) + settings.max_new_tokens
    longest += len(model.tokenizer.encode(config.attack.trigger)) if config.attack.trigger else 0
    if longest > table:
        raise UserError(
            f"METRICS={','.join(metrics)}: a question and its answer take up to {longest} tokens, more than the "
            f"{table} positions of MODEL={config.model.name}; give --metrics without them, as --metrics "
            f"{LOSSES[config.data.task]}"
        )


def check_trainable(config: RunConfig, clients: Clients) -> None:
    """Refuse a run whose every client comes without a usable row; that some do is noted in the report."""
    chosen = {client for choice in schedule(config, len(clients), clients.file_order) for client in choice}
    if any(clients.train_rows[clients.ids[client]] for client in chosen):
        return
    part = whole(clients.tokens["train"])
    raise UserError(
        f"no client that the schedule chooses can train anything: {part.num_skipped} of "
        f"{len(part) + part.num_skipped} training rows keep no token of their answer within "
        f"local.sequence_length={config.local.sequence_length}; raise it: --set local.sequence_length=N"
    )


def check_looked_at(config: RunConfig, clients: Clients, sample: Sequence[int]) -> None:
    """Refuse to look for a best round where a run, or the baseline `local` that it is compared with, has no validation
    row. `sample` are the clients of the baseline.
    """
    patience, few = config.federation.patience, config.evaluation.local_clients
    if not patience or any(clients.validation_rows[clients.ids[client]] for client in sample):
        return
    raise UserError(
        f"federation.patience={patience}: no client of the baseline `local` ({len(sample)} of {len(clients.ids)}, "
        f"evaluation.local_clients={few}) has two training rows, so that one could be kept apart; "
        + ("give more evaluation.local_clients (0 is all), or leave patience out" if few else "leave it out")
    )
