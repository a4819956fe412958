"""The base model that IFD is measured by: which one, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedllm_bench.config import base_model, presets
from fedllm_bench.config.preflight import model_available
from fedllm_bench.config.run import EMBEDDED_MODEL, Lora, Model
from fedllm_bench.data.manifest import Split
from fedllm_bench.data.templates.sources import source_for
from fedllm_bench.diversity.quality.ifd import Reader
from fedllm_bench.training.model.limits import context_of
from fedllm_bench.training.model.lora_model import LoraModel, load_model

MAX_TOKENS = 2048  # of prompt and response; fewer where the model has fewer places
BATCH_TOKENS = {"cpu": 8192, "cuda": 16384}
ANY_LORA = Lora(rank=1, alpha=1, dropout=0.0, targets=("all-linear",))  # for adapters that nobody will attach
SMALL = "the embedded mini model, which has read nothing but the mini world: its IFD of other rows says little"


@dataclass(frozen=True)
class QualityModel:
    """`note` says what to think of its numbers on this split; "" where there is nothing to say."""

    name: str
    template: str
    note: str = ""


def is_embedded(split: Split) -> bool:
    """Whether its rows are of the embedded mini world."""
    return split.name.startswith("mini-")


def quality_model(split: Split, name: str | None, device: str) -> QualityModel:
    """The model of this name; without one the base of the data set's published setting, where there is a GPU and it is
    at hand, and otherwise the embedded model. Nothing is fetched for a default."""
    is_mini = is_embedded(split)
    dataset = split.manifest.dataset
    published = presets.load(dataset, "fedavg", "paper") if dataset in presets.every_dataset() else None
    if name is None and not is_mini and published and device == "cuda" and model_available(published.model.name):
        name = published.model.name
    if name in (None, EMBEDDED_MODEL):
        return QualityModel(EMBEDDED_MODEL, "mini", "" if is_mini else SMALL)
    return QualityModel(str(name), published.data.template if published else "alpaca")


def open_reader(chosen: QualityModel, device: str) -> Reader:
    """Load the model. Raises a :class:`UserError` where there is none of that name."""
    dtype = _dtype(chosen.name, device)
    model = load_model(Model(name=chosen.name, dtype=dtype), ANY_LORA, device)
    return Reader(
        model=model,
        id=f"{base_model.fingerprint(base_model.locate(chosen.name))} {dtype}",
        template=source_for(chosen.template, model.tokenizer, chosen.name),
        max_tokens=_max_tokens(model),
        batch_tokens=BATCH_TOKENS[device],
    )


def _dtype(name: str, device: str) -> Literal["float32", "bfloat16"]:
    if device == "cpu" or name == EMBEDDED_MODEL:
        return "float32"
    import torch

    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def _max_tokens(model: LoraModel) -> int:
    return min(MAX_TOKENS, context_of(model.base) or MAX_TOKENS)
