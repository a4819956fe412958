"""Adapters of other kinds than LoRA: what is trained of the embedded base, and what a bundle's adapter must be."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fedllm_bench.common.trees import Tree
from fedllm_bench.config import base_model
from fedllm_bench.config.kinds.adapter_kind import VIRTUAL, AdapterKind
from fedllm_bench.config.run import EMBEDDED_MODEL
from fedllm_bench.leaderboard.submission.problems import Problem
from fedllm_bench.leaderboard.submission.submitted import SubmittedRun
from fedllm_bench.training.model.kinds.building import insert_kind
from fedllm_bench.training.model.kinds.settings import TYPES
from fedllm_bench.training.model.kinds.virtual import PROMPT
from fedllm_bench.training.model.lora import AdaptedLayer


@functools.lru_cache(maxsize=8)
def embedded_kind(adapter: AdapterKind) -> Mapping[str, AdaptedLayer]:
    """The layers of a kind in the embedded base, without its weights; nobody attaches anything to them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base_model.locate(EMBEDDED_MODEL)))
        layers, _, _ = insert_kind(base, adapter)
    return layers


def settings_of_kind(adapter: AdapterKind, stated: object, where: str) -> Iterator[Problem]:
    """adapter_config.json is of the config's kind, with as many virtual tokens."""
    stated = stated if isinstance(stated, dict) else {}
    kinds = {"p_tuning": ("P_TUNING",)}.get(adapter.kind, [t for t, kind in TYPES.items() if kind == adapter.kind])
    wanted = {"num_virtual_tokens": adapter.num_tokens} if adapter.kind in VIRTUAL else {}
    wrong = [key for key, value in wanted.items() if stated.get(key) != value]
    wrong += [] if stated.get("peft_type") in kinds else ["peft_type"]
    if wrong:
        yield Problem(code="adapter-file", message=f"{', '.join(wrong)} are not those of its config", where=where)


def tensors_of_kind(run: SubmittedRun, tree: Tree, where: str) -> Iterator[Problem]:
    """Of a base that is not at hand: tensors of the config's kind, and of its number of virtual tokens."""
    adapter = run.config.adapter
    if adapter.kind in VIRTUAL:
        wrong = [name for name, tensor in tree.items() if not _is_prompt(name, tensor, adapter)]
    else:
        part = {"ia3": ".ia3_l", "bottleneck": ".adapter_"}[adapter.kind]
        wrong = [name for name in tree if part not in name]
    if wrong or not tree:
        text = f"its tensors are not those of {adapter.in_words}, as {(wrong or ['there are none'])[0][:80]!a}"
        yield Problem(code="adapter-file", message=text, where=where)


def _is_prompt(name: str, tensor: Tensor, adapter: AdapterKind) -> bool:
    return name == PROMPT and tensor.ndim == 2 and len(tensor) == adapter.num_tokens
