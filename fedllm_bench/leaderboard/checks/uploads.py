"""Bytes follow from the adapter's shapes and the method; the adapter in the bundle is one that this run can have."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from fedllm_bench.common.errors import first_line
from fedllm_bench.common.text import counted
from fedllm_bench.common.trees import Tree, norm, tmap
from fedllm_bench.config import base_model
from fedllm_bench.config.run import EMBEDDED_MODEL, Lora, RunConfig
from fedllm_bench.leaderboard.checks.context import CheckContext
from fedllm_bench.leaderboard.submission.problems import Problem, Refused
from fedllm_bench.leaderboard.submission.reading import read_plain
from fedllm_bench.leaderboard.submission.submitted import Round, Submitted, SubmittedRun
from fedllm_bench.training.budget import Traffic
from fedllm_bench.training.model import targets
from fedllm_bench.training.model.lora import A_AND_B, PREFIX, AdaptedLayer, initial_adapter

TENSORS, SETTINGS = "adapter/adapter_model.safetensors", "adapter/adapter_config.json"
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
        traffic = _traffic(run, shapes)
        wrong = [line for line in run.rounds if (line.bytes_down, line.bytes_up) != _of_round(line, traffic)]
        if wrong:
            line, right = wrong[0], _of_round(wrong[0], traffic)
            got = f"round {line.round} has {line.bytes_down} down and {line.bytes_up} up"
            text = f"{counted(len(wrong), 'round')}; {got}, not {right[0]} and {right[1]}"
            yield Problem(code="bytes", message=text, where=where)


def _of_round(line: Round, traffic: Traffic) -> tuple[int, int]:
    of_each = [traffic.of_client(line.round - 1, client) for client in line.clients]
    answered = zip(of_each, line.failures, strict=True)
    return sum(down for down, _ in of_each), sum(up for (_, up), failure in answered if failure is None)


def shapes_of(run: SubmittedRun) -> dict[str, tuple[int, ...]] | None:
    """Names and shapes of what is trained: of the embedded base model, else as the adapter in the bundle has them."""
    if layers := embedded_layers(run.config):
        names = {
            name: zip(layer.parts, layer.shapes(run.config.lora.rank), strict=True) for name, layer in layers.items()
        }
        return {f"{PREFIX}{name}.{part}": shape for name, parts in names.items() for part, shape in parts}
    tree = adapter_of(run)
    return {name: tuple(tensor.shape) for name, tensor in tree.items()} if tree else None


def embedded_layers(config: RunConfig) -> dict[str, AdaptedLayer] | None:
    """The LoRA layers of the embedded base, without its weights; None for another base, or another kind of training."""
    if config.model.name != EMBEDDED_MODEL or config.model.trainable != "adapter" or config.lora.dora:
        return None
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
        if not any(bool(t.any()) for name, t in tree.items() if ".lora_B." in name) and not submitted.is_canary:
            yield Problem(
                code="adapter-untrained", message="every B is zero: it is the base", where=where, level="flagged"
            )


def _settings(run: SubmittedRun) -> Iterator[Problem]:
    """adapter_config.json is that of a LoRA adapter with the config's rank and alpha."""
    if not run.files.has(SETTINGS) or not run.files.has("config.json"):
        return
    stated, lora = run.files.json(SETTINGS), run.config.lora
    wanted = {"peft_type": "LORA", "r": lora.rank, "lora_alpha": lora.alpha, "use_dora": lora.dora}
    wrong = [key for key, value in wanted.items() if not isinstance(stated, dict) or stated.get(key, False) != value]
    if wrong:
        text = f"{', '.join(wrong)} are not those of its config"
        yield Problem(code="adapter-file", message=text, where=f"{run.where}/{SETTINGS}")


def _shapes(run: SubmittedRun, tree: Tree, where: str) -> Iterator[Problem]:
    if not (run.files.has("config.json") and run.files.has("rounds.jsonl")):
        return
    layers = embedded_layers(run.config)
    if layers is None:
        yield from _rank(run, tree, where)
        return
    first = initial_adapter(layers, run.config.lora.rank, run.config.seed)
    if {name: t.shape for name, t in tree.items()} != {name: t.shape for name, t in first.items()}:
        text = "its tensors are not those of the config's layers and rank on this base"
        yield Problem(code="adapter-file", message=text, where=where)
        return
    moved = norm(tmap(lambda a, b: a.float() - b, tree, first))
    most = sum(line.update_norm for line in run.rounds)
    if moved > most * (1 + SLACK) + SLACK:
        text = f"it lies {moved:.4g} from where seed {run.seed} begins; its rounds together moved it {most:.4g} at most"
        yield Problem(code="adapter-distance", message=text, where=where)


def _rank(run: SubmittedRun, tree: Tree, where: str) -> Iterator[Problem]:
    """Of a base that is not at hand: pairs of A and B of the config's rank."""
    rank = run.config.lora.rank
    wrong = [name for name in tree if not name.endswith(A_AND_B)] if not run.config.lora.dora else []
    for place, ending in enumerate(A_AND_B):
        wrong += [n for n, t in tree.items() if n.endswith(ending) and (t.ndim != 2 or t.shape[place] != rank)]
    if wrong:
        text = f"{counted(len(wrong), 'tensor', 'are')} not of a LoRA adapter of rank {rank}, as {wrong[0][:80]!a}"
        yield Problem(code="adapter-file", message=text, where=where)
