"""Bytes follow from the adapter's shapes and the method; the adapter in the bundle is one that this run can have."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from fedllm_bench.common.errors import first_line
from fedllm_bench.common.text import counted
from fedllm_bench.common.trees import Tree, norm, tmap
from fedllm_bench.config import base_model
from fedllm_bench.config.run import EMBEDDED_MODEL, Lora, RunConfig
from fedllm_bench.leaderboard.checks.context import CheckContext
from fedllm_bench.leaderboard.checks.kinds import embedded_kind, settings_of_kind, tensors_of_kind
from fedllm_bench.leaderboard.checks.ranks import bytes_of_round, wrong_ranks
from fedllm_bench.leaderboard.submission.problems import Problem, Refused
from fedllm_bench.leaderboard.submission.reading import read_plain
from fedllm_bench.leaderboard.submission.submitted import Round, Submitted, SubmittedRun
from fedllm_bench.methods.products.factors import distance
from fedllm_bench.methods.products.residual import ChangesBase
from fedllm_bench.methods.wrapped import find
from fedllm_bench.training.budget import LOSS_BYTES, Traffic
from fedllm_bench.training.model import targets
from fedllm_bench.training.model.adapter import as_wide_as
from fedllm_bench.training.model.lora import A_AND_B, AdaptedLayer, initial_adapter, tensor_names

TENSORS, SETTINGS = "adapter/adapter_model.safetensors", "adapter/adapter_config.json"
FEW = 3  # problems that are named
MOST_BYTES = 64 * 2**20
SLACK = 1e-3  # of a norm in float32


def traffic(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """Bytes sent up and down in each round."""
    if not submitted.is_of_suite:
        return
    for run in submitted.runs:
        where = f"{run.where}/rounds.jsonl.gz"
        if run.has_own_method:  # what it sends is in its source: the check of plugins says so
            continue
        shapes = shapes_of(run) if run.method.sends else {}
        if shapes is None:
            text = "bytes are not derived: it is no plain LoRA of the embedded base, and no adapter is in the bundle"
            yield Problem(code="bytes-not-derived", message=text, where=where, level="flagged")
            continue
        if texts := list(islice(wrong_ranks(run), FEW)):
            yield Problem(code="ranks", message="; ".join(texts), where=where)
        derived = zip(run.rounds, _of_rounds(run, shapes), strict=True)
        wrong = [(line, right) for line, right in derived if (line.bytes_down, line.bytes_up) != right]
        if wrong:
            line, right = wrong[0]
            got = f"round {line.round} has {line.bytes_down} down and {line.bytes_up} up"
            text = f"{counted(len(wrong), 'round')}; {got}, not {right[0]} and {right[1]}"
            yield Problem(code="bytes", message=text, where=where)


def _of_rounds(run: SubmittedRun, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[int, int]]:
    """Bytes down and up of each round."""
    traffic, found = _traffic(run, shapes), []
    for line in run.rounds:
        down, up = bytes_of_round(run, line, traffic)
        traffic = traffic.after(line.round - 1, _answered(line))
        of_check = _of_check(run, line, traffic)
        found.append((down + of_check[0], up + of_check[1]))
    return found


def _of_check(run: SubmittedRun, line: Round, traffic: Traffic) -> tuple[int, int]:
    """Bytes down and up of a check after a round, as stated where not all clients get the same."""
    if line.check is None or not run.method.sends:
        return 0, 0
    count = line.check["clients"]
    if any(map(run.method.changes, ("tell", "travels"))):
        return line.check["bytes_down"], LOSS_BYTES * count
    return traffic.of_client(line.round, 0)[0] * count, LOSS_BYTES * count


def _answered(line: Round) -> list[int]:
    return [client for client, failure in zip(line.clients, line.failures, strict=True) if failure is None]


def shapes_of(run: SubmittedRun) -> dict[str, tuple[int, ...]] | None:
    """Names and shapes of what is trained: of the embedded base model, else as the adapter in the bundle has them."""
    if layers := embedded_layers(run.config):
        parts = [
            zip(tensor_names(name, layer), layer.shapes(run.config.lora.rank), strict=True)
            for name, layer in layers.items()
        ]
        return {name: shape for of_layer in parts for name, shape in of_layer}
    if run.config.adapter.kind == "p_tuning":  # what is sent is its encoder too, which no adapter holds
        return None
    tree = adapter_of(run)
    return {name: _of_rank(run.config.lora.rank, name, tensor) for name, tensor in tree.items()} if tree else None


def _of_rank(rank: int, name: str, tensor: Tensor) -> tuple[int, ...]:
    """The shape of a tensor in the adapter that clients train, which a rule that changes the base writes wider."""
    axis = next((axis for axis, ending in enumerate(A_AND_B) if name.endswith(ending)), None)
    return tuple(rank if place == axis else size for place, size in enumerate(tensor.shape))


def written_rank(run: SubmittedRun) -> int:
    """The rank of the adapter that the run writes, which grows with its rounds where its base changes."""
    rank, shapes = run.config.lora.rank, shapes_of(run)
    if not shapes or not run.config.adapter.is_lora or not find(run.method, ChangesBase):  # type: ignore[type-abstract]  # any of its kinds
        return rank
    traffic = _traffic(run, shapes)
    for line in run.kept_rounds:
        traffic = traffic.after(line.round - 1, _answered(line))
    tree = traffic.params if traffic.server is None else run.method.adapter(traffic.server)
    return as_wide_as(tree, run.config.lora).rank


def embedded_layers(config: RunConfig) -> Mapping[str, AdaptedLayer] | None:
    """The adapted layers of the embedded base, without its weights; None for another base, or another training."""
    if config.model.name != EMBEDDED_MODEL or config.model.trainable != "adapter" or config.lora.dora:
        return None
    if not config.adapter.is_lora:
        return embedded_kind(config.adapter)
    return _layers(config.lora)


@functools.lru_cache(maxsize=8)
def _layers(lora: Lora) -> dict[str, AdaptedLayer]:
    """Nobody attaches anything to them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base_model.locate(EMBEDDED_MODEL)))
        layers, _ = targets.insert(base, replace(lora, targets=targets.resolve(base, lora.targets)))
    return layers


