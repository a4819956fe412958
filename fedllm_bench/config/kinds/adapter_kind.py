"""The section `adapter`: which kind of adapter is trained, and the few settings that a kind needs.

LoRA has a section of its own, `lora.*`, and nothing here. The other kinds have nothing of `lora.*`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from fedllm_bench.config.config_uploads import Communication, Strict
from fedllm_bench.config.sections import Count, Lora, Model, Names

Kind = Literal["lora", "prefix", "prompt", "p_tuning", "ia3", "bottleneck"]

VIRTUAL = ("prefix", "prompt", "p_tuning")  # kinds that put virtual tokens before each sequence
TOKENS, REDUCTION = 20, 16  # FS-LLM's, where none are given
NEEDS: dict[str, tuple[str, ...]] = {  # setting -> the kinds that it belongs to
    "tokens": VIRTUAL,
    "encoder_width": ("p_tuning",),
    "reduction": ("bottleneck",),
    "targets": ("ia3", "bottleneck"),
}
WORDS = {
    "lora": "LoRA",
    "prefix": "prefix tuning",
    "prompt": "prompt tuning",
    "p_tuning": "P-tuning",
    "ia3": "IA3",
    "bottleneck": "bottleneck adapters",
}


@dataclass(frozen=True, kw_only=True)
class AdapterKind(Strict):
    """What is trained beside the frozen base (docs/adapters.md). None is what the kind has by itself.

    `tokens`: virtual tokens (20). `encoder_width`: of P-tuning's encoder (the model's own). `reduction`: how many times
    smaller than what goes through it a bottleneck is (16). `targets`: the layers of ia3 and bottleneck (PEFT's choice).
    """

    kind: Kind = "lora"
    tokens: Count | None = None
    encoder_width: Count | None = None
    reduction: Count | None = None
    targets: Names | None = None

    @property
    def is_lora(self) -> bool:
        return self.kind == "lora"

    @property
    def num_tokens(self) -> int:
        """Virtual tokens before each sequence; 0 for kinds without them."""
        return (self.tokens or TOKENS) if self.kind in VIRTUAL else 0

    @property
    def times_smaller(self) -> int:
        return self.reduction or REDUCTION

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of layers, or the word "auto"."""
        return self.targets or ("auto",)

    @property
    def written(self) -> AdapterKind:
        """The kind of what is left in adapter/: of P-tuning the prompt that its encoder makes, as PEFT saves it."""
        return replace(self, kind="prompt", encoder_width=None) if self.kind == "p_tuning" else self

    @property
    def in_words(self) -> str:
        """ "prefix tuning (20 tokens)"."""
        of_kind = {
            **dict.fromkeys(VIRTUAL, f" ({self.num_tokens} tokens)"),
            "bottleneck": f" (a {self.times_smaller}th)",
        }
        return WORDS[self.kind] + of_kind.get(self.kind, "")


def check_kind(adapter: AdapterKind, model: Model, lora: Lora, communication: Communication, engine: str) -> None:
    """Raise a :class:`ValueError` of one line for settings that the kind of adapter cannot have."""
    for key, kinds in NEEDS.items():
        value = getattr(adapter, key)
        if value is not None and adapter.kind not in kinds:
            shown = ",".join(value) if isinstance(value, tuple) else value
            raise ValueError(
                f"adapter.{key}={shown}: it belongs to adapter.kind={' or '.join(kinds)}, and the kind is "
                f"{adapter.kind}; leave it out"
            )
    if adapter.is_lora:
        return
    if given := [name for name, is_given in _of_lora(model, lora, communication).items() if is_given]:
        raise ValueError(
            f"{given[0]}: it is of LoRA's A and B, and adapter.kind={adapter.kind} has none; leave one of them out"
        )
    if given := [name for name, is_given in _untried(model, engine).items() if is_given]:
        raise ValueError(
            f"{given[0]}: it goes with adapter.kind=lora, and the kind is {adapter.kind}; leave one of them out"
        )


def unused(values: Mapping[str, Any], sources: Mapping[str, str]) -> list[str]:
    """One line for each setting of LoRA that a user gave beside another kind, which would change nothing.

    `values` by dotted key. Presets give settings of LoRA in any case; what they give is read by LoRA alone.
    """
    kind = values.get("adapter.kind", "lora")
    if kind == "lora" or kind not in WORDS:
        return []
    given = [key for key in sources if key.startswith("lora.") and sources[key].startswith("--")]
    return [f"{key} ({sources[key]}): it changes nothing under adapter.kind={kind}; leave it out" for key in given]


def _of_lora(model: Model, lora: Lora, communication: Communication) -> Mapping[str, bool]:
    rule = communication.lora_aggregation
    return {
        "lora.dora=true": lora.dora,
        f"lora.ranks={lora.ranks}": lora.ranks is not None,
        f"communication.lora_aggregation={rule}": rule != "mean",
        "communication.aggregation_error=true": communication.aggregation_error,
    }


def _untried(model: Model, engine: str) -> Mapping[str, bool]:
    """What was made for LoRA's layers, or is not tested with others."""
    return {
        "model.trainable=full": model.trainable == "full",
        f"model.quantization={model.quantization}": model.quantization != "none",
        f"model.device_map={model.device_map}": bool(model.device_map),
        f"engine={engine}": engine == "trl",
    }
