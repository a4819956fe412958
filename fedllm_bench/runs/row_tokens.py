"""The rows that a cell trains on and scores, as tokens; of pairs with what the base says of them, where needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from fedllm_bench.common import files
from fedllm_bench.config.run import Local, RunConfig
from fedllm_bench.data.clients import Clients
from fedllm_bench.data.dealing.kept_apart import KeptApart
from fedllm_bench.data.manifest import Split
from fedllm_bench.data.pairs import AnswerPart, AnyPart, PairPart, tokenise_pairs, whole
from fedllm_bench.data.rows import SftRow
from fedllm_bench.data.tokens import TokenRow, tokenise_split
from fedllm_bench.metrics.batches import using_adapters
from fedllm_bench.metrics.items import HeldoutItem, member_items
from fedllm_bench.metrics.memorisation import OfMemory
from fedllm_bench.metrics.preference import OfMargin
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.runs.canaries import Planted, PlantedCanary, canaries_of, controls_of, planted_rows
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.poisoning import poisoned
from fedllm_bench.runs.reference import reference_key, with_reference, without_reference
from fedllm_bench.runs.swapping import swapped
from fedllm_bench.training.cluster.computing import Workers
from fedllm_bench.training.losses.objectives import needs_reference
from fedllm_bench.training.model.lora_model import LoraModel

PRESET_BETA = 0.1
Encoded = Callable[[Sequence[SftRow]], Sequence[TokenRow]]


def tokens_of(
    cell: Cell,
    model: LoraModel,
    template: str,
    metrics: Sequence[str],
    *,
    told: bool,
    is_trial: bool,
    workers: Workers | None,
) -> Mapping[str, AnyPart]:
    """The parts of the split, tokenised; pairs with the reference's log-probabilities, in a trial with zeros."""
    length, cache, split = cell.config.local.sequence_length, files.cache_root(), trained_split(cell)
    if split.task == "sft":
        return tokenise_split(split, model.tokenizer, template, length, cache, told=told)
    parts = tokenise_pairs(split, model.tokenizer, template, length, cache, told=told)
    needed = _needed(cell.config, metrics, parts)
    if is_trial:
        needed = without_reference(needed)
    elif needed:
        size = cell.config.evaluation.batch_tokens
        elsewhere = workers.under("", {}, using_adapters) if workers else None
        needed = with_reference(
            needed, model, base_hash=cell.base_hash, batch_tokens=size, cache=cache, elsewhere=elsewhere
        )
    pairs = parts | needed
    return pairs | {"train": AnswerPart(pairs["train"])} if cell.config.local.loss == "kto" else pairs


def trained_split(cell: Cell) -> Split:
    """The split with what was done to its training rows."""
    split, data, seed = cell.split, cell.config.data, cell.config.seed
    if data.canaries:
        return Planted(split.folder, split.manifest, planted_in(cell))
    return poisoned(swapped(split, seed) if data.swap_answers else split, cell.config)


def planted_in(cell: Cell) -> tuple[PlantedCanary, ...]:
    """The canaries of a cell. Raises a :class:`UserError` where the split has no room for them."""
    data = cell.config.data
    return canaries_of(cell.split.manifest, data.canaries, data.canary_repeats, cell.config.seed)


def apart_in(cell: Cell) -> KeptApart | None:
    """The validation rows of a cell; of rows that gave way to canaries none is kept apart: those are to be trained on.

    None where the run does not stop early.
    """
    config = cell.config
    if not config.federation.patience:
        return None
    canaries = planted_in(cell)
    planted = planted_rows(cell.split.rows("train"), canaries) if canaries else {}
    return KeptApart(config.federation.validation, config.seed, frozenset(planted))


def memory_items(
    cell: Cell, clients: Clients, items: Sequence[HeldoutItem], metrics: Sequence[str], encoded: Encoded
) -> list[HeldoutItem]:
    """What is asked of training rows: as many of a client's as `items` has held-out ones of it, and the canaries.

    `encoded` gives the tokens of rows.
    """
    asked = {part for name in metrics if isinstance(metric := METRICS[name], OfMemory) for part in metric.parts}
    canaries, found = planted_in(cell), list[HeldoutItem]()
    if "train" in asked:
        counts = Counter(item.row.client_id for item in items if item.part == "heldout" and item.tokens is not None)
        rows = cell.split.rows("train") if canaries else []
        apart = frozenset[int]().union(*clients.validation_rows.values())  # nobody trains on these
        found += member_items(clients, counts, apart | planted_rows(rows, canaries).keys())
    if "canary" in asked:
        rows = [_row_of(canary) for canary in canaries]
        for canary, row, tokens in zip(canaries, rows, encoded(rows), strict=True):
            choices = (canary.code, *controls_of(canary, cell.config.seed))
            found.append(HeldoutItem(row, tokens, "canary", choices=choices))
    return found


def _row_of(canary: PlantedCanary) -> SftRow:
    name = f"canary-{canary.name}"  # those of other seeds have other names, and are never paired with it
    return SftRow(client_id=canary.client_id, split="train", row_id=name, language="eng", source="canary",
                 messages=canary.messages)  # fmt: skip


def _needed(config: RunConfig, metrics: Sequence[str], parts: Mapping[str, PairPart]) -> dict[str, PairPart]:
    """Of SimPO and ORPO held-out pairs alone, and these only for rewards that are relative to the base; but all where
    validation pairs are checked.
    """
    if needs_reference(config.local) or config.federation.patience:  # checks are of training rows
        return dict(parts)
    is_scored = any(isinstance(METRICS[name], OfMargin) for name in metrics)
    return {name: part for name, part in parts.items() if is_scored and name != "train"}


def referenced(config: RunConfig, metrics: Sequence[str], tokens: Mapping[str, AnyPart]) -> dict[str, PairPart]:
    """The parts whose log-probabilities under the base are needed; {} where no row is a pair."""
    pairs = {name: found for name, part in tokens.items() if isinstance(found := whole(part), PairPart)}
    return _needed(config, metrics, pairs)


def has_reference(cell: Cell, model: LoraModel, parts: Mapping[str, PairPart]) -> bool:
    """Whether the reference of these pairs lies in the cache."""
    size = cell.config.evaluation.batch_tokens
    key = reference_key(parts, model, base_hash=cell.base_hash, batch_tokens=size)
    return (files.cache_root() / "reference" / key).is_dir()


def reward_beta(local: Local) -> float:
    """What scales the rewards of `preference_*`: the beta of DPO, IPO and KTO; of SimPO and ORPO, whose `dpo_beta` is
    another constant, that of the presets.
    """
    return local.dpo_beta if needs_reference(local) else PRESET_BETA