def _traffic(run: SubmittedRun, shapes: Mapping[str, tuple[int, ...]]) -> Traffic:
    params: Tree = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return Traffic(run.method, params, run.config.local.lr)


# --- the adapter itself


def adapter_of(run: SubmittedRun) -> Tree | None:
    """The tensors of the adapter in the bundle, None where there is none. Refused where it is no such file."""
    if not run.files.has(TENSORS):
        return None
    where = f"{run.where}/{TENSORS}"
    content = read_plain(run.files.files[where], MOST_BYTES, where)
    try:
        tree: Tree = load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise Refused("adapter-file", f"no safetensors file ({first_line(error)[:120]})", where) from error
    return tree


def adapter(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """Finite, of the config's shapes, moved from where training began, and not further than its rounds moved it."""
    for run in submitted.runs:
        yield from _settings(run)
        tree = adapter_of(run)
        if tree is None:
            continue
        where = f"{run.where}/{TENSORS}"
        if not all(tensor.is_floating_point() and bool(tensor.isfinite().all()) for tensor in tree.values()):
            yield Problem(code="adapter-file", message="it has values that are not finite numbers", where=where)
            continue
        yield from _shapes(run, tree, where)
        if not submitted.is_canary and _is_untrained(run.config, tree):  # a canary may have no config
            what = "every B is zero" if run.config.adapter.is_lora else "nothing was added to it"
            yield Problem(code="adapter-untrained", message=f"{what}: it is the base", where=where, level="flagged")


def _is_untrained(config: RunConfig, tree: Tree) -> bool:
    """Whether it adds nothing to the base. A virtual token always does."""
    if config.adapter.kind == "ia3":
        return all(bool((tensor == 1).all()) for tensor in tree.values())
    part = {"lora": ".lora_B.", "bottleneck": ".adapter_up."}.get(config.adapter.kind)
    return part is not None and not any(bool(t.any()) for name, t in tree.items() if part in name)


def _settings(run: SubmittedRun) -> Iterator[Problem]:
    """adapter_config.json is that of a LoRA adapter with the config's rank and alpha."""
    if not run.files.has(SETTINGS) or not run.files.has("config.json"):
        return
    if not run.config.adapter.is_lora:
        yield from settings_of_kind(run.config.adapter, run.files.json(SETTINGS), f"{run.where}/{SETTINGS}")
        return
    stated, lora, rank = run.files.json(SETTINGS), run.config.lora, written_rank(run)
    alpha = lora.alpha * (rank // lora.rank)
    wanted = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "use_dora": lora.dora}
    wrong = [key for key, value in wanted.items() if not isinstance(stated, dict) or stated.get(key, False) != value]
    if wrong:
        text = f"{', '.join(wrong)} are not those of its config"
        yield Problem(code="adapter-file", message=text, where=f"{run.where}/{SETTINGS}")


def _shapes(run: SubmittedRun, tree: Tree, where: str) -> Iterator[Problem]:
    if not (run.files.has("config.json") and run.files.has("rounds.jsonl")):
        return
    kind, layers = run.config.adapter, embedded_layers(run.config)
    if not kind.is_lora and (layers is None or kind.written != kind):
        yield from tensors_of_kind(run, tree, where)
        return
    if layers is None:
        yield from _rank(run, tree, where)
        return
    first = initial_adapter(layers, run.config.lora.rank, run.config.seed)
    rank = written_rank(run)
    if {name: t.shape for name, t in tree.items()} != {n: _of_rank(rank, n, t) for n, t in first.items()}:
        text = "its tensors are not those of the config's layers and rank on this base"
        yield Problem(code="adapter-file", message=text, where=where)
        return
    changes_base = find(run.method, ChangesBase) is not None  # type: ignore[type-abstract]  # any of its kinds
    moved = distance(tree, first) if changes_base else norm(tmap(lambda a, b: a.float() - b, tree, first))
    most = sum(line.update_norm for line in run.kept_rounds)
    if moved > most * (1 + SLACK) + SLACK:
        text = f"it lies {moved:.4g} from where seed {run.seed} begins; its rounds together moved it {most:.4g} at most"
        yield Problem(code="adapter-distance", message=text, where=where)


def _rank(run: SubmittedRun, tree: Tree, where: str) -> Iterator[Problem]:
    """Of a base that is not at hand: pairs of A and B of the config's rank."""
    rank = written_rank(run)
    wrong = [name for name in tree if not name.endswith(A_AND_B)] if not run.config.lora.dora else []
    for place, ending in enumerate(A_AND_B):
        wrong += [n for n, t in tree.items() if n.endswith(ending) and (t.ndim != 2 or t.shape[place] != rank)]
    if wrong:
        text = f"{counted(len(wrong), 'tensor', 'are')} not of a LoRA adapter of rank {rank}, as {wrong[0][:80]!a}"
        yield Problem(code="adapter-file", message=text, where=where)
